"""AAuth with a sub-agent: it has a session of its own, with a key and a token of its own, which end with those of its parent."""

import os
import sys

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.httpx_auth import KeydAuth

issuer_key, agent_id, url = os.environ["KEYD_ISSUER_KEY"], os.environ["AGENT_ID"], os.environ["RESOURCE_URL"]
local, _, domain = agent_id.partition("@")
try:
    with Client() as client, client.open_session(issuer_key, agent_id) as session:
        buyer = session.open_sub_agent(f"{local}+buyer@{domain}")
        response = httpx.get(url, auth=KeydAuth(buyer))
        print(f"{buyer.subject}, sub-agent of {session.subject}, sent a GET to {url}: {response.status_code} {response.text}")
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
sys.exit(not response.is_success)
