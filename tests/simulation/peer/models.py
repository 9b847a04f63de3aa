"""Models of verifiers whose libraries are not here: caches with the rules that were measured, and nothing else.

They verify real signatures. What they model is only when they fetch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from typing import Any

from joserfc import jws
from joserfc.jwk import KeySet

from simulation.peer.verifier import Artifact, Jwk, UntrustedError, check_signature
from simulation.peer.web import Web, issuer

_SERVED = 300.0  # the max-age of keyd's sets in the year


@dataclass(slots=True)
class _Held:
    until: float
    fetched: float
    keys: dict[str, Jwk]


class Model:
    """A cache of JWK Sets.

    Args:
        lifetime: how long a set is kept; None: as long as ``Cache-Control`` says.
        refetch: for a kid that is not there, a set is fetched again when the last fetch was so many seconds ago; None: never.
        cdn: it fetches through a shared cache that keeps what ``Cache-Control`` allows, and tells nobody how old it is.
    """

    forms = frozenset({"jwt", "wba"})
    algorithms = frozenset({"Ed25519", "ES256"})
    longest = inf

    def __init__(
        self,
        name: str,
        web: Web,
        *,
        lifetime: float | None,
        refetch: float | None,
        cdn: bool = False,
        known_as: str | None = None,
    ) -> None:
        self.name = name
        self.known_as = known_as
        self._web = web
        self._lifetime = lifetime
        self._refetch = refetch
        self._cdn: dict[str, tuple[float, int, bytes]] | None = {} if cdn else None
        self._held: dict[str, _Held] = {}
        kept = _SERVED if lifetime is None else lifetime
        self.forgets = kept + (_SERVED if cdn else 0.0)
        self.learns = self.forgets if refetch is None else refetch + (_SERVED if cdn else 0.0)

    async def key(self, key: str, kid: str) -> Jwk:
        held = self._held.get(key)
        if held is None or held.until <= self._web.now:
            held = self._load(key)
        if kid not in held.keys and self._refetch is not None and self._web.now - held.fetched >= self._refetch:
            held = self._load(key)
        if kid not in held.keys:
            raise UntrustedError(f"kid {kid!r} is not in the set that was fetched {self._web.now - held.fetched:g} s ago")
        return held.keys[kid]

    async def verify(self, artifact: Artifact) -> None:
        check_signature(await self.key(artifact.key, artifact.kid), artifact)

    def _load(self, key: str) -> _Held:
        now = self._web.now
        max_age, body = self._fetch(key)
        jwks = json.loads(body)["keys"]
        # Web Bot Auth names a key by its thumbprint, and these keys have no other kid.
        held = _Held(now + (max_age if self._lifetime is None else self._lifetime), now, {jwk["kid"]: jwk for jwk in jwks})
        self._held[key] = held
        return held

    def _fetch(self, key: str) -> tuple[int, bytes]:
        if self._cdn is not None and key in self._cdn and self._cdn[key][0] > self._web.now:
            return self._cdn[key][1:]
        status, headers, body = self._web.get(issuer(key) + "/jwks.json")
        if status != 200:
            raise UntrustedError(f"the JWK Set answered {status}")
        max_age = int(headers["cache-control"].rpartition("=")[2])
        if self._cdn is not None:
            self._cdn[key] = (self._web.now + max_age, max_age, body)
        return max_age, body


class Joserfc(Model):
    """joserfc has no cache of its own: a plain one in front of it that does what ``Cache-Control`` says. joserfc verifies."""

    forms = frozenset({"jwt"})

    def __init__(self, web: Web) -> None:
        super().__init__("joserfc, Cache-Control", web, lifetime=None, refetch=None)

    async def verify(self, artifact: Artifact) -> None:
        jwk = await self.key(artifact.key, artifact.kid)
        keys: Any = KeySet.import_key_set({"keys": [jwk]})
        jws.deserialize_compact(artifact.token, keys, algorithms=["Ed25519", "ES256"])


def models(web: Web) -> list[Model]:
    """Return one of each."""
    return [
        Joserfc(web),
        Model("model: AAuth's ceiling, 24 h", web, lifetime=86400, refetch=60, known_as="AAuth by its draft"),
        Model("model: 24 h, never refetches", web, lifetime=86400, refetch=None),
        Model("model: 300 s behind a CDN", web, lifetime=300, refetch=None, cdn=True),
        Model("model: Cache-Control behind a CDN", web, lifetime=None, refetch=None, cdn=True),
    ]
