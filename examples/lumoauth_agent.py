"""The LumoAuth SDK: a signed request that shows an agent token, with the profile lumoauth."""

import os
import sys
import uuid

import requests

from keyd.client import Client, KeydClientError
from keyd.client.lumoauth_client import KeydAAuthClient

client, url, body = Client(), os.environ["RESOURCE_URL"], b'{"item": 7}'


def agent_token(key):
    """Have the agent's issuer key sign a token for the key that signs requests."""
    claims = {
        "iss": os.environ["AGENT_ISSUER"],
        "sub": os.environ["AGENT_ISSUER"],
        "aud": ["https://app.lumoauth.dev"],
        "jti": str(uuid.uuid4()),
        "cnf": {"jkt": key.thumbprint},
    }
    return client.sign_jwt(os.environ["KEYD_ISSUER_KEY"], claims, "agent+jwt", lifetime=3600)


def signed(key):
    agent = KeydAAuthClient(key, os.environ["AGENT_ISSUER"])
    return agent.sign_request("POST", url, body=body, agent_token=agent_token(key))


try:
    headers = client.with_private_key(os.environ["KEYD_KEY"], signed)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = requests.post(url, headers=headers, data=body, timeout=10)
print(response.status_code, response.text)
sys.exit(not response.ok)
