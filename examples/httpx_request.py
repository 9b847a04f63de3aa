"""A request of httpx, signed in keyd."""

import os
import sys

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.httpx_auth import KeydAuth

http = httpx.Client(auth=KeydAuth(Client(), os.environ["KEYD_KEY"]))
try:
    response = http.post(os.environ["RESOURCE_URL"], json={"item": 7})
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
print(response.status_code, response.text)
sys.exit(not response.is_success)
