"""Callers in the moment in which a key lacks an active version: one was compromised, and its successor is being made."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from service_conftest import Running, refused
from support import signature_base

from backends.api import Algorithm
from keyd.client import AsyncClient, KeyInfo, KeyStateError
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import types_pb2

KEY = keys_pb.KeySpec(name="agent", purposes=[types_pb2.PURPOSE_HTTP, types_pb2.PURPOSE_JWT])
COMPROMISE = keys_pb.CompromiseVersionRequest(name="agent", version=1, reason="drill")


class Slow:
    """A backend that makes no key pair until it is let."""

    def __init__(self, running: Running, patch: pytest.MonkeyPatch) -> None:
        self.asked, self.let = threading.Event(), threading.Event()
        backend = running.daemon.keyring.backends["file"].backend
        create = backend.create

        def slow(name: str, version: int, algorithm: Algorithm) -> str:
            self.asked.set()
            assert self.let.wait(20)
            return create(name, version, algorithm)

        patch.setattr(backend, "create", slow)


@pytest.fixture
async def slow(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=KEY))
    slow = Slow(running, monkeypatch)
    yield slow
    slow.let.set()


async def compromised(running: Running, slow: Slow) -> asyncio.Future[keys_pb.CompromiseVersionResponse]:
    """Compromise the active version; return once its successor is being made."""
    call = asyncio.ensure_future(running.keys.CompromiseVersion(COMPROMISE))  # type: ignore[arg-type]
    assert await asyncio.to_thread(slow.asked.wait, 20)
    return call


def build(now: float, info: KeyInfo) -> bytes:
    assert info.active is not None
    return signature_base(now, keyid=info.active.kid)


async def test_one_retry_of_the_client_hides_it(running: Running, slow: Slow) -> None:
    async with AsyncClient(running.address) as known, AsyncClient(running.address) as new:
        await known.key_info("agent")
        call = await compromised(running, slow)
        now = running.clock.now()
        signing = [
            asyncio.ensure_future(client.sign_rebuilding("agent", lambda info: build(now, info))) for client in (known, new)
        ]
        await asyncio.wait(signing, timeout=0.2)
        slow.let.set()
        assert [(await each)[0].version for each in signing] == [2, 2]
        await call


async def test_who_names_no_version_waits_as_well(running: Running, slow: Slow) -> None:
    async with AsyncClient(running.address) as client:
        call = await compromised(running, slow)
        base = signature_base(running.clock.now())
        signing = [
            asyncio.ensure_future(client.sign_base("agent", base)),
            asyncio.ensure_future(client.sign_jwt("agent", {"iss": "x"}, "JWT", lifetime=60)),
        ]
        await asyncio.wait(signing, timeout=0.2)
        running.clock.advance(0.2)
        slow.let.set()
        assert (await signing[0]).version == 2
        await signing[1]
        await call


async def test_the_answer_comes_within_the_callers_deadline(running: Running, slow: Slow) -> None:
    call = await compromised(running, slow)
    answer = await running.signing.GetKey(pb.GetKeyRequest(key="agent"), timeout=1)
    assert not answer.HasField("active")
    sign = pb.SignRequest(key="agent", signature_base=signature_base(running.clock.now()))
    assert (await refused(running.signing.Sign(sign, timeout=1))).reason == "KEY_STATE"
    slow.let.set()
    await call


async def test_nobody_waits_longer_than_two_seconds_after_the_compromise(running: Running, slow: Slow) -> None:
    call = await compromised(running, slow)
    running.clock.advance(2)
    began = time.monotonic()
    assert not (await running.signing.GetKey(pb.GetKeyRequest(key="agent"))).HasField("active")
    async with AsyncClient(running.address) as client:
        with pytest.raises(KeyStateError) as caught:
            await client.sign_base("agent", signature_base(running.clock.now()))
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert time.monotonic() - began < 1
    slow.let.set()
    await call


async def test_who_waits_for_a_key_that_is_disabled_is_told_at_once(running: Running, slow: Slow) -> None:
    call = await compromised(running, slow)
    waiting = asyncio.ensure_future(running.signing.GetKey(pb.GetKeyRequest(key="agent")))  # type: ignore[arg-type]
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    began = time.monotonic()
    await running.keys.DisableKey(keys_pb.DisableKeyRequest(name="agent"))
    assert not (await waiting).HasField("active")
    assert time.monotonic() - began < 1
    slow.let.set()
    await call
