"""The short way of signing against the long one: whatever was asked before and whatever changed between two calls, they say and record the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from random import Random
from typing import Any, TypeVar

import pytest
from guarded import GRANTS, SHOP, RecordedAudit
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support import START, FakeClock, keyring, memory_backend, new_key

from backends.api import Algorithm
from keyd.core import jwk, signature_base
from keyd.core.decision import Decision
from keyd.core.errors import KeydError
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.model import KeyVersion, Purpose
from keyd.core.policy import Allowance, Policy
from keyd.core.principal import Principal
from keyd.core.profile import BUILT_IN
from keyd.core.rates import Rate
from keyd.core.runner import BackendRunner
from keyd.core.signing import InputKind, Signed, Signer
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.store import SqlStore
from keyd.core.timeline import Timeline

T = TypeVar("T")
NAMES = ("shop-1", "shop-2", "other", "shop-none")
KIDS = ("k-1", "k-2", "k-3")
PRINCIPALS = (SHOP, replace(SHOP), replace(SHOP, pid=8), Principal(uid=4), Principal(uid=0))
STRICT = replace(
    BUILT_IN["rfc9421"],
    required_components=("@authority",),
    required_parameters=frozenset({"created", "tag"}),
    tag="web-bot-auth",
    keyid_is_thumbprint=True,
)
PROFILES = (
    BUILT_IN,
    dict(BUILT_IN),
    BUILT_IN | {"rfc9421": STRICT},
    BUILT_IN | {"rfc9421": replace(BUILT_IN["rfc9421"], required_components=("@query",))},
    BUILT_IN | {"rfc9421": replace(BUILT_IN["rfc9421"], unsigned_parameters=True)},
    {},
)
SHOPS = GRANTS[0]
POLICIES: tuple[tuple[tuple[Any, ...], Allowance], ...] = (
    (GRANTS, Allowance()),
    ((replace(SHOPS, authorities=None, methods=frozenset({"GET"})), *GRANTS), Allowance()),
    ((replace(SHOPS, authorities=None, paths=("/a",)),), Allowance()),
    ((replace(SHOPS, rate=Rate(1, 2)),), Allowance()),
    ((replace(SHOPS, purposes=frozenset({Purpose.DIRECTORY, Purpose.JWT})),), Allowance()),
    ((replace(SHOPS, purposes=frozenset()),), Allowance()),
    ((), Allowance()),
    (GRANTS, Allowance(max_signatures=1)),
)

USUAL_LINES = (('"@method"', "GET"), ('"@authority"', "example.com"), ('"@path"', "/a"))
LINES = (
    *USUAL_LINES,
    ('"@method"', "PUT"),
    ('"@authority"', "evil.example"),
    ('"@authority";req', "example.com"),
    ('"@path"', "/a/../b"),
    ('"@target-uri"', "https://example.com/a"),
    ('"@status"', "200"),
    ('"x";key="a)"', "1"),
    ('"x"', " 1"),
)
PARAMETERS: dict[str, tuple[str | int, ...]] = {
    "keyid": (*KIDS, "alias", "thumbprint 0", "thumbprint 1", "nobody"),
    "tag": ("web-bot-auth", signature_base.DIRECTORY_TAG),
    "alg": ("ed25519", "hmac-sha256"),
    "nonce": ("abc",),
    "expires": (-1, 60, 299, 10**6),
}
USUAL_KEY: dict[str, Any] = {}
KEYS: tuple[dict[str, Any], ...] = (
    {"disabled_at": START},
    {"paused_at": START},
    {"keyid_aliases": ("alias",)},
    {"keyid_aliases": ("k-1", "k-2")},
    {"profile": "web-bot-auth"},
    {"profile": "lumoauth"},
    {"profile": "gone"},
    {"backend": "gone"},
    {"purposes": frozenset({Purpose.JWT})},
    {"purposes": frozenset({Purpose.HTTP, Purpose.DIRECTORY})},
)
MOMENTS = (START - 1000, START - 1, START, START + 1, START + 2, START + 5)


SOUND = Timeline(*[START - 1000] * 3)


@dataclass(frozen=True)
class Version:
    kid: str = KIDS[0]
    material: int = 0
    timeline: Timeline = SOUND
    destroyed: bool = False


def mostly(random: Random, usual: T, others: Sequence[T], chance: float = 0.12) -> T:
    return random.choice(others) if random.random() < chance else usual


def a_version(random: Random) -> Version:
    begun = [mostly(random, START - 1000, MOMENTS, 0.4) for _ in range(3)]
    ended = [mostly(random, inf, MOMENTS) for _ in range(5)]
    return Version(random.choice(KIDS), random.randrange(3), Timeline(*begun, *ended), random.random() < 0.1)


class ByStepsOnly(Signer):
    """The long way, always."""

    def _at_once(self, decision: Decision, name: str, data: bytes, kid: str | None) -> Signed | None:
        return None


class Counted(Signer):
    """The daemon's own, with a count of what went the short way."""

    short = 0

    def _at_once(self, decision: Decision, name: str, data: bytes, kid: str | None) -> Signed | None:
        signed = super()._at_once(decision, name, data, kid)
        self.short += signed is not None
        return signed


class Side:
    """One signer, with a guard and a record of its own."""

    def __init__(self, ring: Keyring, clock: FakeClock, kind: type[Signer]) -> None:
        self.audit = RecordedAudit()
        self.guard = Guard(Policy(GRANTS, owners={0}), clock, self.audit, monotonic=clock.now)
        self.signer = kind(ring, BUILT_IN, self.guard)

    async def outcome(self, principal: Principal, name: str, data: bytes, kid: str | None) -> object:
        self.audit.decisions.clear()
        try:
            # A moment for what the long way may wait for: its turn, or the successor of a compromised version.
            answer: object = await self.signer.sign(principal, name, InputKind.SIGNATURE_BASE, data, kid, within=0.003)
        except KeydError as error:
            answer = type(error), str(error), error.metadata
        return answer, [asdict(each) | {"latency": 0} for each in self.audit.decisions]


class World:
    """Keys that are as the test says, and both ways to sign with them."""

    def __init__(self, store: SqlStore, runner: BackendRunner, material: list[KeyVersion]) -> None:
        self.clock, self._material = FakeClock(), material
        self.ring = keyring(store, {"mem": runner}, self.clock)
        self.short, self.long = Side(self.ring, self.clock, Counted), Side(self.ring, self.clock, ByStepsOnly)
        self._policy = POLICIES[0]

    async def change(self, random: Random) -> None:
        """Change one thing, as a reload, an operator, another call or the time does."""
        often = [self._move_clock, self._put_key, self._reload] * 2
        await random.choice((self._reload_profiles, self._take_turns, *often))(random)

    async def _reload(self, random: Random) -> None:
        self._policy = mostly(random, POLICIES[0], POLICIES, 0.5)
        self.short.guard.policy = self._new_policy()

    async def _reload_profiles(self, random: Random) -> None:
        self.short.signer.profiles = self.long.signer.profiles = mostly(random, BUILT_IN, PROFILES, 0.7)

    async def _move_clock(self, random: Random) -> None:
        self.clock.advance(random.choice((-3.0, -1.0, 0.5, 1.0, 3.0)))

    async def _take_turns(self, random: Random) -> None:
        """Have so many signatures of the usual caller under way."""
        under_way = mostly(random, 0, (1, 2))
        for side in (self.short, self.long):
            turns = side.guard.turns
            for share in [share for share, queue in turns._queues.items() for _ in range(queue.under_way)]:
                turns.give_back(share)
            for _ in range(under_way):
                await turns.take(side.guard.share(SHOP), 2, None)

    async def _put_key(self, random: Random) -> None:
        others = [a_version(random) for _ in range(random.randrange(3))]
        versions = mostly(random, [Version(), *others], [others], 0.3)
        self.put(mostly(random, "shop-1", NAMES[:3]), mostly(random, USUAL_KEY, KEYS, 0.4), versions)

    def put(self, name: str, changes: dict[str, Any], versions: Sequence[Version]) -> None:
        records = [
            replace(
                self._material[each.material],
                key=name,
                version=number,
                kid=each.kid,
                handle=None if each.destroyed else self._material[each.material].handle,
                timeline=each.timeline,
            )
            for number, each in enumerate(versions, 1)
        ]
        self.ring._on_record.snapshot = self.ring.snapshot.with_keys(
            KeyView(new_key(name, **changes), tuple(map(VersionView, records)))
        )

    async def sign(self, random: Random) -> None:
        """Have both sign the same, the long way with nothing that it remembers."""
        data = self._base(random)
        kid = self._named(mostly(random, "", PARAMETERS["keyid"])) or None
        asked = mostly(random, SHOP, PRINCIPALS), mostly(random, "shop-1", NAMES), data, kid
        short = await self.short.outcome(*asked)
        self.long.guard.policy = self._new_policy()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(signature_base, "_shapes", {})
            long = await self.long.outcome(*asked)
        assert short == long

    def _base(self, random: Random) -> bytes:
        lines = mostly(random, USUAL_LINES, [random.sample(LINES, random.randrange(5))])
        created = int(self.clock.now()) + mostly(random, 0, (-29, -31, 4, 6))
        text = "".join(f"{identifier}: {value}\n" for identifier, value in lines)
        text += f'"@signature-params": ({" ".join(identifier for identifier, _ in lines)});created={created}'
        for name, values in PARAMETERS.items():
            if random.random() < 0.05:
                value = random.choice(values)
                text += f";{name}={created + value}" if isinstance(value, int) else f';{name}="{self._named(value)}"'
        return text.encode()

    def _named(self, kid: str | int) -> str:
        return self._material[int(kid[-1])].thumbprint if str(kid).startswith("thumbprint") else str(kid)

    def _new_policy(self) -> Policy:
        grants, allowance = self._policy
        return Policy(grants, owners={0}, allowance=allowance)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqlStore, BackendRunner, list[KeyVersion]]]:
    store, backend = SqlStore(tmp_path_factory.mktemp("standing") / "keyd.db"), memory_backend()
    runner, material = BackendRunner("mem", backend), []
    for number in range(3):
        handle = backend.create("agent", number, Algorithm.ED25519)
        public, thumbprint = jwk.from_public_key(backend.public_key(handle))
        material.append(KeyVersion("", 0, "", thumbprint, public, handle, Timeline(0, 0, 0)))
    yield store, runner, material
    runner.close()
    store.close()


def test_both_ways_say_and_record_the_same_after_any_changes(
    parts: tuple[SqlStore, BackendRunner, list[KeyVersion]],
) -> None:
    short = 0
    with asyncio.Runner() as loop:

        @settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
        @given(st.randoms(use_true_random=True))
        def hold(random: Random) -> None:
            nonlocal short
            world = World(*parts)

            async def run() -> None:
                world.put("shop-1", USUAL_KEY, [Version()])
                for _ in range(50):
                    if random.random() < 0.4:
                        await world.change(random)
                    await world.sign(random)

            loop.run(run())
            short += world.short.signer.short  # type: ignore[attr-defined]

        hold()
    assert short > 200  # else it compared the long way with itself
