"""A stream whose client goes away leaves nothing at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from support import FakeClock

from keyd.core.guard import Guard
from keyd.core.policy import Policy
from keyd.core.principal import Principal
from keyd.core.signing import Signed
from keyd.service.call import Call, Caller
from keyd.service.signing import SigningService
from keyd.v1 import signing_service_pb2 as pb


class HungSigner:
    def __init__(self) -> None:
        self.asked = 0

    def at_once(self, _: str) -> bool:
        return False

    async def sign(self, *_: object, **__: object) -> Signed:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_client_that_goes_away_leaves_no_tasks() -> None:
    signer = HungSigner()
    service = SigningService(None, signer, None, None, Guard(Policy(), FakeClock()))  # type: ignore[arg-type]

    async def requests() -> AsyncIterator[pb.SignStreamRequest]:
        for number in range(5):
            yield pb.SignStreamRequest(id=number, request=pb.SignRequest(key="agent", message=b"m"))
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    answers = service.sign_stream(requests(), Call(Caller(Principal(uid=0))))
    reading = asyncio.ensure_future(anext(answers))
    async with asyncio.timeout(20):
        while signer.asked < 5:  # noqa: ASYNC110 - it is asked by tasks of the service
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await answers.aclose()
        while asyncio.all_tasks() - before:  # noqa: ASYNC110 - they have been cancelled, and end when they get their turn
            await asyncio.sleep(0)
