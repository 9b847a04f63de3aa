"""Goal 2: keyd against OpenBao's transit engine, both with their audit on, the same bases, over Unix sockets; and other peers beside.

OpenBao is one process that uses every core, and keyd is one that uses little more than one unless it is given workers. So keyd with a worker for each of
two cores stands beside, asked by two programs with half of the connections each.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import load, peers, workers
from benchmarks.daemon import BenchDaemon, daemon, spot_check
from benchmarks.figures import Entry, Outcome, Table, median_ratio
from benchmarks.goals import Options, of_transport
from benchmarks.load import Load, Target
from benchmarks.machine import ed25519_rate
from benchmarks.payload import sign_request

#: At least so many times its signatures a second, by concurrency; p50 at most half of its, p99 at most a fifth.
_RATE = {1: 2.0, 8: 3.0, 64: 3.0}
_P50, _P99 = 0.5, 0.2
_OPENBAO = "OpenBao"
_WORKERS = "two workers"


def measure(options: Options) -> Outcome:
    """Measure every transport, with one process and with two workers, and OpenBao in turn."""
    found = Outcome()
    names = options.transports()
    with ExitStack() as stack:
        transit = stack.enter_context(peers.openbao())
        servers: list[_Server] = [_Server(_OPENBAO, [transit.target()])]
        for name, line in names.items():
            keyd = stack.enter_context(daemon(server=line))
            servers.append(_Server(name, [keyd.target()], keyd))
            keyd, ways = stack.enter_context(workers.for_two_callers(f"{line}\nworkers = 2"))
            servers.append(_Server(f"{name}, {_WORKERS}", ways["unix"], keyd))
        runs = _rounds(options, servers, transit)
    for name, line in names.items():
        for connections, bar in _RATE.items():
            entries = _entries(connections, bar, runs[name, connections], runs[_OPENBAO, connections])
            found.entries += of_transport(entries, name, line)
            if with_two := runs.get((f"{name}, {_WORKERS}", connections)):
                entries = [entry.beside(_WORKERS) for entry in _entries(connections, bar, with_two, runs[_OPENBAO, connections])]
                found.entries += of_transport(entries, name, line)
    found.tables.append(_table(runs))
    found.tables.append(_others(options))
    return found


@dataclass(frozen=True, slots=True)
class _Server:
    """What is measured.

    Attributes:
        targets: one for each of its callers.
        keyd: the daemon, if it is one.
    """

    name: str
    targets: list[Target]
    keyd: BenchDaemon | None = None


def _rounds(options: Options, servers: Sequence[_Server], transit: peers.Transit) -> dict[tuple[str, int], list[Load]]:
    """Return the runs by server and number of connections."""
    runs: dict[tuple[str, int], list[Load]] = {}
    for round_ in range(options.rounds + 1):
        for connections in _RATE:
            for server in servers:
                each = connections // len(server.targets)
                if not each:
                    continue  # one connection is one caller's
                run = _run(server, each, options.seconds if round_ else 0.5)
                if round_:  # the first is to warm up
                    runs.setdefault((server.name, connections), []).append(run)
        for keyd in (server.keyd for server in servers if server.keyd):
            spot_check(keyd.address, sign_request("bench"), keyd.public_key("bench"))
        transit.check()
    return runs


def _run(server: _Server, connections: int, seconds: float) -> Load:
    """Raises AssertionError, too, where it is said to be about two workers, and one of them did the work."""
    if server.keyd is None or len(server.targets) == 1:
        return load.run_all(server.targets, connections, seconds)
    found = workers.run_both(server.keyd, server.targets, connections, seconds)
    assert found.busiest <= workers.UNEVEN, f"{server.name}: one of them made {found.busiest:.0%} of the signatures"
    return found.load


def _entries(connections: int, bar: float, mine: Sequence[Load], theirs: Sequence[Load]) -> list[Entry]:
    def ratio(of: Callable[[Load], float]) -> float:
        return median_ratio([of(run) for run in mine], [of(run) for run in theirs])

    beside = f"against OpenBao transit with its file audit, {connections} connections, Ed25519, the same bases, over Unix sockets"
    return [
        Entry(f"2 rate c={connections}", ratio(lambda run: run.rate), bar, "times", f"signatures/s {beside}"),
        Entry(f"2 p50 c={connections}", ratio(lambda run: run.p50), _P50, "times", f"p50 {beside}", at_most=True),
        Entry(f"2 p99 c={connections}", ratio(lambda run: run.p99), _P99, "times", f"p99 {beside}", at_most=True),
    ]


def _table(runs: dict[tuple[str, int], list[Load]]) -> Table:
    def middle(found: Sequence[Load], of: Callable[[Load], float]) -> str:
        return f"{statistics.median(of(run) for run in found):,.0f}"

    rows = [
        [
            name if name == _OPENBAO else f"keyd, {name}",
            str(connections),
            middle(found, lambda run: run.rate),
            middle(found, lambda run: run.p50),
            middle(found, lambda run: run.p99),
            middle(found, lambda run: run.cpu_each),
            middle(found, lambda run: run.load_each),
            f"{statistics.median(run.load_busy for run in found):.0%}",
        ]
        for (name, connections), found in sorted(runs.items(), key=lambda item: item[0][1])
    ]
    columns = ("server", "connections", "signatures/s", "p50, µs", "p99, µs", "CPU, µs each", "load's CPU, µs", "load's core")
    return Table("keyd and OpenBao", columns, rows)


def _others(options: Options) -> Table:
    rows = [["cryptography, one thread, in the program itself", f"{ed25519_rate(options.seconds / 2):,.0f}"]]
    for name, peer in (("ssh-agent (OpenSSH), one client in Python", peers.ssh_agent), ("SoftHSM, python-pkcs11", peers.softhsm)):
        with peer() as sign:
            rows.append([name, f"{peers.per_second(sign, options.seconds / 2):,.0f}"])
    return Table("One Ed25519 signature after another elsewhere", ("what", "signatures/s"), rows)
