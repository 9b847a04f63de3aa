"""http-message-signatures itself: it prepares a signature base, keyd signs that, it applies the signature."""

import os
import sys

import requests
from http_message_signatures import HTTPMessageSigner, PreparedSignature

from keyd.client import Client, KeydClientError, KeyInfo
from keyd.client.message_signatures import ALGORITHMS

client, key = Client(), os.environ["KEYD_KEY"]
request = requests.Request("GET", os.environ["RESOURCE_URL"]).prepare()
signer = HTTPMessageSigner(signature_algorithm=ALGORITHMS[client.key_info(key).http_algorithm])
prepared: list[PreparedSignature] = []


def build(info: KeyInfo) -> bytes:
    assert info.active is not None
    prepared.append(signer.prepare(request, key_id=info.active.kid, covered_component_ids=("@method", "@authority", "@path")))
    return prepared[-1].signature_base


try:
    signed, _ = client.sign_rebuilding(key, build)  # calls build again when the key was rotated in between
except KeydClientError as refusal:
    sys.exit(f"keyd signed nothing: {refusal}")
signer.apply(request, prepared[-1], signed.signature)
with requests.Session() as session:
    response = session.send(request, timeout=10, allow_redirects=False)
print(response.status_code, response.text)
sys.exit(not response.ok)
