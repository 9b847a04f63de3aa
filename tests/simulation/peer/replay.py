"""Goes through the recorded year with every verifier, and counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from simulation.peer.libraries import LIBRARIES
from simulation.peer.models import models
from simulation.peer.verifier import Artifact, Jwk, UntrustedError, Verifier, check_signature, decode
from simulation.peer.web import Published, Web

_TOLD = 20


@dataclass
class Count:
    """What became of one verifier.

    Attributes:
        verifications: each found the key in its own cache, or fetched; refusals that were wanted are not among them.
        whole: those that the library did from end to end, one at least for each key version.
        cold: those by a verifier that had just been started.
        fetches: of JWK Sets.
        inside: failures inside of the window that keyd announced.
        outside: other failures.
        revoked: looks at a kid that was compromised.
        trusted: those that found it trusted, inside of the window.
        trusted_outside: and after its end.
    """

    verifications: int = 0
    whole: int = 0
    cold: int = 0
    fetches: int = 0
    inside: int = 0
    outside: int = 0
    revoked: int = 0
    trusted: int = 0
    trusted_outside: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Key:
    lead: float
    algorithm: str


@dataclass(frozen=True, slots=True)
class _Emergency:
    kind: str
    at: float
    announced: dict[str, float]


class Replay:
    """All verifiers, each with one cache."""

    def __init__(self) -> None:
        self.web = Web()
        self.web.rule_time()
        self._fresh: dict[str, Callable[[], Verifier]] = {library.name: _starter(library, self.web) for library in LIBRARIES}
        for number, model in enumerate(models(self.web)):
            self._fresh[model.name] = lambda number=number: models(self.web)[number]
        self._verifiers = {name: start() for name, start in self._fresh.items()}
        self._counts = {name: Count() for name in self._verifiers}
        self._keys: dict[str, _Key] = {}
        self._emergencies: dict[str, list[_Emergency]] = defaultdict(list)
        self._artifacts: dict[int, Artifact] = {}
        self._good: dict[str, set[tuple[int, str]]] = defaultdict(set)
        self._whole: set[tuple[str, str]] = set()

    def result(self) -> dict[str, Any]:
        """Return the counts by verifier."""
        for name, count in self._counts.items():
            count.fetches = self.web.fetches[name]
        return {name: asdict(count) for name, count in self._counts.items()}

    async def take(self, line: dict[str, Any]) -> None:
        """Take one line of the year."""
        if "t" in line:
            await self._look(line)
        elif "artifact" in line:
            self._note(line)
        elif "emergency" in line:
            self._emergencies[line["kid"]].append(_Emergency(line["emergency"], line["at"], line["announced"]))
        else:
            self._keys[line["key"]] = _Key(line["lead"], line["algorithm"])
            self.web.issuers[line["key"]] = Published()

    def _note(self, line: dict[str, Any]) -> None:
        self._artifacts[line["artifact"]] = Artifact(
            line["key"],
            line["form"],
            line["kid"],
            decode(line["data"]),
            decode(line["signature"]),
            line["expires"],
            line["lifetime"],
        )
        for gone in line["drop"]:
            del self._artifacts[gone]
        if len(self._good[line["key"]]) > 100:
            self._good[line["key"]].clear()

    async def _look(self, line: dict[str, Any]) -> None:
        self.web.now = line["t"]
        key, published = self._keys[line["key"]], self.web.issuers[line["key"]]
        published.max_age = line["max_age"]
        if "jose" in line:
            published.jose, published.legacy = (line[n].encode() if line[n] else None for n in ("jose", "legacy"))
        for number, expected, cold in line["checks"]:
            artifact = self._artifacts[number]
            for name, verifier in self._verifiers.items():
                if _suits(verifier, artifact, key):
                    self.web.user = name
                    await self._check(self._fresh[name]() if cold else verifier, number, expected, cold)

    async def _check(self, verifier: Verifier, number: int, expected: str, cold: bool) -> None:
        artifact, count = self._artifacts[number], self._counts[verifier.name]
        count.cold += cold
        error = await self._try(verifier, number, artifact, revoked=expected == "revoked")
        if expected == "revoked":
            count.revoked += 1
            if error is None and self._within(artifact.kid, "revoked", verifier):
                count.trusted += 1
            elif error is None:
                count.trusted_outside += 1
                self._tell(verifier, artifact, "it is trusted still, and was compromised")
            return
        count.verifications += 1
        if error is None:
            return
        if self._within(artifact.kid, "new", verifier):
            count.inside += 1
        else:
            count.outside += 1
            self._tell(verifier, artifact, error)

    async def _try(self, verifier: Verifier, number: int, artifact: Artifact, *, revoked: bool) -> str | None:
        """Return why the verifier refuses something; None if it does not. Of what was revoked, only whether its key is trusted."""
        whole = (verifier.name, artifact.kid)
        try:
            if not revoked and whole not in self._whole:
                await verifier.verify(artifact)
                self._whole.add(whole)
                self._counts[verifier.name].whole += 1
                return None
            jwk = await verifier.key(artifact.key, artifact.kid)
            if not revoked:
                self._check_signature(jwk, number, artifact)
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}"
        return None

    def _check_signature(self, jwk: Jwk, number: int, artifact: Artifact) -> None:
        """Verify a signature, which with one public key need not be done twice."""
        if artifact.expires <= self.web.now:
            raise UntrustedError("it is expired")
        known = self._good[artifact.key]
        if (number, jwk["x"]) not in known:
            check_signature(jwk, artifact)
            known.add((number, jwk["x"]))

    def _within(self, kid: str, kind: str, verifier: Verifier) -> bool:
        """Say whether keyd announced of an emergency that it lasts until now: what it said of this verifier, else its own time."""
        own = verifier.learns if kind == "new" else verifier.forgets
        for emergency in self._emergencies.get(kid, ()):
            lasts = own if verifier.known_as is None else emergency.announced.get(verifier.known_as, 0.0)
            if emergency.kind == kind and emergency.at <= self.web.now <= emergency.at + lasts:
                return True
        return False

    def _tell(self, verifier: Verifier, artifact: Artifact, what: str) -> None:
        failures = self._counts[verifier.name].failures
        if len(failures) < _TOLD:
            failures.append(f"t={self.web.now:.0f} {verifier.name}: key {artifact.key}, kid {artifact.kid}: {what}")


def _suits(verifier: Verifier, artifact: Artifact, key: _Key) -> bool:
    """Say whether a verifier takes things of that kind, and is one that the key's publish lead is meant for."""
    takes = artifact.form in verifier.forms and key.algorithm in verifier.algorithms and artifact.lifetime <= verifier.longest
    return takes and verifier.learns <= key.lead


def _starter(library: Callable[[Web], Verifier], web: Web) -> Callable[[], Verifier]:
    return lambda: library(web)
