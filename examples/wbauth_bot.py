"""Web Bot Auth with wbauth-sdk: each request of httpx is signed in keyd by a key with the profile web-bot-auth."""

import os
import sys

import httpx

from keyd.client import Client, KeydClientError
from keyd.client.wbauth_auth import KeydWebBotAuth

# allow_insecure is for a try on this machine: without it plain http is sent unsigned
auth = KeydWebBotAuth(Client(), os.environ["KEYD_KEY"], os.environ["SIGNATURE_AGENT"], allow_insecure=True)
try:
    response = httpx.post(os.environ["RESOURCE_URL"], json={"item": 7}, auth=auth)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
print(response.status_code, response.text)
sys.exit(not response.is_success)
