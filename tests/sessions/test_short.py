"""The short form of `make sessions`, and hours in which something is wrong: those must not be good."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from keyd.client.session import Session
from sessions import day
from sessions.day import live
from sessions.house import STORES, House


def test_requests_cost_the_stores_three_signatures_and_rotations_break_nothing() -> None:
    report = live(24)
    assert report.problems == []
    assert report.figures["requests"] == report.figures["verified"] > 24 * 2
    assert report.figures["refused, as they must be"] == 30
    for store in STORES:  # renewed, and by each of the three versions
        assert report.figures[f"tokens of the agent of {store}"] >= 4


def test_it_notices_a_store_that_signs_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that opens a session for each request."""

    def lost(session: Session) -> None:
        session.close()
        session._closed.clear()

    report = day.Report()
    with ExitStack() as stack:
        house = House(stack)
        before = house.by_keyd(), house.by_stores()
        agents = [day.Agent(house, "softhsm", stack, report)]
        for number in range(4):
            agents[0].send(number, "aauth")
            lost(agents[0].session)
        day._count(house, agents, before, report)
    assert any("softhsm has signed 4 times" in problem for problem in report.problems)
