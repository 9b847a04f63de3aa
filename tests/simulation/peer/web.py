"""The clock that the libraries see, and the web that they fetch from: what keyd served at that moment of the simulated year."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DOMAIN = ".sim.example"
METADATA = "/.well-known/aauth-agent.json"
DIRECTORY = "/.well-known/http-message-signatures-directory"


@dataclass(slots=True)
class Published:
    """What keyd serves for one issuer now. ``jose`` and ``legacy`` are the two spellings of ``alg``; None: it answers 503."""

    jose: bytes | None = None
    legacy: bytes | None = None
    max_age: int = 0


@dataclass
class Web:
    """All issuers. ``now`` is the time of the simulated year; ``user`` is the verifier whose turn it is."""

    now: float = 0.0
    user: str = ""
    issuers: dict[str, Published] = field(default_factory=dict)
    fetches: Counter[str] = field(default_factory=Counter)

    def clock(self) -> float:
        return self.now

    def get(self, url: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a GET. Returns status, headers and body."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        published = self.issuers.get(host.removesuffix(DOMAIN))
        if published is None:
            return 404, {}, b"no such key\n"
        if parts.path == METADATA:
            metadata = {"issuer": f"https://{host}", "jwks_uri": f"https://{host}/jwks.json"}
            return 200, {"content-type": "application/json"}, json.dumps(metadata).encode()
        self.fetches[self.user] += 1
        body = published.legacy if parts.path == "/legacy.json" else published.jose
        if body is None:
            return 503, {"retry-after": "5"}, b"nothing is published now\n"
        return 200, {"content-type": "application/jwk-set+json", "cache-control": f"public, max-age={published.max_age}"}, body

    def rule_time(self) -> None:
        """Let everything in this process see the simulated time. The libraries look both clocks up where they use them."""
        time.time = self.clock  # type: ignore[assignment]
        time.monotonic = self.clock  # type: ignore[assignment]


def issuer(key: str) -> str:
    """Return the origin of the issuer of a key."""
    return f"https://{key}{DOMAIN}"
