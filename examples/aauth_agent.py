"""AAuth with the library aauth: the request shows an agent token, and is signed by the key that the token binds."""

import os
import sys
import uuid

import httpx
from aauth import AgentRequestSigner

from keyd.client import Client, KeydClientError

client, url = Client(), os.environ["RESOURCE_URL"]


def agent_token(key):
    """Have the agent provider's key sign a token for ours. Where the provider is another party, ask it for one instead."""
    claims = {
        "iss": os.environ["AGENT_ISSUER"],
        "dwk": "aauth-agent.json",
        "sub": os.environ["AGENT_ID"],
        "jti": str(uuid.uuid4()),
        "cnf": {"jwk": key.jwk},
    }
    return client.sign_jwt(os.environ["KEYD_ISSUER_KEY"], claims, "aa-agent+jwt", lifetime=3600)


def signed(key):
    return AgentRequestSigner(key, agent_token=agent_token(key)).sign_request("GET", url, {})


try:
    headers = client.with_private_key(os.environ["KEYD_KEY"], signed)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = httpx.get(url, headers=headers)
print(response.status_code, response.text)
sys.exit(not response.is_success)
