"""The resource of the demo: an HTTP server that knows one URL, that of a JWK Set.

It verifies with ``http-message-signatures`` and PyCA alone, as a stranger would. It fetches the set when its copy is older than
the max-age that came with it, and never because of a kid that it does not know: the strictest cache there is.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import urllib.request
from base64 import b64encode, urlsafe_b64decode
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, InvalidSignature, algorithms

_ALGORITHMS = {"Ed25519": algorithms.ED25519, "ES256": algorithms.ECDSA_P256_SHA256}
_PublicKey = Ed25519PublicKey | EllipticCurvePublicKey


def _public_key(jwk: dict[str, str]) -> _PublicKey:
    x, y = (urlsafe_b64decode(jwk.get(member, "") + "==") for member in ("x", "y"))
    if jwk["kty"] == "OKP":
        return Ed25519PublicKey.from_public_bytes(x)
    return EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), SECP256R1()).public_key()


class JwksCache(HTTPSignatureKeyResolver):
    """Keys by kid, from a JWK Set that is kept for its max-age."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, _PublicKey] = {}
        self._fresh_until = 0.0

    def resolve_public_key(self, key_id: str) -> _PublicKey:
        """Return the public key of a kid. Raises InvalidSignature when the set does not have it."""
        if time.monotonic() >= self._fresh_until:
            with urllib.request.urlopen(self._url, timeout=5) as response:  # noqa: S310 - the URL is ours
                max_age = int(response.headers["Cache-Control"].rpartition("max-age=")[2])
                keys = json.load(response)["keys"]
            self._keys = {jwk["kid"]: _public_key(jwk) for jwk in keys}
            self._fresh_until = time.monotonic() + max_age
        if key_id not in self._keys:
            raise InvalidSignature(f"unknown kid {key_id}")
        return self._keys[key_id]

    def resolve_private_key(self, key_id: str) -> Any:
        """Refuse: a resource signs nothing."""
        raise InvalidSignature("a resource holds no private key")


class _Message:
    """A request in the shape that the verifying library reads."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method = handler.command
        self.url = f"http://{handler.headers['Host']}{handler.path}"
        self.headers = dict(handler.headers.items())


def serve(jwks_url: str, algorithm: str) -> None:
    """Print the port, then serve until the process is ended. ``algorithm`` is the JOSE name of the one that is accepted."""
    verifier = HTTPMessageVerifier(signature_algorithm=_ALGORITHMS[algorithm], key_resolver=JwksCache(jwks_url))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Answer 200 with the kid to a request that verifies, 401 to any other."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                results = verifier.verify(_Message(self), max_age=timedelta(seconds=60))
                digest = f"sha-256=:{b64encode(hashlib.sha256(body).digest()).decode()}:"
                covered = results[0].covered_components
                if covered.get('"content-digest"') != digest:
                    raise InvalidSignature("the body is not the one that was signed")
                for component in ('"@method"', '"@authority"', '"@path"'):
                    if component not in covered:
                        raise InvalidSignature(f"{component} is not covered")
                status, answer = 200, {"verified": True, "kid": results[0].parameters["keyid"]}
            except Exception as exc:  # noqa: BLE001 - whatever a stranger sends, the answer is 401
                status, answer = 401, {"verified": False, "error": str(exc) or type(exc).__name__}
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Keep quiet; the agent reports."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)  # noqa: T201 - the conductor reads it
    server.serve_forever()


if __name__ == "__main__":
    serve(*sys.argv[1:])
