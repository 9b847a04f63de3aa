"""``keyd bench`` against a real daemon: what it makes up is signed under each profile, and is on record."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from daemon_process import DaemonProcess

PROFILES = ("rfc9421", "web-bot-auth", "aauth", "aauth-server", "lumoauth")


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    process = DaemonProcess(sections="[limits]\nrate = 1000000\nburst = 1000000\n").start()
    with process.admin() as admin:
        for profile in PROFILES:
            admin.create_key(profile, profile=profile)
    yield process
    process.close()


@pytest.mark.parametrize("profile", PROFILES)
def test_bench(profile: str, daemon: DaemonProcess) -> None:
    line = [sys.executable, "-m", "keyd", "--address", daemon.address, "bench", "--key", profile, "--seconds", "0.3", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["errors"] == {}
    assert found["verified"] > 0
    trail = (daemon.directory / "state" / "audit").glob("*.jsonl")
    on_record = sum(f'"key":"{profile}"' in line and '"sign"' in line for file in trail for line in file.read_text().splitlines())
    assert on_record > found["signatures"]  # the try before it, too
