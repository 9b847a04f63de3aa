"""Who watches keys is woken for these alone, and a crowd is woken a few at a time."""

from __future__ import annotations

import asyncio

from keyd.core.bells import Bell, Bells


async def rings(bell: Bell) -> bool:
    """Say whether a bell has rung, or is about to."""
    try:
        async with asyncio.timeout(0.05):
            await bell.rung(None)
    except TimeoutError:
        return False
    return True


async def test_it_rings_for_its_keys_alone_and_says_which() -> None:
    bells = Bells()
    with Bell(bells, ["a", "b"]) as one, Bell(bells, ["c"]) as other:
        bells.ring(["b", "d"])
        assert await rings(one)
        assert not await rings(other)
        assert one.news() == {"b"}
        assert one.news() == set()
        assert not await rings(one)
        bells.ring_all()
        assert await rings(one)
        assert await rings(other)
        assert other.news() == set()


async def test_there_are_none_while_nobody_waits_for_a_key() -> None:
    bells = Bells()
    assert not bells
    with Bell(bells, ["a"]):
        assert bells
        with Bell(bells, ["a"]):
            pass
        assert bells
    assert not bells


async def test_what_changes_before_somebody_waits_is_not_lost() -> None:
    bells = Bells()
    with Bell(bells, ["a", "b"]) as bell:
        bells.ring(["a"])
        await asyncio.sleep(0)
        bells.ring(["b"])
        assert await rings(bell)
        assert bell.news() == {"a", "b"}


async def test_it_rings_by_itself_after_a_time() -> None:
    bells = Bells()
    with Bell(bells, ["a"]) as bell:
        await bell.rung(0.01)
        assert bell.news() == set()
        assert not await rings(bell)


async def test_a_crowd_is_woken_a_few_at_a_time() -> None:
    bells, woken = Bells(), []

    async def wait(bell: Bell, number: int) -> None:
        with bell:
            await bell.rung(None)
            woken.append(number)

    tasks = [asyncio.create_task(wait(Bell(bells, ["a"]), number)) for number in range(100)]
    await asyncio.sleep(0)
    bells.ring(["a"])
    for _ in range(5):
        await asyncio.sleep(0)
    assert 0 < len(woken) <= 16, "the loop is taken by all of them at once"
    await asyncio.gather(*tasks)
    assert sorted(woken) == list(range(100))


async def test_nothing_is_kept_of_who_has_gone() -> None:
    bells = Bells()
    with Bell(bells, ["a", "b"]), Bell(bells, ["b"]):
        pass
    assert not bells._by_name
    assert not bells._all
