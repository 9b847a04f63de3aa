"""What keyd's own code costs for one signature, step by step, without a transport.

    make bench-path, or python benchmarks path [--rounds 15] [--calls 600]

One process, one thread: an Ed25519 key of the memory backend, a signature base of an ordinary request, a policy with three grants, a real audit trail in a file, wired as keyd/app.py does it. Interleaved, so that a machine that is slow for a while is so for every row;
CPU time, medians of the rounds, and the same as a multiple of the bare operation in the same round:

- operation: the Ed25519 operation and nothing else;
- unguarded: benchmarks/unguarded.py without its server: the request parsed, the key found, signed, the response built;
- service: + all that the service does: rates, turns, grants, the base parsed and held to profile and grant, and figures; no trail;
- whole: + the chained record written to the file before the answer.

The second table is of single steps, each called by itself in a loop. They overlap, and do not add up to the whole.

Fails when the whole costs more than three times the operation, or when a signature of a sample does not verify.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support import keyring, memory_backend, new_key

from backends.api import Algorithm
from backends.encoding import verify_raw
from benchmarks.machine import describe, today
from benchmarks.payload import base, sign_request
from benchmarks.unguarded import Unguarded
from keyd import log
from keyd.core import signature_base
from keyd.core.audit.record import GENESIS, Encoder, digest
from keyd.core.audit.trail import AuditTrail, Rules
from keyd.core.audit.trail_file import TrailFile
from keyd.core.binding import Signing
from keyd.core.clock import SystemClock
from keyd.core.decision import Audit, NoAudit
from keyd.core.grants import Grant, PrincipalPattern
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.policy import Allowance, Policy, decide
from keyd.core.principal import Principal
from keyd.core.profile import BUILT_IN, check_base
from keyd.core.publication import Publication
from keyd.core.publication import Rules as PublicationRules
from keyd.core.rates import Rate
from keyd.core.runner import BackendRunner, Limits
from keyd.core.sessions.book import SessionBook
from keyd.core.sessions.issuing import TokenIssuer
from keyd.core.sessions.revocations import Revocations
from keyd.core.sessions.signing import SessionSigner
from keyd.core.signing import Signer, note_base
from keyd.core.signing_request import SigningRequest
from keyd.core.store import SqlStore
from keyd.service.admission import admitted, methods
from keyd.service.call import Call, Caller
from keyd.service.metrics import CountedAudit, Metrics
from keyd.service.signing import SigningService
from keyd.v1 import signing_service_pb2 as pb

BAR = 3.0  # times the bare operation
IN_ONE_TURN = 3  # calls in each turn of the event loop, as many as one caller may begin
SIGNING = pb.DESCRIPTOR.services_by_name["SigningService"]
CALLER = Principal(uid=1000, gid=1000, groups=frozenset({27, 100}), pid=4711, executable="/usr/bin/agent", unit="shop.service")
GRANTS = (
    Grant("other", (PrincipalPattern(uid=1001),), ("*",), frozenset(Purpose)),
    Grant("raw", (PrincipalPattern(uid=1000),), ("raw",), frozenset({Purpose.RAW})),
    Grant(
        "bench",
        (PrincipalPattern(uid=1000, executable="/usr/bin/agent"),),
        ("bench*",),
        frozenset({Purpose.HTTP}),
        authorities=("api.example.com",),
        methods=frozenset({"GET", "POST"}),
        paths=("/v1/",),
    ),
)


class House:
    """The services of a daemon over one keyring. ``whole`` keeps a trail, ``silent`` none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = SystemClock()
        self.runner = BackendRunner("mem", memory_backend(), Limits())
        self.ring: Keyring = keyring(SqlStore(directory / "keyd.db"), {"mem": self.runner}, self.clock)
        self.trail = AuditTrail(TrailFile(directory / "audit"), [], Rules(), self.clock)
        self.call = Call(Caller(CALLER))
        self.metrics = Metrics()
        self.policy = Policy(GRANTS, owners={0}, allowance=Allowance(Rate(1e9, 10**9)))

    async def start(self) -> None:
        await self.ring.start()
        for name in ("bench", "other"):
            await self.ring.create(new_key(name, created_at=self.clock.now()))
        await self.trail.start("benchmark", None)
        self.silent, self.whole = self.service(NoAudit()), self.service(self.trail)
        self.unguarded = Unguarded(self.ring)
        self.private = self.runner.backend._entries["bench.1"].private  # type: ignore[attr-defined]

    def service(self, audit: Audit) -> Any:
        guard = Guard(self.policy, self.clock, CountedAudit(audit, self.metrics))
        publication = Publication(self.ring, PublicationRules())
        book = SessionBook(self.ring, guard, TokenIssuer(self.ring, publication, guard), Revocations(self.clock))
        signer = Signer(self.ring, BUILT_IN, guard)
        return admitted(
            SIGNING, SigningService(self.ring, signer, SessionSigner(self.ring, guard, book), publication, guard), guard
        )

    async def serve(self, service: Any, data: bytes, number: int) -> float:
        """Return the CPU microseconds of one signature, from the message's bytes to those of the response."""
        request, call = pb.SignRequest(key="bench", signature_base=data).SerializeToString(), self.call
        parse, sign, encode = pb.SignRequest.FromString, service.sign, pb.SignResponse.SerializeToString
        start = time.thread_time()
        for done in range(number):
            encode(await sign(parse(request), call))
            if done % IN_ONE_TURN == 0:
                await asyncio.sleep(0)
        return (time.thread_time() - start) / number * 1e6

    async def check(self) -> None:
        """Sign once each way, and verify it."""
        version = self.ring.snapshot.get("bench").versions[0]
        for service in (self.unguarded, self.silent, self.whole):
            data = base()
            response = await service.sign(pb.SignRequest(key="bench", signature_base=data), self.call)
            verify_raw(version.public_key, Algorithm.ED25519, response.signature, data)


def timed(function: Callable[[], object], number: int) -> float:
    """Return the CPU microseconds of one call."""
    start = time.thread_time()
    for _ in range(number):
        function()
    return (time.thread_time() - start) / number * 1e6


def steps(house: House) -> dict[str, Callable[[], object]]:
    """Return the steps of a signature, each ready to be called by itself."""
    data, now = base(), house.clock.now()
    view = house.ring.snapshot.get("bench")
    version = view.versions[0]
    profile, parsed = BUILT_IN["rfc9421"], signature_base.parse(data)
    signing = Signing(Algorithm.ED25519, version.record.kid, version.record.thumbprint)
    rights = house.policy.rights(CALLER)
    guard = Guard(house.policy, house.clock, NoAudit())
    encoder = Encoder()

    def request() -> SigningRequest:
        return SigningRequest(Purpose.HTTP, "rfc9421", now, base=parsed)

    def recorded() -> Any:
        decision = guard.decision(CALLER, "sign", "bench")
        decision.digest = hashlib.sha256(data).digest()
        decision.kid, decision.version, decision.grant = version.record.kid, version.record.version, "bench"
        note_base(decision, request(), parsed)
        return decision

    decision, asked = recorded(), request()

    async def nothing(request: object, call: object) -> None:
        pass

    empty: Any = admitted(SIGNING, SimpleNamespace(**{name: nothing for _, name in methods(SIGNING)}), guard)
    message = sign_request("bench")

    def admission() -> None:
        guard.pace._begun.clear()  # as the next turn of the loop does
        _finish(empty.sign(message, house.call))

    return {
        "admission: rate, calls, turn of the loop": admission,
        "decision begun": lambda: guard.decision(CALLER, "sign", "bench"),
        "sha256 of the base": lambda: hashlib.sha256(data).digest(),
        "base parsed": lambda: signature_base.parse(data),
        "profile": lambda: check_base(parsed, profile, signing, now=now, not_after=math.inf),
        "version found": lambda: view.signer(None, now),
        "rights": lambda: house.policy.rights(CALLER).sign("bench"),
        "grant decided": lambda: decide(rights.sign("bench"), asked),
        "decision filled in": recorded,
        "runner": lambda: _finish(house.runner.sign(version, Algorithm.ED25519, data)),
        "figures": lambda: house.metrics.decided(decision),
        "record as a line": lambda: encoder.decision(1, GENESIS, decision),
        "digest of the line": lambda: digest(b"x" * 600),
        "record in the trail": lambda: house.trail.write(decision),
    }


def _finish(coroutine: Any) -> None:
    """Run what does not wait for anything to its end."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


async def measure(house: House, rounds: int, calls: int) -> dict[str, list[float]]:
    """Return the CPU microseconds of each row in each round."""
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        data = base()
        costs = {"operation": timed(partial(house.private.sign, data), calls)}
        for name, service in (("unguarded", house.unguarded), ("service", house.silent), ("whole", house.whole)):
            costs[name] = await house.serve(service, data, calls)
        costs |= {name: timed(step, calls) for name, step in steps(house).items()}
        for name, cost in costs.items() if number else ():  # the first warms up
            found.setdefault(name, []).append(cost)
        await house.check()
        await house.trail.sync()
    return found


def show(found: dict[str, list[float]]) -> float:
    """Print the tables. Returns how many times the operation the whole costs."""
    print("| | CPU us | times the operation |\n|---|---|---|")
    for name, costs in found.items():
        ratio = statistics.median(cost / bare for cost, bare in zip(costs, found["operation"], strict=True))
        print(f"| {name} | {statistics.median(costs):.1f} | {ratio:.2f} |")
        if name == "whole":
            whole = ratio
            print("\n| one step | CPU us | times the operation |\n|---|---|---|")
    return whole


async def run(rounds: int, calls: int) -> dict[str, list[float]]:
    """Build the services, measure, and close them."""
    with tempfile.TemporaryDirectory() as directory:
        house = House(Path(directory))
        await house.start()
        gc.collect()
        gc.freeze()  # as keyd/app.py does
        try:
            return await measure(house, rounds, calls)
        finally:
            await house.trail.stop()
            house.runner.close()


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=600, help="of each row in each round")
    options = parser.parse_args()
    log.configure("error", "console")
    print(f"{describe()}, {today()}; {options.rounds} rounds of {options.calls} calls of each\n")
    whole = show(asyncio.run(run(options.rounds, options.calls)))
    print(f"\nthe whole path: {whole:.2f} times the operation (at most {BAR:g}): {'ok' if whole <= BAR else 'TOO MUCH'}")
    return 0 if whole <= BAR else 1
