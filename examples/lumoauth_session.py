"""LumoAuth with a session: requests as its SDK sends them, with the agent token in Agent-Auth."""

import os
import sys

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.httpx_auth import KeydAuth

issuer_key, agent_id, url = os.environ["KEYD_ISSUER_KEY"], os.environ["AGENT_ID"], os.environ["RESOURCE_URL"]
try:
    with Client() as client, client.open_session(issuer_key, agent_id, kind="lumoauth") as session:
        response = httpx.post(url, json={"request_type": "auth"}, auth=KeydAuth(session))
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
print(f"{agent_id} sent a POST to {url}: {response.status_code} {response.text}")
sys.exit(not response.is_success)
