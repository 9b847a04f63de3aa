"""A request of requests, signed in keyd."""

import os
import sys

import requests

from keyd.client import Client, KeydClientError
from keyd.client.requests_auth import KeydAuth

auth = KeydAuth(Client(), os.environ["KEYD_KEY"])
try:
    response = requests.post(os.environ["RESOURCE_URL"], json={"item": 7}, auth=auth, allow_redirects=False, timeout=10)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
print(response.status_code, response.text)
sys.exit(not response.ok)
