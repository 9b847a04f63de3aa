"""regent-httpsig: as an AAuth agent where there is a key that signs agent tokens, else as a Web Bot Auth agent."""

import os
import sys
import uuid

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.regent_signers import KeydEgressSigner

client, url, issuer = Client(), os.environ["RESOURCE_URL"], os.environ["AGENT_ISSUER"]
signer = KeydEgressSigner(client, os.environ["KEYD_KEY"], signature_agent=issuer)


def agent_token(key):
    """Have the agent provider's key sign a token for ours. Where the provider is another party, ask it for one instead."""
    claims = {
        "iss": issuer,
        "dwk": "aauth-agent.json",
        "sub": os.environ["AGENT_ID"],
        "jti": str(uuid.uuid4()),
        "cnf": {"jwk": key.jwk},
    }
    return client.sign_jwt(os.environ["KEYD_ISSUER_KEY"], claims, "aa-agent+jwt", lifetime=3600)


try:
    aauth = "KEYD_ISSUER_KEY" in os.environ
    headers = signer.sign_aauth("GET", url, token=agent_token) if aauth else signer.sign("GET", url)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = httpx.get(url, headers=headers)
print(response.status_code, response.text)
sys.exit(not response.is_success)
