"""A daemon of several processes: to those who use it, it is one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
from service_manager import ServiceManager
from worker_agents import Agent
from worker_daemon import Workers, keyd, kid, number_of, process_of, reloaded, serving, together, wait_for

from keyd.client import KeydClientError
from keyd.core.audit import files
from keyd.workers.pulse import BEAT, HUNG


@pytest.fixture(scope="module")
def kept() -> Iterator[Workers]:
    daemon = Workers()
    try:
        daemon.start()
        with daemon.admin() as admin:
            for name in ("shared", "alpha", "beta"):
                admin.create_key(name, purposes=["raw"])
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def shared(kept: Workers) -> Workers:
    """It runs: a test process that has done the last tests, which stop it, may be given some of the first ones then."""
    if not kept.runs():
        kept.leave_agents()
        kept.start()
    return kept


@pytest.fixture
def apart(shared: Workers) -> Workers:
    """Two programs of it are with two workers."""
    if together(shared):
        shared.stop()
        shared.leave_agents()
        shared.start()
    return shared


def test_two_programs_are_with_two_workers_and_each_keeps_its_grant(apart: Workers) -> None:
    alpha, beta = apart.agent("alpha"), apart.agent("beta")
    before = apart.done_by()
    assert [alpha.sign("alpha"), beta.sign("beta")] == [kid(apart, "alpha"), kid(apart, "beta")]
    assert [alpha.sign("beta"), beta.sign("alpha")] == ["no GRANT", "no GRANT"]
    assert apart.done_by() - before == {"1": 1, "2": 1}


def test_all_connections_of_a_program_are_with_one_worker_so_that_its_rate_is_one(shared: Workers) -> None:
    few = shared.agent("few")
    answers = Counter(few.sign("shared", anew=True).split()[0] for _ in range(8))
    assert answers == {"kid": 5, "no": 3}


def test_over_tcp_an_address_has_one_worker(shared: Workers) -> None:
    with Agent(shared.directory / "alpha", f"127.0.0.1:{shared.port}") as network:
        before = shared.done_by()
        assert {network.sign("shared", anew=True) for _ in range(4)} == {kid(shared, "shared")}
        assert network.sign("alpha") == "no GRANT"
        assert list((shared.done_by() - before).values()) == [4]


def test_over_tcp_the_connections_of_an_account_are_counted_for_all_workers(shared: Workers) -> None:
    def opened(source: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", shared.port), 30, (source, 0))

    def enters(source: str) -> bool:
        with opened(source) as connection:
            return let_in(connection)

    with ExitStack() as stack:
        crowd = [stack.enter_context(opened(f"127.0.0.{number % 2 + 1}")) for number in range(80)]
        assert Counter(map(let_in, crowd)) == {True: 60, False: 20}
    # They have gone, whichever worker had them.
    for source in ("127.0.0.1", "127.0.0.2"):
        wait_for(partial(enters, source))


def let_in(connection: socket.socket) -> bool:
    """Say whether there is a server at the other end, or the connection was closed before there was."""
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        return bool(connection.recv(1))
    except ConnectionError:
        return False


def test_every_worker_knows_of_a_change_when_the_operator_is_told(apart: Workers) -> None:
    agents = [apart.agent("alpha"), apart.agent("beta")]
    with apart.admin() as admin:
        for _ in range(5):
            made = admin.rotate_key("shared", now=True)
            stopped = next(version for version in made.key.versions if version.version == made.version)
            assert {agent.sign("shared") for agent in agents} == {f"kid {stopped.kid}"}
            admin.compromise_version("shared", stopped.version, "leaked")
            signing = {agent.sign("shared") for agent in agents}
            assert len(signing) == 1 and signing.isdisjoint({f"kid {stopped.kid}", ""})
            for _ in range(4):  # whichever worker answers
                assert stopped.kid not in httpx.get(apart.jwks_url).text
        admin.disable_key("shared")
        assert {agent.sign("shared") for agent in agents} == {"no KEY_STATE"}
        admin.enable_key("shared")


def test_keys_that_one_worker_made_are_the_other_s_at_once(apart: Workers) -> None:
    with apart.admin() as admin:
        for number in range(3):
            made = admin.rotate_key("beta", now=True)
            newest = next(version for version in made.key.versions if version.version == made.version)
            assert apart.agent("beta").sign("beta") == f"kid {newest.kid}", number


def test_one_that_does_not_see_a_change_in_time_is_ended_before_the_operator_is_told(apart: Workers) -> None:
    with apart.admin() as admin:
        admin.pause_key("shared")
        operators = set(apart.done_by("pause_key"))
        workers = {number_of(apart, apart.agent(name)): apart.agent(name) for name in ("alpha", "beta")}
        (other,) = workers.keys() - operators
        frozen = process_of(apart, other)
        os.kill(frozen, signal.SIGSTOP)
        admin.disable_key("shared")
        assert frozen not in apart.pids()
        assert workers[other].sign("shared").startswith("no")
        admin.enable_key("shared")
    wait_for(lambda: len(apart.pids()) == 2 and serving(apart, other))


def test_a_reload_reaches_every_worker(apart: Workers) -> None:
    agents, text = [apart.agent("alpha"), apart.agent("beta")], apart.config.read_text()
    assert {agent.sign("shared").split()[0] for agent in agents} == {"kid"}
    reloaded(apart, re.sub(r'keys = \["shared", "(alpha|beta)"\]', r'keys = ["\1"]', text))
    assert {agent.sign("shared") for agent in agents} == {"no GRANT"}
    reloaded(apart, text)
    assert {agent.sign("shared").split()[0] for agent in agents} == {"kid"}


def test_a_configuration_that_is_no_good_is_refused_for_all(shared: Workers) -> None:
    text = shared.config.read_text()
    shared.config.write_text(text.replace("workers = 2", "workers = 3"))
    shared.send(signal.SIGHUP)
    wait_for(lambda: any("server.workers" in str(event.get("problem")) for event in shared.events()))
    shared.config.write_text(text)
    assert shared.agent("alpha").sign("shared").startswith("kid")


def test_a_worker_that_is_killed_under_load_costs_nobody_more_than_one_retry(shared: Workers) -> None:
    stop, failures, signed = threading.Event(), [], Counter[int]()

    def load(number: int) -> None:
        with shared.client(retries=1) as client:
            while not stop.is_set():
                try:
                    client.sign_message("shared", b"x")
                    signed[number] += 1
                except KeydClientError as exc:
                    failures.append(exc)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    kill_who_signs(shared, signed)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def kill_who_signs(daemon: Workers, signed: Counter[int]) -> None:
    """Kill the worker of these callers while it signs, and wait until others have signed and another one is in its place."""
    before = daemon.done_by()
    wait_for(lambda: signed.total() > 50)
    (number,) = daemon.done_by() - before
    killed = process_of(daemon, number)
    os.kill(killed, signal.SIGKILL)
    after = signed.total()
    wait_for(lambda: signed.total() > after + 50)
    wait_for(lambda: killed not in daemon.pids() and len(daemon.pids()) == 2 and serving(daemon, number))


def test_the_trail_of_each_worker_verifies_and_is_shown_with_the_others(shared: Workers) -> None:
    assert {shared.agent("alpha").sign("beta"), shared.agent("beta").sign("alpha")} == {"no GRANT"}
    live = keyd(shared, "audit", "verify", "--live", "--json")
    found = json.loads(live.stdout)
    assert (live.exit_code, found["sound"]) == (0, True), live.stdout
    assert [trail["worker"] for trail in found["trails"]] == [1, 2]
    shown = [json.loads(line) for line in keyd(shared, "audit", "tail", "-n", "500", "--json").stdout.splitlines()]
    assert {record["worker"] for record in shown} == {1, 2}
    refused = [json.loads(line) for line in keyd(shared, "audit", "grep", "--reason", "GRANT", "--json").stdout.splitlines()]
    assert len(refused) >= 2
    assert {record["worker"] for record in refused} <= {1, 2}


def test_a_leader_that_hangs_is_ended_while_nothing_changes_and_another_one_plans(shared: Workers) -> None:
    # This key is made some time after the start, and would be a change.
    wait_for(lambda: any(event.get("key") == "keyd-audit" for event in shared.events()))
    leader = str(planning(shared)[-1])
    frozen, began = process_of(shared, leader), time.monotonic()
    os.kill(frozen, signal.SIGSTOP)
    wait_for(lambda: frozen not in shared.pids())
    assert time.monotonic() - began > (HUNG - 1) * BEAT - 0.1
    [why] = [event for event in shared.events() if event.get("event") == "worker does not answer, so it is ended"]
    assert (why["worker"], why["seconds"]) == (int(leader), HUNG)
    wait_for(lambda: str(planning(shared)[-1]) != leader)
    alpha = shared.agent("alpha")
    wait_for(lambda: alpha.sign("alpha", anew=True) == kid(shared, "alpha"))


def planning(daemon: Workers) -> list[object]:
    """Return which workers were told to plan rotations, one after another."""
    return [event["worker"] for event in daemon.events() if event.get("event") == "this worker plans rotations now"]


def test_what_ends_the_supervisor_ends_the_workers_and_the_next_start_finds_all(shared: Workers) -> None:
    workers = shared.pids()
    shared.stop(signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    shared.start()
    alpha = shared.agent("alpha")
    wait_for(lambda: alpha.sign("alpha", anew=True) == kid(shared, "alpha"))


def test_who_stops_it_stops_every_worker_and_leaves_whole_trails(shared: Workers) -> None:
    workers = shared.pids()
    assert shared.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    trails = [shared.directory / "state/audit", shared.directory / "state/audit/worker-2"]
    for trail in trails:
        last = list(files.records(files.in_directory(trail)))[-2:]
        assert [record.members["operation"] for record in last] == ["stop", "checkpoint"]
    verified = keyd(shared, "audit", "verify")
    assert verified.exit_code == 0, verified.stdout
    newest = trails[1] / files.CURRENT
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-700])  # the end of the second trail is cut off
    assert keyd(shared, "audit", "verify").exit_code == 1
    newest.write_bytes(whole)


def test_one_that_cannot_start_ends_all_with_its_exit_code(kept: Workers) -> None:
    kept.end()
    kek = (kept.directory / "kek").rename(kept.directory / "elsewhere")
    before = kept.env
    with ServiceManager() as manager:
        kept.env = before | manager.env
        kept.start(wait=False)
        assert kept.process is not None
        assert kept.process.wait(60) == 8, kept.log.read_text()[kept.logged :]
        assert manager.hears_nothing(), "one that does not serve is not ready"
    kek.rename(kept.directory / "kek")
    kept.env = before
    assert any(event.get("event") == "worker cannot start" for event in kept.events())
