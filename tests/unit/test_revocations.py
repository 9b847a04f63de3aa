"""The list of revoked tokens: kept by either database, and seen by whoever shares it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from stores import KINDS, Stores, add, opened, run
from support import START, FakeClock

from keyd.core.errors import StoreUnavailableError
from keyd.core.sessions.revocations import Revocations, Revoked

ISSUER, OTHER = "https://agents.example", "https://other.example"
DAY = 86400.0
FIRST = Revoked(ISSUER, "first", START + 3600, START)
SECOND = Revoked(ISSUER, "second", START + 60, START)


@pytest.fixture(params=KINDS)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    yield from opened(request.param, tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_what_is_revoked_is_listed_also_after_a_restart(stores: Stores, clock: FakeClock) -> None:
    before = Revocations(clock, stores.open())
    await before.revoke([FIRST, SECOND, replace(FIRST, issuer=OTHER)])
    after = Revocations(clock, stores.open())
    assert after.listed() == []
    await after.refresh()
    for each in (before, after):
        assert each.listed(ISSUER) == [SECOND, FIRST], "in the order in which they end"
        assert [token.issuer for token in each.listed()] == [ISSUER, ISSUER, OTHER]
        assert each.listed("https://nobody.example") == []


async def test_another_replica_sees_it_and_nobody_reads_twice(stores: Stores, clock: FakeClock) -> None:
    one, other = Revocations(clock, stores.open()), Revocations(clock, stores.open("other"))
    await one.revoke([FIRST])
    await other.refresh()
    assert other.listed() == [FIRST]
    state = other.state
    add(stores.open("third"))  # a change of something else
    await other.refresh()
    assert other.state is state
    assert other.newest_change > one.newest_change, "so that one, too, is told to read"
    await other.revoke([SECOND])
    await one.refresh()
    assert one.listed() == other.listed() == [SECOND, FIRST]


async def test_one_that_is_there_stays_as_it_is(stores: Stores, clock: FakeClock) -> None:
    one, other = Revocations(clock, stores.open()), Revocations(clock, stores.open("other"))
    await one.revoke([FIRST])
    await other.revoke([replace(FIRST, expires=START + 1, revoked_at=START + 1), SECOND])
    fresh = Revocations(clock, stores.open("third"))
    await fresh.refresh()
    assert fresh.listed() == [SECOND, FIRST]
    await one.revoke([replace(FIRST, expires=START + 1)])
    assert one.listed() == [FIRST]


async def test_one_that_is_over_leaves_the_list_and_the_database(stores: Stores, clock: FakeClock) -> None:
    store = stores.open()
    revocations = Revocations(clock, store)
    await revocations.revoke([FIRST, SECOND])
    clock.advance(59.9)
    assert revocations.listed() == [SECOND, FIRST]
    clock.advance(0.1)
    assert revocations.listed() == [FIRST]
    clock.advance(DAY)
    await revocations.revoke([replace(SECOND, token_id="third", expires=START + DAY + 90)])
    assert run(store, "SELECT token_id FROM revoked_tokens ORDER BY token_id") == [("first",), ("third",)]
    assert [token_id for _, token_id in revocations._listed] == ["first", "third"]


async def test_without_the_database_it_is_not_revoked_and_what_was_stays_listed(
    stores: Stores, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.open()
    revocations = Revocations(clock, store)
    await revocations.revoke([FIRST])

    def away() -> None:
        raise OperationalError("", {}, Exception("away"))

    with monkeypatch.context() as patch:
        patch.setattr(store._database._engine, "begin", away)
        patch.setattr(store._database._engine, "connect", away)
        with pytest.raises(StoreUnavailableError):
            await revocations.revoke([SECOND])
        with pytest.raises(StoreUnavailableError):
            await revocations.refresh()
        assert revocations.listed() == [FIRST]
    await revocations.revoke([SECOND])
    assert revocations.listed() == [SECOND, FIRST]


async def test_what_the_database_lost_is_revoked_again(stores: Stores, clock: FakeClock) -> None:
    """A standby took over that lacked the last commits."""
    store = stores.open()
    revocations, other = Revocations(clock, store), Revocations(clock, stores.open("other"))
    await revocations.revoke([FIRST, SECOND])
    await revocations.refresh()
    read = revocations.newest_change
    run(store, "DELETE FROM revoked_tokens WHERE token_id = 'first'")
    run(store, "UPDATE changes SET last = last - 1")
    clock.advance(61)
    await revocations.reload()
    assert revocations.listed() == [FIRST]
    assert revocations.newest_change < read
    await other.reload()
    assert other.listed() == [FIRST]
    run(store, "UPDATE revoked_tokens SET expires_at = :at", at=START + 62)
    await revocations.reload()
    assert run(store, "SELECT expires_at FROM revoked_tokens WHERE token_id = 'first'") == [(START + 3600,)]
    run(store, "DELETE FROM revoked_tokens")
    await Revocations(clock, store).reload()
    assert run(store, "SELECT token_id FROM revoked_tokens") == [], "who never knew of it loses nothing"


async def test_whoever_depends_on_it_is_told(clock: FakeClock) -> None:
    revocations, told = Revocations(clock), []
    revocations.on_change = lambda: told.append(len(revocations.listed()))
    for tokens in ([FIRST], [FIRST], [], [FIRST, SECOND]):
        await revocations.revoke(tokens)
    assert told == [1, 2]


async def test_one_that_was_over_can_be_revoked_again(stores: Stores, clock: FakeClock) -> None:
    """With an ``exp`` that was too soon, first."""
    one, other = Revocations(clock, stores.open()), Revocations(clock, stores.open("other"))
    await one.revoke([replace(FIRST, expires=START + 1)])
    await other.refresh()
    clock.advance(2)
    assert one.listed() == other.listed() == []
    await one.revoke([FIRST])
    await other.refresh()
    assert one.listed() == other.listed() == [FIRST]


async def test_a_later_end_counts_everywhere_and_after_a_restart(stores: Stores, clock: FakeClock) -> None:
    one, other = Revocations(clock, stores.open()), Revocations(clock, stores.open("other"))
    told: list[str] = []
    other.on_change = lambda: told.append("changed")
    assert await one.revoke([replace(FIRST, expires=START + 1)]) == [replace(FIRST, expires=START + 1)]
    await other.refresh()
    assert await one.revoke([FIRST]) == [FIRST]
    await other.refresh()
    fresh = Revocations(clock, stores.open("third"))
    await fresh.refresh()
    assert one.listed() == other.listed() == fresh.listed() == [FIRST]
    assert told == ["changed"] * 2
    assert await other.revoke([replace(FIRST, expires=START + 1)]) == [FIRST], "what it says is what is listed"


async def test_a_clock_that_was_ahead_takes_nothing_off(stores: Stores, clock: FakeClock) -> None:
    ahead = FakeClock()
    ahead.advance(7200)
    one, wrong = Revocations(clock, stores.open()), Revocations(ahead, stores.open("wrong"))
    await one.revoke([FIRST])
    await wrong.refresh()
    assert wrong.listed() == []
    later = replace(FIRST, token_id="later", expires=START + 9000)
    await wrong.revoke([later])
    ahead.advance(-7200)
    fresh = Revocations(clock, stores.open("third"))
    await fresh.refresh()
    assert wrong.listed() == fresh.listed() == [FIRST, later]
