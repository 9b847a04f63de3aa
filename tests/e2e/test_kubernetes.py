"""kube-apiserver's part of the ExternalJWTSigner contract, in front of the daemon as a process of its own, in real time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator

import jwt
import pytest
from components.fake_apiserver import FakeApiserver
from daemon_process import DaemonProcess

SECTION = """
[kubernetes]
socket = "{directory}/kubernetes.sock"
key = "accounts"
"""


@pytest.fixture
def prepared() -> Iterator[DaemonProcess]:
    """A daemon with the key of a cluster, which does not run."""
    daemon = DaemonProcess()
    daemon.config.write_text(daemon.config.read_text() + SECTION.format(directory=daemon.directory))
    daemon.start()
    with daemon.admin() as admin:
        admin.create_key(name="accounts", algorithm="RS256", purposes=["jwt"], profile="kubernetes")
    daemon.stop()
    yield daemon
    daemon.close()


@contextlib.asynccontextmanager
async def apiserver_of(daemon: DaemonProcess) -> AsyncIterator[FakeApiserver]:
    async with FakeApiserver.dial(f"{daemon.directory}/kubernetes.sock") as channel:
        yield FakeApiserver(channel, time.time)


async def test_from_a_late_start_through_an_emergency_and_a_kill(prepared: DaemonProcess) -> None:
    async with apiserver_of(prepared) as apiserver:
        starting = asyncio.ensure_future(apiserver.start())
        await asyncio.to_thread(prepared.start)
        await starting
        assert apiserver.max_expiration == 86400
        before = await apiserver.token_request(86400)
        assert (await apiserver.authenticate(before))["kubernetes.io"]["namespace"] == "shop"
        with prepared.admin() as admin:
            await asyncio.to_thread(admin.rotate_key, "accounts", now=True)
        tokens = await asyncio.gather(*(apiserver.token_request() for _ in range(50)))
        assert len({jwt.get_unverified_header(token)["kid"] for token in (before, *tokens)}) == 2
        for token in (before, *tokens):
            assert await apiserver.authenticate(token)
        known, broadcasts = apiserver.cache.current, apiserver.cache.broadcasts
        prepared.stop(9)
        await asyncio.to_thread(prepared.start)
        await apiserver.cache.sync()
        assert (apiserver.cache.current.data_timestamp, apiserver.cache.broadcasts) == (known.data_timestamp, broadcasts)
        assert await apiserver.authenticate(await apiserver.token_request())
    signed = [
        record
        for record in map(json.loads, (prepared.directory / "state/audit/audit.jsonl").read_text().splitlines())
        if record.get("operation") == "sign"
    ]
    assert [record["decision"] for record in signed] == ["allow"] * 52
