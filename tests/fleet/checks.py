"""What must be so at any time, and what once everything has come to rest. Looks where the replicas cannot hide anything."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf

import psycopg
from components.openbao import Tenant
from components.postgres import Database

from backends.api import BackendContext
from backends.vault_transit import VaultTransitBackend
from fleet.history import History
from fleet.replica import LEAD, Replica

_LINES = "SELECT key, version, kid, public_jwk, activate_at, deactivate_at, compromised_at, destroyed_at, publish_at, handle FROM versions"


class Checks:
    """A thread that looks every second, and what is looked at in the end."""

    def __init__(
        self, replicas: Sequence[Replica], database: Database, tenant: Tenant, history: History, keys: Callable[[], list[str]]
    ) -> None:
        self._replicas = replicas
        self._database = database
        self._tenant = tenant
        self._history = history
        self._keys = keys
        self._seen: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1):
            with contextlib.suppress(psycopg.Error):
                self.timelines()
            with contextlib.suppress(OSError):
                self.same_documents()

    def timelines(self) -> None:
        """No two versions of a key are active at one instant, past or future; no kid names two keys."""
        active: dict[str, list[tuple[float, float, int]]] = {}
        kids: dict[str, str] = {}
        for key, version, kid, public, begin, end, compromised, destroyed, *_ in self._database.execute(_LINES):
            if kid in kids or self._seen.setdefault(kid, public) != public:
                self._history.fail(f"kid {kid} names two public keys")
            kids[kid] = public
            if begin is not None:
                until = min(inf if t is None else t for t in (end, compromised, destroyed))
                if begin < until:
                    active.setdefault(key, []).append((begin, until, version))
        if missing := self._seen.keys() - kids.keys():
            self._history.fail(f"versions went off the record: {sorted(missing)}")
        for key, spans in active.items():
            for (_, until, one), (begin, _, other) in pairwise(sorted(spans)):
                if begin < until:
                    self._history.fail(
                        f"versions {one} and {other} of {key} are active together, from {begin:.3f} to {until:.3f}"
                    )
        self._history.count("looks at all timelines")

    def same_documents(self) -> bool:
        """Compare the JWK Sets of replicas that have seen the same. Returns whether that could be done for all of them."""
        paths = ["/.well-known/jwks.json", *(f"/keys/{key}/jwks.json" for key in self._keys()[:2])]
        before = self._changes()
        documents = [[replica.document(path) for path in paths] for replica in self._replicas]
        again = [self._replicas[0].document(path) for path in paths]
        if len({*before, *self._changes()}) != 1 or again != documents[0]:
            return False  # something changed meanwhile, or somebody has not seen it yet
        for path, *each in zip(paths, *documents, strict=True):
            if len(set(each)) != 1:
                self._history.fail(f"replicas that have seen the same serve different documents at {path}: {each}")
        self._history.count("comparisons of the JWK Sets of all replicas")
        return True

    def _changes(self) -> list[float]:
        return [replica.figure("keyd_store_newest_change") for replica in self._replicas]

    def one_leads(self) -> bool:
        """Say whether one replica plans, and no more."""
        return sum(replica.figure("keyd_replica_leads") for replica in self._replicas) == 1

    def planned_were_known(self) -> None:
        """Verifiers had to look again only for versions that nobody had announced."""
        rows = self._database.execute(_LINES)
        announced = {
            kid for _, _, kid, _, begin, _, _, _, published, _ in rows if begin is None or begin - published >= LEAD - 0.001
        }
        for kid, times in self._history.late.items():
            if kid in announced:
                self._history.fail(f"kid {kid} was announced {LEAD} s ahead, and {times} verifiers did not find it")
            self._history.counts["signatures whose verifier looked twice, their version was not announced"] += times

    def rest(self, seconds: float) -> None:
        """Wait until nothing is left half done, then compare what the backend holds with what is on record."""
        deadline = time.monotonic() + seconds
        while problems := self._leftovers():
            if time.monotonic() > deadline:
                self._history.failures += problems
                return
            time.sleep(1)

    def _leftovers(self) -> list[str]:
        rows = self._database.execute(_LINES)
        recorded = {row[9]: row for row in rows if row[9] is not None}
        intents = set(self._database.execute("SELECT key, version FROM intents"))
        config = self._tenant.config(address=self._tenant.server.unix)
        backend = VaultTransitBackend.open(config, BackendContext("bao", self._replicas[0].directory))
        try:
            held = sorted(backend.list(), key=lambda stored: (stored.name, stored.version))
        finally:
            backend.close()
        problems = []
        needed: set[str] = set()  # keys of which an older version is needed, so that nothing after it can go
        for stored in held:
            row = recorded.get(stored.handle)
            if row is not None and row[7] is None:
                needed.add(stored.name)
            elif stored.name not in needed:
                what = "an orphan" if row is None else "destroyed by its record"
                problems.append(f"the backend holds {stored.handle}, which is {what}")
            elif row is None and (stored.name, stored.version) not in intents:
                problems.append(f"the backend holds {stored.handle}, of which nothing is on record")
        problems += [
            f"{handle} is on record, and the backend does not hold it" for handle in recorded.keys() - {s.handle for s in held}
        ]
        waiting = {(stored.name, stored.version) for stored in held if stored.name in needed}
        problems += [f"the intent to make version {version} of {key} is left" for key, version in intents - waiting]
        return problems

    def archived(self) -> None:
        """Every kid that was ever seen is in the archive, under the same public key."""
        archive = dict(self._database.execute("SELECT kid, public_jwk FROM archive"))
        for kid, public in self._seen.items():
            if kid not in archive or json.loads(archive[kid]) != json.loads(public):
                self._history.fail(f"the archive does not have {kid} as it was")
