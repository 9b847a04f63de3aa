"""A session with the library aauth-signing, which signs the request and shows the token."""

import os
import sys

import httpx
from aauth_signing import sign_request

from keyd.client import Client, KeydClientError

issuer_key, agent_id, url = os.environ["KEYD_ISSUER_KEY"], os.environ["AGENT_ID"], os.environ["RESOURCE_URL"]


def signed(key, info):
    return sign_request("GET", url, {}, None, key, sig_scheme="jwt", jwt=info.token)


try:
    with Client() as client, client.open_session(issuer_key, agent_id) as session:
        headers = session.with_private_key(signed)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = httpx.get(url, headers=headers)
print(f"{agent_id} sent a request to {url}: {response.status_code} {response.text}")
sys.exit(not response.is_success)
