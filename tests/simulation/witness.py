"""Has keyd sign at every look, keeps what was signed until it expires, and writes down what verifiers are to look at."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from keyd.core.errors import BackendUnavailableError, KeyStateError
from keyd.core.model import Key, Purpose
from keyd.core.snapshot import KeyView, VersionView
from simulation.house import House, Served, SignedThing

#: For how long what keyd signs is valid: as long as its profiles allow, and of requests also what wbauth-sdk takes at most.
_LONGEST, _SHORT = 86400.0, 3600.0
_SAMPLE = 20  # of so many things one is looked at right before it expires, besides all that were signed at the last moment
_TRUST_LOOKS = 90_000.0  # seconds for which somebody looks whether a compromised kid is trusted still


@dataclass(slots=True)
class _Held:
    """Something signed that is verified at every look until it expires."""

    number: int
    thing: SignedThing


class Witness:
    """Writes the lines of :mod:`simulation.peer`."""

    def __init__(self, house: House, emit: Callable[[dict[str, object]], None], look_at: Callable[[str, float], None]) -> None:
        """``look_at`` has somebody look at a key at a time, in seconds since the epoch."""
        self._house = house
        self._look_at = look_at
        self._emit = emit
        self._number = 0
        #: By key, then version and asked lifetime: the newest, which expires last.
        self._held: dict[str, dict[tuple[int, float], _Held]] = defaultdict(dict)
        self._revoked: dict[str, dict[str, float]] = defaultdict(dict)
        self._told: dict[str, Served] = {}
        self.counts: Counter[str] = Counter()

    def born(self, key: Key, kid: str) -> None:
        """Note a key that is made."""
        lead = key.lifecycle.publish_lead
        self._emit({"key": key.name, "lead": lead, "algorithm": key.algorithm.value})

    def emergency(self, kind: str, key: str, kid: str, announced: Mapping[str, float]) -> None:
        """Note that not everybody knows of a kid that is new, or that another is not to be trusted.

        ``announced`` is for how many seconds, by the names of the verifiers that keyd knows.
        """
        now = self._house.clock.now()
        self.counts[f"emergencies, {kind} kid"] += 1
        if kind == "revoked":
            self._revoked[key][kid] = now
        self._emit({"key": key, "emergency": kind, "kid": kid, "at": now, "announced": announced})

    async def look(self, name: str, lacking: AbstractSet[str]) -> None:
        """Sign what can be signed now, and have everybody verify that and all that is valid still."""
        now = self._house.clock.now()
        view = self._house.ring.snapshot.keys.get(name)
        if view is None:
            return
        await self._sign(view, now, lacking)
        checks = self._checks(name, now)
        served = await self._house.serve(name)
        if served.jose is None and any(expected == "valid" for _, expected, _ in checks):
            self._house.fault(f"nothing is served for {name}, and something that it signed is valid")
        line: dict[str, object] = {"t": now, "key": name, "max_age": served.max_age, "checks": checks}
        told = self._told.get(name)
        if told is None or (told.jose, told.legacy) != (served.jose, served.legacy):
            line |= {"jose": served.jose, "legacy": served.legacy}
            self._told[name] = served
        self.counts["looks"] += 1
        self.counts["checks"] += len(checks)
        self._emit(line)

    def _checks(self, name: str, now: float) -> list[tuple[int, str, bool]]:
        """Return what to look at: the number of the thing, what is expected, and whether by a verifier that just started."""
        checks: list[tuple[int, str, bool]] = []
        for slot, held in list(self._held[name].items()):
            kid = held.thing.kid
            since = self._revoked[name].get(kid)
            if since is not None:
                if now <= since + _TRUST_LOOKS:
                    checks.append((held.number, "revoked", False))
                else:
                    del self._held[name][slot]
            elif held.thing.expires > now:
                last = held.thing.expires - now <= 1
                checks.append((held.number, "valid", False))
                if last:
                    checks.append((held.number, "valid", True))
                    self.counts["things verified right before they expire"] += 1
        return checks

    async def _sign(self, view: KeyView, now: float, lacking: AbstractSet[str]) -> None:
        enabled = view.key.disabled_at is None
        active = view.active(now)
        if enabled and active is None and view.key.name not in lacking:
            self._house.fault(f"no version of {view.key.name} is active")
        for version in view.versions if enabled else ():
            if version.record.timeline.signs(now):
                for longest in (_LONGEST,) if Purpose.JWT in view.key.purposes else (_LONGEST, _SHORT):
                    await self._sign_with(view, version, now, longest, named=version is not active)

    async def _sign_with(self, view: KeyView, version: VersionView, now: float, longest: float, *, named: bool) -> None:
        """Sign with a version for as long as it may, unless what it signed before lasts long enough."""
        name, record = view.key.name, version.record
        held = self._held[name].get((record.version, longest))
        last_chance = record.timeline.sign_until - now <= 1
        if held is not None and held.thing.expires > now + longest / 24 and not last_chance:
            return
        lifetime = min(longest, record.timeline.publication_ends(now, view.key.lifecycle) - now)
        try:
            thing = await self._house.sign(name, record.kid if named else None, lifetime, self._number)
        except BackendUnavailableError:
            self.counts["not signed, the backend was away"] += 1
            return
        except KeyStateError as exc:
            self._house.fault(f"{name} does not sign: {exc}")
            return
        self.counts["signed"] += 1
        if thing.kid != record.kid:
            self._house.fault(f"{name} signed with {thing.kid}, and {record.kid} was asked for")
        self._note(name, (record.version, longest), thing)
        if last_chance or self.counts["signed"] % _SAMPLE == 0:
            self._look_at(name, thing.expires - 1)

    def _note(self, name: str, slot: tuple[int, float], thing: SignedThing) -> None:
        self._number += 1
        before = self._held[name].get(slot)
        self._held[name][slot] = _Held(self._number, thing)
        self._emit(
            {
                "artifact": self._number,
                "key": name,
                "form": "wba" if thing.data.startswith(b'"') else "jwt",
                "kid": thing.kid,
                "data": _b64url(thing.data),
                "signature": _b64url(thing.signature),
                "expires": thing.expires,
                "lifetime": thing.expires - int(self._house.clock.now()),
                "drop": [] if before is None else [before.number],
            }
        )


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
