"""Run in a mount namespace of its own: a daemon whose audit trail is on a small tmpfs, which fills up and is emptied, again and again."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from click.testing import CliRunner
from daemon_process import DaemonProcess
from support import fill_disk, signature_base

from keyd.cli import cli
from keyd.client import KeydClientError

ROUNDS = 5

daemon = DaemonProcess(sections='[audit]\npath = "{}"\n')
trail = daemon.directory / "audit"
trail.mkdir(mode=0o700)
daemon.config.write_text(daemon.config.read_text().replace('path = "{}"', f'path = "{trail}"'))
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", str(trail)], check=True)
numbers = itertools.count()
received: set[str] = set()
refused = 0


def sign() -> None:
    """Sign something new, and remember what keyd signed."""
    base = signature_base(time.time(), authority=f"h{next(numbers)}.example.com")
    client.sign_base("agent", base)
    received.add(hashlib.sha256(base).hexdigest())


try:
    daemon.start()
    with daemon.admin() as admin, daemon.client(retries=0) as client:
        admin.create_key(name="agent")
        for _ in range(ROUNDS):
            sign()
            fill_disk(trail / "filler")
            try:
                for _ in range(200):  # the last page of the file may still take some
                    sign()
            except KeydClientError as exc:
                assert exc.reason == "AUDIT_UNAVAILABLE", exc.reason
                refused += 1
            else:
                raise AssertionError("keyd signs without room for a record")
            (trail / "filler").unlink()
            sign()
    daemon.stop()
    records = [json.loads(line) for line in (trail / "audit.jsonl").read_text().splitlines()]
    missing = received - {record.get("sha256") for record in records if record.get("decision") == "allow"}
    assert not missing, f"{len(missing)} signatures have no record"
    verified = CliRunner().invoke(cli, ["audit", "verify", "--config", str(daemon.config)])
    assert verified.exit_code == 0, verified.output
    print(
        f"{ROUNDS} times full, {refused} times refused with AUDIT_UNAVAILABLE and recovered, {len(received)} signatures, 0 without record"
    )
finally:
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.stop(9)
    print(daemon.log.read_text(), file=sys.stderr)
    subprocess.run(["umount", str(trail)], check=True)
    daemon.close()
