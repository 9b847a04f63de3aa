"""Sets everything up, lets it run, and says what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from components import openbao, postgres

from fleet.chaos import Chaos
from fleet.checks import Checks
from fleet.history import History
from fleet.operators import Operators
from fleet.replica import Replica
from fleet.traffic import Traffic

CLIENTS = 50
_SHOWN = 20  # failures


@dataclass
class Report:
    """What came of a run."""

    seconds: float
    history: History

    @property
    def good(self) -> bool:
        counts = self.history.counts
        busy = counts["signatures"] and counts["looks at all timelines"] and counts["comparisons of the JWK Sets of all replicas"]
        return bool(busy) and not self.history.failures

    def text(self) -> str:
        lines = [f"{count:8d} {what}" for what, count in sorted(self.history.counts.items())]
        lines += [f"         {failure}" for failure in self.history.failures[:_SHOWN]]
        lines.append(f"{len(self.history.failures):8d} failures in {self.seconds:.0f} s")
        return "\n".join(lines) + "\n"


def run(seconds: float, seed: int, *, chaos_pause: float = 4.0, operators: int = 2, operators_pause: float = 2.5) -> Report:
    """Run a fleet for so many seconds."""
    history = History()
    with ExitStack() as stack:
        server = postgres.PostgreSql(Path(stack.enter_context(TemporaryDirectory(prefix="keyd-pg-", ignore_cleanup_errors=True))))
        stack.callback(server.kill)
        bao = openbao.OpenBao(Path(stack.enter_context(TemporaryDirectory(prefix="keyd-bao-", ignore_cleanup_errors=True))))
        stack.callback(bao.stop)
        database, tenant = server.database(), bao.tenant(Path(stack.enter_context(TemporaryDirectory(prefix="keyd-role-"))))
        replicas = [Replica(name, database, tenant) for name in ("a", "b", "c")]
        for replica in replicas:
            stack.callback(replica.close)
            replica.start()
        acts = Operators(replicas, history, operators=operators, pause=operators_pause, seed=seed)
        acts.prepare()
        for replica in replicas:
            replica.wait_until_up()
        began = time.monotonic()
        checks = Checks(replicas, database, tenant, history, acts.keys)
        traffic = Traffic(replicas, history, acts.keys, CLIENTS)
        chaos = Chaos(replicas, server, history, pause=chaos_pause, seed=seed)
        for part in (traffic, acts, checks, chaos):
            part.start()
        time.sleep(seconds)
        for part in (chaos, acts, traffic, checks):
            part.stop()
        history.judge()
        try:
            _at_rest(checks, history)
        except Exception as exc:  # what was found before is worth more than this
            history.fail(f"the last checks could not be made: {exc!r}")
        elapsed = time.monotonic() - began
    return Report(elapsed, history)


def _at_rest(checks: Checks, history: History) -> None:
    checks.timelines()
    _comes_to_be("all replicas serve the same JWK Sets", checks.same_documents, history)
    _comes_to_be("one replica plans", checks.one_leads, history)
    checks.planned_were_known()
    checks.archived()
    checks.rest(90)


def _comes_to_be(what: str, check: Callable[[], bool], history: History) -> None:
    deadline = time.monotonic() + 20
    while not check():
        if time.monotonic() > deadline:
            history.fail(f"within 20 s of rest it does not come to be that {what}")
            return
        time.sleep(0.2)
