"""What one caller may cost the daemon, beyond its rate and its turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from guarded import GRANTS, ROOT, SHOP, House, reason
from support import START, signature_base

from keyd.core import errors
from keyd.core.policy import _MAX_KEYS, Allowance, Policy
from keyd.core.principal import Principal
from keyd.core.rates import Rate
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView
from keyd.service import convert
from keyd.service.status import MAX_MESSAGE, to_sign_error, to_status
from keyd.v1 import signing_service_pb2 as pb


class TestStreams:
    async def test_a_defect_ends_the_stream(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        async def defect(*_: Any) -> bytes:
            raise RuntimeError("a defect")

        async def requests() -> AsyncIterator[pb.SignStreamRequest]:
            yield pb.SignStreamRequest(id=1, request=pb.SignRequest(key="shop-1", signature_base=signature_base(START)))
            await asyncio.Event().wait()

        monkeypatch.setattr(BackendRunner, "sign", defect)
        monkeypatch.setattr(BackendRunner, "signs_inline", lambda *_: False)  # or it is not asked to wait
        with pytest.raises(RuntimeError, match="a defect"):
            async with asyncio.timeout(20):
                async for _ in house.services["signing"].sign_stream(requests(), house.call(SHOP)):
                    pass
        assert house.audit.last()[3] == "INTERNAL"


class TestWhatCallersCost:
    async def test_an_empty_batch_counts(self, house: House) -> None:
        house.guard.policy = Policy(GRANTS, allowance=Allowance(Rate(1, 20)))
        batches = [await reason(house.services["signing"].sign_batch(pb.SignBatchRequest(), house.call(SHOP))) for _ in range(3)]
        assert batches == ["SIZE", "SIZE", "RATE"]

    def test_names_of_keys_are_not_kept_without_bound(self) -> None:
        rights = Policy(GRANTS).rights(Principal(uid=SHOP.uid))
        for number in range(1000):
            rights.know(f"shop-{number}")
        assert len(rights._by_key) <= _MAX_KEYS

    async def test_what_a_caller_sends_does_not_come_back_whole(self, house: House) -> None:
        house.guard.policy = Policy(owners={0})
        for key, kid in (("\0" * 100_000, ""), ("other", "\0" * 100_000)):
            request = pb.SignRequest(key=key, kid=kid, signature_base=signature_base(START))
            with pytest.raises(errors.NotFoundError) as caught:
                await house.services["signing"].sign(request, house.call(ROOT))
            assert len(to_status(caught.value).message) <= MAX_MESSAGE + 3
            assert len(to_sign_error(caught.value).message) <= MAX_MESSAGE + 3

    async def test_a_change_of_one_key_does_not_cost_all_that_are_watched(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.guard.policy = Policy(owners={0})
        rendered = []
        inner = convert.agents_key

        def agents_key(view: KeyView, now: float) -> pb.GetKeyResponse:
            rendered.append(view.key.name)
            return inner(view, now)

        monkeypatch.setattr(convert, "agents_key", agents_key)
        watch = house.services["signing"].watch_keys(pb.WatchKeysRequest(keys=["shop-1", "other"]), house.call(ROOT))
        assert [(await anext(watch)).key.key for _ in range(2)] == ["shop-1", "other"]
        await house.ring.set_enabled("other", False)
        async with asyncio.timeout(20):
            assert (await anext(watch)).key.key == "other"
        assert rendered == ["shop-1", "other", "other"]
        await watch.aclose()
