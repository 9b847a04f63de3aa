"""`python -m sessions.peer LIBRARY KEYD PROVIDER [ORIGIN [CLOCK]]`: a resource that verifies every request with a library.

It prints its port. ``KEYD`` is the URL of keyd's HTTP endpoint, ``PROVIDER`` the agent provider that it trusts, ``ORIGIN`` its own, by
default where it listens, and ``CLOCK`` the file of the clock that all go by. It answers 200 and who sent the request, or 401 and why not;
GET /.counts is not verified and says how many of each there were. It ends with its standard input.
"""

from __future__ import annotations

import http.server
import json
import logging
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from sessions.clock import SharedClock
from sessions.peer.libraries import LIBRARIES
from sessions.peer.request import RefusedError, Request, Web


class Resource(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, library: str, keyd: str, provider: str, origin: str = "", clock: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if clock:
            time.time = SharedClock(Path(clock)).now
        self.origin = origin or f"http://127.0.0.1:{self.server_port}"
        self.web = Web(keyd)
        self.library = LIBRARIES[library](self.web, time.time, provider)
        self.counts: Counter[str] = Counter()

    def answer(self, request: Request) -> tuple[int, dict[str, str]]:
        try:
            found = self.library.verify(request)
        except RefusedError as exc:
            self.counts["refused"] += 1
            return 401, {"error": str(exc)}
        self.counts["verified"] += 1
        return 200, {"agent": found.agent, "token": found.token}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Resource
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))) or None
        if self.path == "/.counts":
            self._send(200, {**self.server.counts, "fetches": self.server.web.fetches.total()})
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(*self.server.answer(Request(self.command, self.server.origin + self.path, headers, body)))

    do_POST = do_PUT = do_GET  # noqa: N815 - http.server chooses the names

    def _send(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    resource = Resource(*sys.argv[1:])
    threading.Thread(target=resource.serve_forever, daemon=True).start()
    print(resource.server_port, flush=True)
    sys.stdin.read()
