"""keyd itself in the simulated year: the real keyring, signer, rotator, monitor, store and HTTP application, on one clock.

Not real are the backends (memory, which can be switched off) and the clock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import support
from support import FakeClock

from backends.api import Algorithm, PublicKey, StoredKey
from backends.errors import BackendUnavailableError
from backends.memory import MemoryBackend
from keyd.core import jwks
from keyd.core.errors import KeyStateError
from keyd.core.guard import Guard
from keyd.core.keyring import Change
from keyd.core.model import Purpose
from keyd.core.monitor import Monitor
from keyd.core.planner import Rules
from keyd.core.policy import Allowance, Policy
from keyd.core.principal import Principal
from keyd.core.profile import BUILT_IN
from keyd.core.publication import Issuer, Publication
from keyd.core.publication import Rules as PublicationRules
from keyd.core.rates import Rate
from keyd.core.rotator import Rotator
from keyd.core.runner import BackendRunner
from keyd.core.signing import InputKind, Signer
from keyd.core.store import SqlStore
from keyd.service.http import application
from simulation.population import BACKENDS

MAX_AGE = 300.0
_OWNER = Principal(uid=0)
_LEGACY = Issuer("legacy", frozenset({"legacy.sim.example"}), ("*",), "legacy", MAX_AGE)
#: One fetch of so many goes through the HTTP application, and is compared with what else is rendered.
_SAMPLE = 50


class SwitchedBackend(MemoryBackend):
    """Private keys in memory, behind a wire that can be cut. For keyd it is a backend outside of its process."""

    capabilities = replace(MemoryBackend.capabilities, in_process=False)

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def _need(self) -> None:
        if self.away:
            raise BackendUnavailableError("the wire is cut")

    def create(self, name: str, version: int, algorithm: Algorithm) -> str:
        self._need()
        return super().create(name, version, algorithm)

    def list(self) -> Iterable[StoredKey]:
        self._need()
        return super().list()

    def find(self, name: str, version: int) -> str | None:
        self._need()
        return super().find(name, version)

    def public_key(self, handle: str) -> PublicKey:
        self._need()
        return super().public_key(handle)

    def sign(self, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        self._need()
        return super().sign(handle, algorithm, message)

    def destroy(self, handle: str) -> None:
        self._need()
        super().destroy(handle)


@dataclass(frozen=True, slots=True)
class Served:
    """A JWK Set as it went out. ``jose`` is None when none was served."""

    jose: str | None
    legacy: str | None
    max_age: int


@dataclass(frozen=True, slots=True)
class SignedThing:
    """What keyd signed: signing input or base, raw signature, and when it expires."""

    kid: str
    data: bytes
    signature: bytes
    expires: int


class House:
    """One daemon, which can be stopped and started again."""

    def __init__(self, path: Path, clock: FakeClock, rules: Rules, shared: Iterable[tuple[str, ...]] = ()) -> None:
        """``shared`` has the names of keys that have one issuer, and so one JWK Set, together."""
        self.clock = clock
        self._issuers = {name: _issuer_pair(f"issuer-{n}", names) for n, names in enumerate(shared) for name in names}
        self.backends = {name: SwitchedBackend() for name in BACKENDS}
        self.runners = {name: BackendRunner(name, backend, monotonic=clock.now) for name, backend in self.backends.items()}
        self._path = path
        self._rules = rules
        self._fetches = 0
        self.sampled = 0
        #: Every kid that was ever served, with its public key.
        self._seen: dict[str, tuple[str, ...]] = {}
        self.most_keys = 0
        #: Things that must not be, each told once.
        self.faults: list[str] = []
        #: Breaks something in each daemon that was started.
        self.sabotage: Callable[[House], None] = lambda house: None
        self.before_change: Callable[[str], Awaitable[None]] = nothing

    async def start(self) -> None:
        """Start the daemon, on what its store and its backends hold."""
        self.store = SqlStore(self._path)
        self.ring = support.keyring(self.store, self.runners, self.clock)
        await self.ring.start()
        self.monitor = Monitor(self.ring, lambda: asyncio.sleep(0))
        await self.look()
        self.rotator = Rotator(self.ring, self._rules)
        self.sabotage(self)
        self._watch()
        policy = Policy(owners={0}, allowance=Allowance(Rate(1e9, 10**9)))
        self.signer = Signer(self.ring, BUILT_IN, Guard(policy, self.clock, monotonic=self.clock.now))
        issuers = {issuer.name: issuer for pair in self._issuers.values() for issuer in pair} | {_LEGACY.name: _LEGACY}
        self.publication = Publication(self.ring, PublicationRules(MAX_AGE, "jose", issuers))
        self.app = application(self.ring, self.publication, self.monitor)

    def _watch(self) -> None:
        """Have somebody look right before the rotator makes a version: then caches are as fresh as they can be, and lack it."""
        prepare = self.ring.prepare

        async def watched(name: str, activate_at: float, *, newest: int) -> Change:
            await self.before_change(name)
            return await prepare(name, activate_at, newest=newest)

        self.ring.prepare = watched  # type: ignore[method-assign]

    def stop(self) -> None:
        """Stop the daemon. What its backends hold stays."""
        self.store.close()

    def close(self) -> None:
        """End for good."""
        self.stop()
        for runner in self.runners.values():
            runner.close()

    async def look(self) -> None:
        """Have the monitor look at all backends, as it does every few seconds."""
        for name in self.runners:
            await self.monitor.look(name)

    async def sign(self, name: str, kid: str | None, lifetime: float, number: int) -> SignedThing:
        """Sign a token or a request of Web Bot Auth, valid for ``lifetime`` seconds. Raises KeydError."""
        now = int(self.clock.now())
        view = self.ring.snapshot.get(name)
        if Purpose.JWT in view.key.purposes:
            claims = json.dumps({"iss": f"https://{name}.sim.example", "jti": str(number), "iat": now})
            token, signed = await self.signer.sign_jwt(_OWNER, name, claims, typ="JWT", kid=kid, lifetime=lifetime)
            return SignedThing(signed.version.kid, token.rpartition(".")[0].encode(), signed.signature, int(now + lifetime))
        version = view.signer(kid, self.clock.now())
        expires = int(now + lifetime)
        parameters = f'created={now};expires={expires};keyid="{version.record.kid}";alg="ed25519";tag="web-bot-auth"'
        base = (
            f'"@authority": shop.example\n"signature-agent": "https://{name}.sim.example"\n'
            f'"@signature-params": ("@authority" "signature-agent");{parameters}'
        ).encode()
        signed = await self.signer.sign(_OWNER, name, InputKind.SIGNATURE_BASE, base, kid)
        return SignedThing(signed.version.kid, base, signed.signature, expires)

    async def serve(self, name: str) -> Served:
        """Return the JWK Set of a key's issuer as it goes out now, and hold it to what every set must be."""
        self._fetches += 1
        try:
            document, legacy = self._documents(name)
        except KeyStateError:
            return Served(None, None, 0)
        self._check(name, document.body)
        if self._fetches % _SAMPLE == 0 or (name in self._issuers and self._fetches % 5 == 0):
            await self._compare(name, document)
        return Served(document.body.decode(), legacy.body.decode(), document.max_age)

    def _documents(self, name: str) -> tuple[jwks.Document, jwks.Document]:
        pair = self._issuers.get(name)
        if pair is None:
            return self.publication.document(key=name), self.publication.document(key=name, issuer=_LEGACY)
        jose, legacy = pair
        return self.publication.document(issuer=jose), self.publication.document(issuer=legacy)

    def _check(self, name: str, body: bytes) -> None:
        jwks = json.loads(body)["keys"]
        kids = [jwk["kid"] for jwk in jwks]
        self.most_keys = max(self.most_keys, len(kids))
        if not kids or len(set(kids)) != len(kids):
            self.fault(f"the set of {name} is empty or has a kid twice: {kids}")
        for jwk in jwks:
            public = tuple(jwk.get(member, "") for member in ("kty", "crv", "x", "y"))
            if self._seen.setdefault(jwk["kid"], public) != public:
                self.fault(f"kid {jwk['kid']} of {name} names another public key than before")
            if "d" in jwk:
                self.fault(f"the set of {name} has a private key")

    async def _compare(self, name: str, document: jwks.Document) -> None:
        """Fetch the same over HTTP, and compare; that of one key also with what is rendered without a cache."""
        self.sampled += 1
        pair = self._issuers.get(name)
        path, host = ("/.well-known/jwks.json", pair[0].name) if pair else (f"/keys/{name}/jwks.json", "keyd")
        status, headers, body = await get(self.app, path, f"{host}.sim.example")
        control = headers.get(b"cache-control", b"").decode()
        expected = (200, document.body, document.etag, f"public, max-age={document.max_age}")
        if (status, body, headers.get(b"etag", b"").decode(), control) != expected:
            self.fault(f"the set of {name} over HTTP is another: {status} {control} {body!r}")
        if pair is None and jwks.render(self.ring.snapshot, self.clock.now(), max_age=MAX_AGE, name=name) != document:
            self.fault(f"the set of {name} is another than what is rendered anew")

    def fault(self, what: str) -> None:
        """Note what must not be."""
        if len(self.faults) < 50:
            self.faults.append(f"t={self.clock.now():.0f} {what}")


async def nothing(name: str) -> None:
    """Do nothing with a key."""


def _issuer_pair(name: str, keys: tuple[str, ...]) -> tuple[Issuer, Issuer]:
    """Return an issuer of these keys, and its twin that spells ``alg`` as it was spelled before RFC 9864."""
    hosts, old = frozenset({f"{name}.sim.example"}), frozenset({f"{name}-old.sim.example"})
    return Issuer(name, hosts, keys, "jose", MAX_AGE), Issuer(f"{name}-old", old, keys, "legacy", MAX_AGE)


async def get(app: object, path: str, host: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send a GET to an ASGI application and return status, headers and body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", host.encode())],
    }
    start: dict[str, object] = {}
    body: list[bytes] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.append(message.get("body", b""))  # type: ignore[arg-type]

    await app(scope, receive, send)  # type: ignore[operator]
    return start["status"], dict(start["headers"]), b"".join(body)  # type: ignore[return-value, call-overload]
