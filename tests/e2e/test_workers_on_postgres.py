"""A daemon of several processes on PostgreSQL, under a service manager, with a cluster's API server in front: to each of these it is one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from components import postgres
from components.fake_apiserver import FakeApiserver
from components.postgres import PASSWORD, REPLICA, Database, fresh_database
from daemon_process import DaemonProcess
from service_manager import ServiceManager
from worker_daemon import Workers, keyd, kid, process_of, serving, together, wait_for

from keyd.client import KeydClientError
from keyd.core.audit import files
from keyd.core.fleet.leader import LOCK

CLUSTER = """
[kubernetes]
socket = "{directory}/kubernetes.sock"
key = "accounts"
[grants.apiserver]
principals = [{{ executable = "{python}" }}]
keys = ["accounts"]
purposes = ["jwt"]
"""


@dataclass
class Place:
    """The daemon, and what is around it. ``ready`` is the first thing that the service manager was told, ``serving`` how many workers served then."""

    daemon: Workers
    database: Database
    manager: ServiceManager
    ready: tuple[int, list[str]] = (0, [])
    serving: int = 0


@pytest.fixture(scope="module")
def kept() -> Iterator[Place]:
    with fresh_database() as database, ServiceManager() as manager:
        daemon = Workers(REPLICA + CLUSTER, url=database.tcp_url, replica="one")
        daemon.env |= {"KEYD_TEST_DB": PASSWORD, **manager.env}
        place = Place(daemon, database, manager)
        try:
            start(place)
            with daemon.admin() as admin:
                for name in ("shared", "alpha", "beta"):
                    admin.create_key(name, purposes=["raw"])
                admin.create_key("accounts", algorithm="RS256", purposes=["jwt"], profile="kubernetes")
            yield place
        finally:
            daemon.close()


def start(place: Place) -> None:
    def serving() -> int:
        return sum(event.get("event") == "worker serves" for event in place.daemon.events())

    place.manager.forget()
    before = serving() if place.daemon.starts else 0
    place.daemon.start(wait=False)
    place.ready = place.manager.told()
    place.serving = serving() - before
    place.daemon.wait_until_up()


@pytest.fixture
def place(kept: Place) -> Place:
    """It runs: a test process that has done the last tests, which stop it, may be given some of the first ones then."""
    if not kept.daemon.runs():
        kept.daemon.leave_agents()
        start(kept)
    return kept


@pytest.fixture
def apart(place: Place) -> Place:
    """Two programs of it are with two workers."""
    if together(place.daemon):
        place.daemon.stop()
        place.daemon.leave_agents()
        start(place)
    return place


def test_ready_is_said_by_the_supervisor_when_every_worker_serves(place: Place) -> None:
    assert place.daemon.process is not None
    assert (place.ready, place.serving) == ((place.daemon.process.pid, ["READY=1"]), 2)
    for pid in place.daemon.pids():  # none of them can say anything
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert place.manager.hears_nothing()


def test_each_worker_is_a_replica_and_one_of_all_plans(place: Place) -> None:
    names = place.database.execute("SELECT DISTINCT name FROM replicas WHERE name <> 'two' ORDER BY name")
    assert names == [("one",), ("one.2",)]
    wait_for(lambda: len(leaders(place.daemon)) == 1)
    (leader,) = leaders(place.daemon)
    (session,) = lock_holders(place.database)
    killed = process_of(place.daemon, leader)
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(holders := lock_holders(place.database)) == 1 and holders != [session])
    wait_for(lambda: leaders(place.daemon) not in ([], [leader]))
    wait_for(lambda: len(place.daemon.pids()) == 2 and serving(place.daemon, leader))
    assert len(leaders(place.daemon)) == 1


def leaders(daemon: Workers) -> list[str]:
    """Return the numbers of the workers that say that they plan."""
    url = [str(event["metrics"]) for event in daemon.events() if event.get("event") == "serving"][-1]
    return re.findall(r'keyd_replica_leads\{worker="(\d)"\} 1.0', httpx.get(url).text)


def lock_holders(database: Database) -> list[tuple[int]]:
    """Return the sessions that hold the planner's lock."""
    held = "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE datname = %s AND classid = %s AND objid = %s AND granted"
    return database.execute(held, (database.name, *LOCK))


def test_every_worker_knows_of_a_change_when_the_operator_is_told(apart: Place) -> None:
    agents = [apart.daemon.agent("alpha"), apart.daemon.agent("beta")]
    before = apart.daemon.done_by()
    with apart.daemon.admin() as admin:
        for _ in range(3):
            made = admin.rotate_key("shared", now=True)
            stopped = next(version for version in made.key.versions if version.version == made.version)
            assert {agent.sign("shared") for agent in agents} == {f"kid {stopped.kid}"}
            admin.compromise_version("shared", stopped.version, "leaked")
            assert {agent.sign("shared") for agent in agents}.isdisjoint({f"kid {stopped.kid}", ""})
    assert len(apart.daemon.done_by() - before) == 2, "not two workers"


def test_every_worker_hears_of_what_another_replica_changes(apart: Place) -> None:
    agents = [apart.daemon.agent("alpha"), apart.daemon.agent("beta")]
    other = DaemonProcess(sections=REPLICA.format(url=apart.database.tcp_url, replica="two"))
    other.env["KEYD_TEST_DB"] = PASSWORD
    try:
        other.start()
        with other.admin() as admin:
            admin.disable_key("shared")
            wait_for(lambda: [agent.sign("shared") for agent in agents] == ["no KEY_STATE"] * 2)
            admin.enable_key("shared")
            wait_for(lambda: [agent.sign("shared") for agent in agents] == [kid(apart.daemon, "shared")] * 2)
    finally:
        other.close()


def test_without_the_database_every_worker_signs_and_stays(apart: Place) -> None:
    agents, workers = [apart.daemon.agent("alpha"), apart.daemon.agent("beta")], apart.daemon.pids()
    with apart.daemon.admin() as admin:
        with postgres.shared().away():
            assert [agent.sign("shared") for agent in agents] == [kid(apart.daemon, "shared")] * 2
            with pytest.raises(KeydClientError) as caught:
                admin.disable_key("shared")
            assert caught.value.reason == "STORE_UNAVAILABLE"
        admin.disable_key("shared")
        assert {agent.sign("shared") for agent in agents} == {"no KEY_STATE"}
        admin.enable_key("shared")
    assert apart.daemon.pids() == workers


async def test_the_cluster_goes_on_with_another_worker_and_nothing_it_knew_is_undone(place: Place) -> None:
    daemon = place.daemon
    async with FakeApiserver.dial(f"{daemon.directory}/kubernetes.sock") as channel:
        apiserver = FakeApiserver(channel, time.time)
        await apiserver.start()
        with daemon.admin() as admin:
            await asyncio.to_thread(admin.rotate_key, "accounts", now=True)
        await apiserver.cache.sync()
        known, broadcasts = apiserver.cache.current, apiserver.cache.broadcasts
        before = daemon.done_by()
        token = await apiserver.token_request()
        (number,) = daemon.done_by() - before
        os.kill(process_of(daemon, number), signal.SIGKILL)
        await asyncio.to_thread(wait_for, lambda: len(daemon.pids()) == 1)
        again = await apiserver.token_request()
        await apiserver.cache.sync()
        assert (apiserver.cache.current.data_timestamp, apiserver.cache.broadcasts) == (known.data_timestamp, broadcasts)
        assert [key.kid for key in apiserver.cache.current.keys] == [key.kid for key in known.keys]
        for each in (token, again):
            assert await apiserver.authenticate(each)
        (other,) = {"1", "2"} - {number}
        assert daemon.done_by()[other] > before[other]
    await asyncio.to_thread(wait_for, lambda: len(daemon.pids()) == 2 and serving(daemon, number))


@pytest.mark.parametrize("good", [True, False])
def test_a_reload_is_over_when_the_supervisor_says_so(place: Place, good: bool) -> None:
    daemon, text = place.daemon, place.daemon.config.read_text()
    assert daemon.process is not None
    alpha = daemon.agent("alpha")
    assert alpha.sign("shared").startswith("kid")
    changed = text.replace('keys = ["shared", "alpha"]', 'keys = ["alpha"]')
    daemon.config.write_text(changed if good else changed.replace("workers = 2", "workers = 3"))
    daemon.send(signal.SIGHUP)
    pid, (reloading, since) = place.manager.told()
    assert (pid, reloading, since.partition("=")[0]) == (daemon.process.pid, "RELOADING=1", "MONOTONIC_USEC")
    assert place.manager.told() == (daemon.process.pid, ["READY=1"])
    assert alpha.sign("shared").split()[0:2] == ["no", "GRANT"] if good else alpha.sign("shared").startswith("kid")
    daemon.config.write_text(text)
    daemon.send(signal.SIGHUP)
    assert [place.manager.told()[1][0] for _ in range(2)] == ["RELOADING=1", "READY=1"]


def test_whoever_signals_all_of_them_stops_them_in_order(place: Place) -> None:
    daemon = place.daemon
    assert daemon.process is not None
    for pid in [*daemon.pids(), daemon.process.pid]:  # systemd's KillMode=control-group
        os.kill(pid, signal.SIGTERM)
    assert place.manager.told() == (daemon.process.pid, ["STOPPING=1"])
    assert daemon.process.wait(30) == 0
    assert place.manager.hears_nothing()
    assert place.database.execute("SELECT count(*) FROM pg_locks WHERE classid = %s AND objid = %s", LOCK) == [(0,)]


def test_each_trail_is_whole_and_verified_with_the_checkpoints_of_its_worker(kept: Place) -> None:
    kept.daemon.end()
    trails = [kept.daemon.directory / "state/audit", kept.daemon.directory / "state/audit/worker-2"]
    for trail in trails:
        last = list(files.records(files.in_directory(trail)))[-2:]
        assert [record.members["operation"] for record in last] == ["stop", "checkpoint"]
    replicas = kept.database.execute("SELECT DISTINCT replica FROM audit_checkpoints ORDER BY replica")
    assert replicas == [("one",), ("one.2",)]
    verified = keyd(kept.daemon, "audit", "verify", "--json")
    found = json.loads(verified.stdout)
    assert (verified.exit_code, [trail["worker"] for trail in found["trails"]]) == (0, [1, 2]), verified.stdout
    newest = trails[1] / files.CURRENT
    whole = newest.read_bytes()
    newest.write_bytes(b"".join(whole.splitlines(keepends=True)[:-2]))
    assert "the database knows record" in keyd(kept.daemon, "audit", "verify").stdout
    newest.write_bytes(whole)
