"""The whole daemon with grants, and real programs that ask it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from gated import copy_of_python

GRANT = """
[grants.{name}]
principals = [{{ executable = "{program}" }}]
keys = ["{name}"]
purposes = ["http"]
authorities = ["api.example.com"]
methods = ["GET"]
"""

#: Asks for a signature with the key argv[2] on behalf of a request to argv[3], and says what came of it.
AGENT = r"""
import sys, time
from keyd.client import Client, KeydClientError
address, key, authority = sys.argv[1:]
base = f'"@method": GET\n"@authority": {authority}\n"@signature-params": ("@method" "@authority");created={int(time.time())}'
try:
    with Client(address, retries=0) as client:
        client.sign_base(key, base.encode())
    print("signed")
except KeydClientError as error:
    print(error.reason)
"""


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Path]:
    return {name: copy_of_python(tmp_path / name) for name in ("shop", "mail")}


@pytest.fixture
def daemon(programs: dict[str, Path]) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections="".join(GRANT.format(name=name, program=program) for name, program in programs.items()))
    try:
        daemon.start()
        with daemon.admin() as admin:
            for name in programs:
                admin.create_key(name)
        yield daemon
    finally:
        daemon.close()


def ask(daemon: DaemonProcess, program: Path, key: str, authority: str = "api.example.com") -> str:
    command = [str(program), "-c", AGENT, daemon.address, key, authority]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def test_two_programs_of_one_uid_have_different_keys(daemon: DaemonProcess, programs: dict[str, Path]) -> None:
    for name, program in programs.items():
        other = next(key for key in programs if key != name)
        assert ask(daemon, program, name) == "signed"
        assert ask(daemon, program, other) == "GRANT"
    assert ask(daemon, Path(sys.executable).resolve(), "shop") == "GRANT"  # the uid alone has nothing


def test_a_request_to_an_authority_outside_the_grant_is_not_signed(daemon: DaemonProcess, programs: dict[str, Path]) -> None:
    assert ask(daemon, programs["shop"], "shop") == "signed"
    assert ask(daemon, programs["shop"], "shop", "evil.example") == "AUTHORITY"
    # And afterwards one can prove who had what signed, and who tried.
    assert daemon.stop() == 0
    trail = [json.loads(line) for line in (daemon.directory / "state" / "audit" / "audit.jsonl").read_text().splitlines()]
    asked = [record for record in trail if record["operation"] == "sign"]
    assert [(record["decision"], record["authority"], record.get("reason")) for record in asked] == [
        ("allow", "api.example.com", None),
        ("deny", "evil.example", "AUTHORITY"),
    ]
    assert {record["principal"]["executable"] for record in asked} == {str(programs["shop"])}
    assert all(abs(record["created"] - time.time()) < 60 for record in asked)
