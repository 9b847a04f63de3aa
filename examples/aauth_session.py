"""AAuth with a session: a key in keyd's memory signs the requests, and the issuer key signs a token that binds it, once in a while."""

import os
import sys

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.httpx_auth import KeydAuth

issuer_key, agent_id, url = os.environ["KEYD_ISSUER_KEY"], os.environ["AGENT_ID"], os.environ["RESOURCE_URL"]
try:
    with Client() as client, client.open_session(issuer_key, agent_id) as session:
        http = httpx.Client(auth=KeydAuth(session))
        response = http.post(url, json={"item": 7})
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
print(f"{agent_id} sent a POST to {url}: {response.status_code} {response.text}")
sys.exit(not response.is_success)
