"""A token of joserfc, signed in keyd by a key with purpose jwt, and shown to a resource."""

import os
import sys
import time

import httpx
from joserfc import jwt

from keyd.client import Client, KeydClientError
from keyd.client.joserfc_keys import keyd_key

client, name = Client(), os.environ["KEYD_KEY"]
now = int(time.time())
claims = {"iss": "https://agent.example", "aud": "https://shop.example", "iat": now, "exp": now + 300}
try:
    algorithm = client.key_info(name).jose_algorithm
    bearer = jwt.encode({"alg": algorithm}, claims, keyd_key(client, name), algorithms=[algorithm])  # puts the kid in
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = httpx.get(os.environ["RESOURCE_URL"], headers={"Authorization": f"Bearer {bearer}"})
print(response.status_code, response.text)
sys.exit(not response.is_success)
