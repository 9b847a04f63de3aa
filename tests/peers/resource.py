"""A resource that verifies with one library what it is sent. Runs in the environment that the library is in, without keyd.

`python -m peers.resource LIBRARY KEYS_URL ISSUER_JWKS_URL` prints two ports. Requests go to /KEY/ALGORITHM/orders. On the first port
they are verified as they came, and once more altered, which must fail; on the second they are altered first, as somebody on the way
would. It answers 200 and what it verified, or 401 and why it did not.
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
from urllib.parse import urlsplit

from requests.structures import CaseInsensitiveDict

from peers.request import Request, Verify
from peers.verifiers import VERIFIERS


class Resource(http.server.ThreadingHTTPServer):
    """One thread for each request. ``tampering`` alters each request before it is verified."""

    daemon_threads = True

    def __init__(self, library: str, keys_url: str, issuer_jwks_url: str, *, tampering: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._make, self._alter = VERIFIERS[library]
        self._urls = keys_url, issuer_jwks_url
        self._tampering = tampering

    def answer(self, request: Request) -> tuple[int, str]:
        key, algorithm = urlsplit(request.url).path.split("/")[1:3]
        verify: Verify = self._make(algorithm, f"{self._urls[0]}/{key}/jwks.json", self._urls[1])
        altered = self._alter(request)
        try:
            said = verify(altered if self._tampering else request)
        except Exception as exc:
            return 401, f"refused: {type(exc).__name__} {exc}"
        try:
            verify(altered)
        except Exception:
            return 200, f"verified {said}"
        return 500, "the request is verified although it was altered"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Resource

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = CaseInsensitiveDict(self.headers.items())
        status, said = self.server.answer(Request(self.command, f"http://{self.headers['host']}{self.path}", headers, body))
        document = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)

    do_POST = do_GET  # noqa: N815 - http.server chooses the name

    def log_message(self, *_: object) -> None: ...


def main(library: str, keys_url: str, issuer_jwks_url: str) -> None:
    servers = [Resource(library, keys_url, issuer_jwks_url, tampering=tampering) for tampering in (False, True)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(*(server.server_port for server in servers), flush=True)
    sys.stdin.read()  # until whoever started this is done


if __name__ == "__main__":
    main(*sys.argv[1:])
