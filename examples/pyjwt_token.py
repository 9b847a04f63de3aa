"""A token of PyJWT, signed in keyd by a key with purpose jwt, and shown to a resource."""

import os
import sys
import time

import jwt
import requests

from keyd.client import Client, KeydClientError

ALGORITHMS = {"Ed25519": "EdDSA"}  # PyJWT knows it by its older name only


def token(key):
    now = int(time.time())
    claims = {"iss": "https://agent.example", "aud": "https://shop.example", "iat": now, "exp": now + 300}
    algorithm = ALGORITHMS.get(key.jose_algorithm, key.jose_algorithm)
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": key.kid})


try:
    bearer = Client().with_private_key(os.environ["KEYD_KEY"], token)
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
response = requests.get(os.environ["RESOURCE_URL"], headers={"Authorization": f"Bearer {bearer}"}, timeout=10)
print(response.status_code, response.text)
sys.exit(not response.ok)
