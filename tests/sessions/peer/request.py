"""What arrives at a resource, and where it finds the keys of agent providers."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

METADATA = "/.well-known/aauth-agent.json"
JWKS = "/.well-known/jwks.json"


class RefusedError(Exception):
    """The library does not accept the request."""


@dataclass(frozen=True)
class Request:
    """A request as the resource takes it: ``url`` begins with its own origin, whatever ``Host`` says."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True)
class Verified:
    """Who sent it, and the token that said so."""

    agent: str
    token: str


class Web:
    """The web of the libraries: every host is keyd's HTTP endpoint, which knows them by the field ``Host``, as behind a TLS proxy."""

    def __init__(self, keyd: str) -> None:
        self._keyd = urlsplit(keyd).netloc
        self._metadata: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self.fetches: Counter[str] = Counter()

    def get(self, url: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a GET. Returns status, headers and body."""
        parts = urlsplit(url)
        assert parts.scheme == "https", url
        with self._lock:
            if parts.path == METADATA and parts.netloc in self._metadata:  # a library here asks for it with every request
                return 200, {"content-type": "application/json"}, self._metadata[parts.netloc]
            self.fetches[parts.path] += 1
            status, headers, body = self._fetch(parts.netloc, parts.path)
            if parts.path == METADATA and status == 200:
                self._metadata[parts.netloc] = body
            return status, headers, body

    def _fetch(self, host: str, path: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._keyd, timeout=10)
        try:
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()
