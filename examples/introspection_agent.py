"""AAuth with the library introspection-aauth: the request shows an agent token, and is signed by the key that the token binds."""

import os
import sys
import time
import uuid

import httpx
from introspection_aauth.protocol import httpsig

from keyd.client import Client, KeydClientError
from keyd.client.introspection_keys import KeydSigningKey

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
    shown = httpsig.jwt_key(agent_token(key))
    return httpsig.sign(KeydSigningKey(key), shown, "POST", url, body=b'{"item": 7}', created=int(time.time()))


try:
    headers = client.with_private_key(os.environ["KEYD_KEY"], signed)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = httpx.post(url, headers=headers, content=b'{"item": 7}')
print(response.status_code, response.text)
sys.exit(not response.is_success)
