"""A session with the SDK of LumoAuth, which signs the request and shows the token."""

import os
import sys

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.lumoauth_client import KeydAAuthClient

issuer_key, agent_id, url = os.environ["KEYD_ISSUER_KEY"], os.environ["AGENT_ID"], os.environ["RESOURCE_URL"]
body = b'{"request_type": "auth"}'


def signed(key, info):
    return KeydAAuthClient(key, agent_id).sign_request("POST", url, body=body, agent_token=info.token)


try:
    with Client() as client, client.open_session(issuer_key, agent_id, kind="lumoauth") as session:
        headers = session.with_private_key(signed)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = httpx.post(url, content=body, headers=headers)
print(f"{agent_id} sent a request to {url}: {response.status_code} {response.text}")
sys.exit(not response.is_success)
