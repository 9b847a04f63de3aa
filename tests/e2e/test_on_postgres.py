"""The daemon on PostgreSQL: its start and stop, what it does without the database, and what its commands read there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from components import postgres
from components.openbao import until
from components.postgres import PASSWORD, REPLICA, Database, fresh_database
from daemon_process import DaemonProcess
from support import signature_base

from keyd.client import KeydClientError


def replica(database: Database, name: str, password: str = PASSWORD) -> DaemonProcess:
    daemon = DaemonProcess(sections=REPLICA.format(url=database.tcp_url, replica=name))
    daemon.env["KEYD_TEST_DB"] = password
    return daemon


@pytest.fixture
def database() -> Iterator[Database]:
    with fresh_database() as database:
        yield database


@pytest.fixture
def daemon(database: Database) -> Iterator[DaemonProcess]:
    daemon = replica(database, "one")
    yield daemon
    daemon.close()


def keyd(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "keyd", *arguments, "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, env={**daemon.env, "PATH": ""})


def test_it_is_among_the_replicas_until_it_stops(daemon: DaemonProcess, database: Database) -> None:
    daemon.start()
    assert database.execute("SELECT name FROM replicas") == [("one",)]
    assert not list(daemon.directory.glob("state/keyd.db*"))
    [warning] = [event for event in daemon.events() if event["level"] == "warning" and "other replicas" in str(event["event"])]
    assert warning["backend"] == "file"
    daemon.stop(signal.SIGKILL)
    assert database.execute("SELECT name FROM replicas") == [("one",)], "the others wait for it for a while"
    daemon.start()
    assert len(database.execute("SELECT id FROM replicas")) == 2, "another process, another id"
    assert daemon.stop() == 0
    assert len(database.execute("SELECT id FROM replicas")) == 1, "only what was killed is left"
    assert PASSWORD not in daemon.log.read_text()


def test_it_signs_without_the_database_and_administers_again_with_it(daemon: DaemonProcess, database: Database) -> None:
    daemon.start()
    with daemon.client() as client, daemon.admin() as admin:
        admin.create_key(name="agent")
        before = client.jwks()
        with postgres.shared().away():
            assert client.sign_base("agent", signature_base(time.time()))
            assert client.jwks() == before
            with pytest.raises(KeydClientError) as caught:
                admin.rotate_key("agent", now=True)
            assert caught.value.reason == "STORE_UNAVAILABLE"
        admin.rotate_key("agent", now=True)
        assert client.jwks() != before
        published = client.jwks()
    daemon.stop()
    daemon.start()
    with daemon.client() as client:
        assert client.jwks() == published
        assert client.sign_base("agent", signature_base(time.time()))


def test_without_the_database_it_does_not_start_and_says_why(daemon: DaemonProcess, database: Database) -> None:
    with postgres.shared().away():
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(30) == 1
    assert "the metadata database cannot be opened (connection failed" in daemon.log.read_text()
    wrong = replica(database, "one", "hunter2")
    wrong.start(wait=False)
    assert wrong.process is not None
    assert wrong.process.wait(30) == 1
    assert "password authentication failed" in wrong.log.read_text()
    assert "hunter2" not in wrong.log.read_text()
    wrong.close()


def test_the_trail_is_verified_with_the_checkpoints_of_its_replica(daemon: DaemonProcess, database: Database) -> None:
    other = replica(database, "other")
    try:
        for each in (daemon, other):
            each.start()
            with each.admin() as admin:
                admin.create_key(name=f"key-{each.directory.name}")
            each.stop()
        assert database.execute("SELECT DISTINCT replica FROM audit_checkpoints ORDER BY 1") == [("one",), ("other",)]
        for each in (daemon, other):
            verified = keyd(each, "audit", "verify", "--json")
            assert verified.returncode == 0, verified.stdout + verified.stderr
        trail = daemon.directory / "state/audit/audit.jsonl"
        trail.write_bytes(b"".join(trail.read_bytes().splitlines(keepends=True)[:-2]))
        verified = keyd(daemon, "audit", "verify", "--json")
        assert verified.returncode == 1
        assert "the database knows record" in json.loads(verified.stdout)["findings"][0]["message"]
    finally:
        other.close()


def test_the_configuration_is_shown_without_the_password_and_not_reloaded(daemon: DaemonProcess) -> None:
    shown = keyd(daemon, "config", "show")
    assert 'password = { env = "KEYD_TEST_DB" }' in shown.stdout
    assert PASSWORD not in shown.stdout
    daemon.start()
    daemon.config.write_text(daemon.config.read_text().replace('replica = "one"', 'replica = "two"'))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "store.replica: cannot change without a restart" in daemon.log.read_text())
