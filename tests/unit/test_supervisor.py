"""Who has to be in one worker with whom."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support import until

from keyd import config
from keyd.core.principal import Principal
from keyd.workers.child import Child
from keyd.workers.supervisor import Supervisor

CONFIG = """
[server]
state_dir = "/var/lib/keyd"
workers = 2
[grants.operators]
principals = [{ uid = 1 }, { uid = 2 }]
operations = ["*"]
keys = ["*"]
[grants.named]
principals = [{ uid = 3, executable = "/usr/bin/named" }]
keys = ["*"]
purposes = ["http"]
"""
DUAL = '[policy]\ndual_control = ["destroy_version"]\n'


def who(text: str, *principals: Principal) -> set[str]:
    supervisor = Supervisor(config.loads(text, Path("/etc/keyd/keyd.toml")), text, None, {}, 0)
    return {supervisor._who(principal) for principal in principals}


def test_programs_that_no_grant_tells_apart_are_with_one_worker() -> None:
    copies = [Principal(uid=3, executable=f"/tmp/copy-{number}") for number in range(3)]
    assert who(CONFIG, *copies) == {"uid:3"}
    assert len(who(CONFIG, copies[0], Principal(uid=3, executable="/usr/bin/named"))) == 2
    assert len(who(CONFIG, Principal(uid=3), Principal(uid=4))) == 2


async def test_connections_over_tcp_are_counted_for_all_workers_and_go_with_theirs() -> None:
    text = CONFIG + "[connections]\nmax_per_caller = 2\n"
    supervisor = Supervisor(config.loads(text, Path("/etc/keyd/keyd.toml")), text, None, {}, 0)
    one, two = (Child(number, None, None) for number in (1, 2))  # type: ignore[arg-type]
    supervisor._children = {1: one, 2: two}

    async def enter(child: Child, number: int, account: str = "dns:a") -> bool:
        entered: bool = await supervisor._answer(child, "enter", {"connection": number, "account": account})
        return entered

    assert [await enter(one, -1), await enter(two, -1), await enter(two, -2)] == [True, True, False]
    assert await enter(two, -3, "dns:b")
    await supervisor._answer(two, "left", {"connection": -2})  # was not let in
    assert not await enter(one, -2)
    await supervisor._answer(two, "left", {"connection": -1})
    assert [await enter(two, -4), await enter(one, -3)] == [True, False]
    supervisor._lost(one)
    assert not await enter(one, -4), "it has ended"
    assert [await enter(two, -5), await enter(two, -6)] == [True, False]


async def test_a_stop_waits_for_no_worker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    monkeypatch.setattr("keyd.workers.supervisor._FIRST_PAUSE", 1000.0)
    supervisor = Supervisor(config.loads(CONFIG, Path("/etc/keyd/keyd.toml")), CONFIG, None, {}, 0)
    supervisor._started = True
    supervisor._keepers = [asyncio.create_task(supervisor._keep(number, fresh=False)) for number in (1, 2)]
    with capture_logs() as logs:
        await until(lambda: len(logs) == 2)
        assert {entry["event"] for entry in logs} == {"worker ended, another one is started"}
        async with asyncio.timeout(10):
            await supervisor.stop()


@pytest.mark.parametrize(("text", "places"), [(CONFIG, 2), (CONFIG + DUAL, 1)])
def test_two_operators_are_with_one_worker_where_both_have_to_ask(text: str, places: int) -> None:
    assert len(who(text, Principal(uid=1), Principal(uid=2))) == places
    assert who(text, Principal(uid=3)).isdisjoint(who(text, Principal(uid=1)))


@pytest.mark.parametrize("serves", [True, False])
async def test_one_that_starts_has_longer_to_see_a_change(serves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.workers.supervisor.FENCE", 0.0)
    supervisor = Supervisor(config.loads(CONFIG, Path("/etc/keyd/keyd.toml")), CONFIG, None, {}, 0)
    child, asked, killed = Child(1, None, None), list[str](), list[bool]()  # type: ignore[arg-type]

    async def ask(what: str, **about: object) -> None:
        asked.append(what)
        await asyncio.sleep(0.01)

    async def kill() -> None:
        killed.append(True)

    monkeypatch.setattr(child, "ask", ask)
    monkeypatch.setattr(child, "kill", kill)
    if serves:
        child.ready.set()
    await supervisor._reload(child, {"config": None, "path": None})
    assert asked == ["reload"]
    assert bool(killed) == serves
