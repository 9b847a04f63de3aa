"""What goes wrong: replicas are killed and stopped, and the database goes away. One at a time, and each until it is mended."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence

from components.postgres import PostgreSql

from fleet.history import History
from fleet.replica import Replica

#: Longer than the lease of the planner's lock, and than the database keeps a session that is silent.
LONG_STOP = 13.0


class Chaos:
    """A thread that breaks something every ``pause`` seconds."""

    def __init__(self, replicas: Sequence[Replica], server: PostgreSql, history: History, *, pause: float, seed: int) -> None:
        self._replicas = replicas
        self._server = server
        self._history = history
        self._pause = pause
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Break nothing any more, and return when all is mended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        kinds: list[Callable[[], None]] = [
            self._kill,
            self._stop_shortly,
            self._restart_database,
            self._kill,
            self._kill_database,
            self._restart,
            self._stop_for_long,
        ]
        while not self._stop.is_set():
            for kind in kinds:
                if self._stop.wait(self._chance.uniform(0.5, 1.5) * self._pause):
                    return
                try:
                    kind()
                except Exception as exc:
                    self._history.fail(f"not mended after {kind.__name__.strip('_')}: {exc!r}")
                    return
                self._history.count(f"{kind.__name__.strip('_').replace('_', ' ')}: times")
            self._chance.shuffle(kinds)

    def _ended(self, number: signal.Signals, away: float) -> None:
        replica = self._chance.choice(self._replicas)
        replica.hurt()
        code = replica.end(number)
        if number is signal.SIGTERM and code != 0:
            self._history.fail(f"replica {replica.name} ended with {code} when it was told to stop")
        time.sleep(away)
        replica.start()
        replica.wait_until_up()
        replica.healed()

    def _kill(self) -> None:
        self._ended(signal.SIGKILL, self._chance.uniform(0, 2))

    def _restart(self) -> None:
        self._ended(signal.SIGTERM, 0)

    def _stopped(self, seconds: float) -> None:
        replica = self._chance.choice(self._replicas)
        replica.hurt()
        replica.signal(signal.SIGSTOP)
        time.sleep(seconds)
        replica.signal(signal.SIGCONT)
        replica.wait_until_up()
        replica.healed()

    def _stop_shortly(self) -> None:
        self._stopped(self._chance.uniform(0.5, 4))

    def _stop_for_long(self) -> None:
        self._stopped(LONG_STOP)

    def _restart_database(self) -> None:
        self._without_database(self._server.stop, 0)

    def _kill_database(self) -> None:
        self._without_database(self._server.kill, self._chance.uniform(0, 3))

    def _without_database(self, end: Callable[[], None], away: float) -> None:
        for replica in self._replicas:  # they do not hear of each other's changes
            replica.hurt()
        end()
        time.sleep(away)
        self._server.start()
        for replica in self._replicas:
            self._wait_until_followed(replica)
            replica.healed()

    def _wait_until_followed(self, replica: Replica) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                if replica.figure("keyd_store_up") == 1:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"replica {replica.name} does not find its database again")
            time.sleep(0.1)
