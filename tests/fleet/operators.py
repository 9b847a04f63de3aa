"""Operators that make keys, rotate them in every way, and compromise and destroy versions, at whichever replica they happen to ask."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from fleet.history import History
from fleet.replica import CATCHES_UP, Replica
from keyd.client import AdminClient, KeydClientError
from keyd.v1 import types_pb2

FIRST_KEYS, MOST_KEYS = 6, 12
_ALGORITHMS = ("Ed25519", "ES256")
#: What an operator may be answered while replicas and the database come and go: he tries again, or somebody else was faster.
_FORESEEN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Operators:
    """Each is a thread that does something every ``pause`` seconds or so."""

    def __init__(self, replicas: Sequence[Replica], history: History, *, operators: int, pause: float, seed: int) -> None:
        self.replicas = replicas
        self.history = history
        self._pause = pause
        self._stop = threading.Event()
        self._names = [f"agent-{number}" for number in range(FIRST_KEYS)]
        self._born: dict[str, float] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(2)
        self._threads = [threading.Thread(target=self._run, args=(random.Random(seed + n),)) for n in range(operators)]

    def keys(self) -> list[str]:
        """Return the keys that every replica knows that is not behind."""
        now = time.monotonic()
        with self._lock:
            return [name for name in self._names if self._born.get(name, 0) < now - CATCHES_UP]

    def prepare(self) -> None:
        """Make the first keys, as soon as a replica does."""
        deadline = time.monotonic() + 60
        with self.replicas[0].admin() as admin:
            for number, name in enumerate(self._names):
                while True:
                    try:
                        admin.create_key(name, algorithm=_ALGORITHMS[number % 2])
                        break
                    except KeydClientError:
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.2)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()

    def _run(self, chance: random.Random) -> None:
        acts: list[tuple[int, Callable[[random.Random, AdminClient, str], None]]] = [
            (40, self._planned),
            (15, self._now),
            (10, self._compromise),
            (8, self._roll_back),
            (5, self._hold),
            (8, self._create),
            (20, self._destroy),
            (10, self._twice),
        ]
        weights, functions = zip(*acts, strict=True)
        admins = [replica.admin() for replica in self.replicas]
        while not self._stop.wait(chance.uniform(0.5, 1.5) * self._pause):
            (act,) = chance.choices(functions, weights)
            key = chance.choice(self.keys())
            self._tried(act.__name__.strip("_"), lambda act=act, key=key: act(chance, chance.choice(admins), key))
        for admin in admins:
            admin.close()

    def _tried(self, what: str, call: Callable[[], object]) -> bool:
        """Do something, and say whether it was done."""
        try:
            call()
        except KeydClientError as exc:
            if exc.code in _FORESEEN:
                self.history.count(f"{what}: refused, {exc.reason or exc.code.name}")
            else:
                self.history.fail(f"{what} failed: {exc.code.name} {exc.reason} {exc}")
            return False
        self.history.count(f"{what}: done")
        return True

    def _planned(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        admin.rotate_key(key)

    def _now(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        admin.rotate_key(key, now=True)

    def _roll_back(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        admin.rollback_key(key)

    def _hold(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        admin.pause_key(key)
        self._stop.wait(chance.uniform(0.5, 3))
        while not self._tried("resume", lambda: self._another(chance).resume_key(key)) and not self._stop.wait(1):
            pass

    def _another(self, chance: random.Random) -> AdminClient:
        return chance.choice(self.replicas).admin()

    def _create(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        with self._lock:
            name = f"agent-{len(self._names)}"
            if len(self._names) >= MOST_KEYS:
                return
        admin.create_key(name, algorithm=chance.choice(_ALGORITHMS))
        with self._lock:
            self._born[name] = time.monotonic()
            if name not in self._names:
                self._names.append(name)

    def _compromise(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        versions = [v for v in admin.get_key(key).versions if v.state in _LIVE]
        version = chance.choice(versions)
        self.history.compromising(version.kid)
        begin = time.monotonic()
        try:
            answer = admin.compromise_version(key, version.version, "drill")
        except KeydClientError:
            self._ensured(chance, key, begin)  # whether it is on record is not known
            raise
        self.history.confirmed(version.kid)
        if not _has_active(answer.key):
            self._ensured(chance, key, begin)

    def _ensured(self, chance: random.Random, key: str, begin: float) -> None:
        """Where a successor met an outage, the operator makes one: the answer said so."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                with self._another(chance) as admin:
                    if _has_active(admin.get_key(key)):
                        self.history.outage(key, begin)
                        return
                    admin.rotate_key(key, now=True)
            except KeydClientError:
                time.sleep(0.5)
        self.history.fail(f"{key} got no active version within 120 s of a compromise")

    def _destroy(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        gone = [v for v in admin.get_key(key).versions if not v.published and v.state in _ENDED]
        if gone:
            admin.destroy_version(key, gone[0].version)

    def _twice(self, chance: random.Random, admin: AdminClient, key: str) -> None:
        """Two operators rotate one key at two replicas at the same time."""

        def rotate(replica: Replica, now: bool) -> None:
            with replica.admin() as one:
                self._tried("one of two at once", lambda: one.rotate_key(key, now=now))

        list(self._pool.map(rotate, chance.sample(self.replicas, 2), chance.choices((False, True), k=2)))


_LIVE = (types_pb2.KEY_STATE_ACTIVE, types_pb2.KEY_STATE_PRE_ACTIVATION)
_ENDED = (types_pb2.KEY_STATE_DEACTIVATED, types_pb2.KEY_STATE_COMPROMISED)


def _has_active(key: types_pb2.Key) -> bool:
    return any(version.state == types_pb2.KEY_STATE_ACTIVE for version in key.versions)
