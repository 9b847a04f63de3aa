"""A fake of the one endpoint of the Kubernetes API that Vault's Kubernetes login asks: TokenReview."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeTokenReview:
    """Knows one service account by one token, and counts how often it is asked."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.reviews = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.reviews += 1
                known = review["spec"]["token"] == fake.token
                user = {"username": "system:serviceaccount:agents:keyd", "uid": "4711", "groups": []}
                status = {"authenticated": True, "user": user} if known else {"authenticated": False, "error": "unknown token"}
                content = json.dumps(review | {"status": status}).encode()
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def fake_token_review(token: str) -> Iterator[FakeTokenReview]:
    fake = FakeTokenReview(token)
    try:
        yield fake
    finally:
        fake.close()


def service_account_token() -> str:
    """Return what looks like a service account's token; only the fake knows whether it is good."""
    parts = (
        {"alg": "RS256"},
        {
            "sub": "system:serviceaccount:agents:keyd",
            "kubernetes.io": {"namespace": "agents", "serviceaccount": {"name": "keyd", "uid": "4711"}},
        },
    )
    header, claims = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{header}.{claims}.c2lnbmF0dXJl"
