"""Results from threads reach the loop, whoever wakes it, and whatever became of the loop before."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyd.core.mailbox import Mailbox


async def test_every_letter_arrives_from_many_threads() -> None:
    mailbox, loop = Mailbox(), asyncio.get_running_loop()
    waiters = [loop.create_future() for _ in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        for number, waiter in enumerate(waiters):
            pool.submit(mailbox.post, waiter, number, None)
            if number % 50 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await asyncio.gather(*waiters) == list(range(2000))


async def test_errors_arrive_and_who_is_gone_is_passed_over() -> None:
    mailbox, loop = Mailbox(), asyncio.get_running_loop()
    gone, failing = loop.create_future(), loop.create_future()
    gone.cancel()
    mailbox.post(gone, 1, None)
    mailbox.post(failing, None, ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await failing


def test_a_loop_that_was_closed_first_does_not_block_the_next() -> None:
    mailbox = Mailbox()

    async def leave() -> asyncio.Future[int]:
        return asyncio.get_running_loop().create_future()

    mailbox.post(asyncio.run(leave()), 1, None)

    async def come() -> int:
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        mailbox.post(waiter, 2, None)
        async with asyncio.timeout(20):
            return await waiter

    assert asyncio.run(come()) == 2
