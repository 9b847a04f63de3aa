"""A real daemon and its audit trail: killed under load, without room, with its files moved and changed under it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from daemon_process import DaemonProcess
from support import signature_base

from keyd.cli import cli
from keyd.client import KeydClientError
from keyd.core.audit import files

KILLS = int(os.environ.get("KEYD_AUDIT_KILLS", "3"))
AGENTS = 3
SMALL = "[audit]\nmax_file_size = 65536\ncheckpoint_interval = 0.2\n"
Figure = Callable[[str, object], None]


class Agents:
    """Threads that sign something new without pause, and remember what they got a signature of."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self.received: list[str] = []

    @contextmanager
    def running(self) -> Iterator[Agents]:
        threads = [threading.Thread(target=self._work) for _ in range(AGENTS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _work(self) -> None:
        with self._daemon.client(timeout=2, retries=0) as client:
            while not self._stop.is_set():
                base = signature_base(time.time(), authority=f"h{next(self._numbers)}.example.com")
                try:
                    client.sign_base("agent", base)
                except KeydClientError:
                    time.sleep(0.01)
                else:
                    self.received.append(hashlib.sha256(base).hexdigest())

    def until(self, count: int) -> None:
        """Wait for so many further signatures."""
        goal, deadline = len(self.received) + count, time.monotonic() + 30
        while len(self.received) < goal:
            assert time.monotonic() < deadline, "no signatures"
            time.sleep(0.002)


def verify(daemon: DaemonProcess, *options: str) -> Result:
    """Run the command in this process, which spares the start of an interpreter each time."""
    command = ["--address", daemon.address, "audit", "verify", "--config", str(daemon.config)]
    return CliRunner().invoke(cli, [*command, *options], prog_name="keyd")


def allowed(directory: Path) -> set[str]:
    paths = [file.path for file in files.in_order(files.in_directory(directory))]
    return {record.text("sha256") for record in files.records(paths) if record.text("decision") == "allow"}


def until_said(directory: Path, what: str) -> None:
    """Wait for a gap: it is written when the disk has what was before, and a rotation may move it while it is looked for."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(FileNotFoundError):
            if any(record.text("what") == what for record in files.records(files.in_directory(directory))):
                return
        assert time.monotonic() < deadline, f"the trail itself does not say that it was {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """One for all that happens under load: what damages its trail comes last."""
    daemon = DaemonProcess(sections=SMALL).start()
    with daemon.admin() as admin:
        admin.create_key(name="agent")
    yield daemon
    daemon.close()


@pytest.fixture
def trail(daemon: DaemonProcess) -> Path:
    return daemon.directory / "state/audit"


def test_no_signature_without_its_record_whenever_it_is_killed(
    daemon: DaemonProcess, trail: Path, record_property: Figure
) -> None:
    agents, moments = Agents(daemon), random.Random(7)
    with agents.running():
        for _ in range(KILLS):
            agents.until(20)
            time.sleep(moments.uniform(0, 0.3))
            assert daemon.stop(9) == -9
            daemon.start()
        agents.until(20)
    missing = set(agents.received) - allowed(trail)
    assert not missing, f"{len(missing)} of {len(agents.received)} signatures have no record"
    result = verify(daemon, "--live")
    assert result.exit_code == 0, result.stdout
    torn = result.stdout.count(": a torn line")
    record_property(
        "figure",
        f"killed {KILLS} times under load: {len(agents.received)} signatures received, {len(missing)} without record, "
        f"{torn} torn lines; {result.stdout.splitlines()[-1]}",
    )


def test_without_room_nothing_is_signed(record_property: Figure) -> None:
    script = Path(__file__).with_name("audit_full_disk.py")
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    done = subprocess.run([*namespace, sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    record_property("figure", f"full disk: {done.stdout.strip()}")


def test_log_rotation_under_load_loses_nothing(daemon: DaemonProcess, trail: Path, record_property: Figure) -> None:
    agents = Agents(daemon)
    with agents.running():
        for number in range(5):
            agents.until(20)
            (trail / "audit.jsonl").rename(trail / f"audit.jsonl.{number}")
            assert daemon.process is not None
            daemon.process.send_signal(1)
        agents.until(20)
    missing = set(agents.received) - allowed(trail)
    result = verify(daemon, "--live")
    assert result.exit_code == 0, result.stdout
    assert not missing
    record_property("figure", f"renamed 5 times under load: {len(agents.received)} signatures, 0 without record")


def _truncate(current: Path) -> None:
    os.truncate(current, current.stat().st_size // 2)


def _replace(current: Path) -> None:
    current.unlink()
    current.write_text('{"seq":1}\n')


def _remove_directory(current: Path) -> None:
    aside = current.parent.rename(current.parent.with_name("aside"))  # at once; what is being written to does not become empty
    shutil.rmtree(aside)


def test_what_is_done_to_the_files_under_load_is_detected(daemon: DaemonProcess, trail: Path, record_property: Figure) -> None:
    agents, damaged = Agents(daemon), 0
    acts = {"removed": Path.unlink, "truncated": _truncate, "replaced": _replace, "reopened": _remove_directory}
    with agents.running():
        for what, act in acts.items():
            agents.until(30)
            act(trail / "audit.jsonl")
            agents.until(30)
            until_said(trail, what)
            result = verify(daemon, "--live")
            found = [line for line in result.stdout.splitlines() if line.startswith("DAMAGED")]
            assert result.exit_code == 1
            if what == "reopened":  # nothing of before is left
                assert "are missing: a file before record" in found[-1]
            else:
                assert len(found) > damaged, result.stdout
            record_property(
                "figure", f"{act.__name__.strip('_')} under load: recorded as {what!r}; {found[min(damaged, len(found) - 1)]}"
            )
            damaged = len(found)
    said = [event for event in daemon.events() if event.get("event") in ("audit trail damaged", "audit trail broken")]
    assert len(said) >= len(acts)


@pytest.fixture(scope="module")
def written() -> Iterator[DaemonProcess]:
    """A daemon that is stopped, and its trail."""
    daemon = DaemonProcess(sections="[audit]\ncheckpoint_interval = 0.2\n").start()
    with daemon.admin() as admin:
        admin.create_key(name="agent")
    agents = Agents(daemon)
    with agents.running():
        agents.until(60)
    assert daemon.stop() == 0
    yield daemon
    daemon.close()


def _remove(lines: list[bytes]) -> list[bytes]:
    return [*lines[:20], *lines[21:]]


def _change(lines: list[bytes]) -> list[bytes]:
    return [*lines[:20], lines[20].replace(b"example.com", b"example.org"), *lines[21:]]


def _swap(lines: list[bytes]) -> list[bytes]:
    return [*lines[:20], lines[21], lines[20], *lines[22:]]


def _cut_line(lines: list[bytes]) -> list[bytes]:
    return [*lines[:20], lines[20][:100] + b"\n", *lines[21:]]


def _cut_tail(lines: list[bytes]) -> list[bytes]:
    return lines[:20]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_remove, "line 21: record 21 is missing between records 20 and 22"),
        (_change, "line 21: record 21 was altered"),
        (_swap, "line 21: record 21 is missing between records 20 and 22"),
        (_cut_line, "line 21: not a record"),
        (_cut_tail, "the end is cut off after record 20: the database knows record"),
    ],
    ids=["one removed", "one changed", "two swapped", "one cut short", "tail cut"],
)
def test_damage_is_named(
    damage: Callable[[list[bytes]], list[bytes]], named: str, written: DaemonProcess, record_property: Figure
) -> None:
    path = written.directory / "state/audit/audit.jsonl"
    good = path.read_bytes()
    path.write_bytes(b"".join(damage(good.splitlines(keepends=True))))
    result = verify(written)
    path.write_bytes(good)
    assert result.exit_code == 1
    assert named in result.stdout
    record_property("figure", f"{damage.__name__[1:].replace('_', ' ')}: {result.stdout.splitlines()[0]}")


def test_a_cut_tail_is_found_at_the_start(written: DaemonProcess, record_property: Figure) -> None:
    path = written.directory / "state/audit/audit.jsonl"
    assert verify(written).exit_code == 0
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:20]))
    written.start()
    gap = json.loads(path.read_text().splitlines()[20])
    assert (gap["operation"], gap["what"], gap["found"]) == ("gap", "cut", 20)
    assert "audit trail damaged" in written.log.read_text()
    record_property("figure", f"tail cut before a start: recorded as 'cut', expected {gap['expected']}, found {gap['found']}")
