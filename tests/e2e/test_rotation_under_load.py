"""Threads and tasks sign while keys rotate 200 times."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from daemon_process import DaemonProcess
from support import signature_base

from keyd.client import AsyncClient, KeyInfo

WORKERS, ROTATIONS = 16, 200  # threads and as many tasks; rotations


def test_no_failed_call_and_no_wrong_kid(daemon: DaemonProcess) -> None:
    """Every signature names its kid in the base, and verifies with the JWK Set that is served right then."""
    stop, failures, counts = threading.Event(), [], []
    with daemon.admin() as admin:
        admin.create_key(name="agent")

        def build(info: KeyInfo) -> bytes:
            assert info.active is not None
            return signature_base(time.time(), keyid=info.active.kid)

        def check(signature: Any, info: KeyInfo, base: bytes) -> None:
            assert info.active is not None
            assert signature.kid == info.active.kid
            with urllib.request.urlopen(daemon.jwks_url, timeout=20) as response:
                jwks = {jwk["kid"]: jwk for jwk in json.load(response)["keys"]}
            public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(jwks[signature.kid]["x"] + "="))
            public.verify(signature.signature, base)

        def kept(bases: list[bytes]) -> Callable[[KeyInfo], bytes]:
            def remember(info: KeyInfo) -> bytes:
                bases.append(build(info))
                return bases[-1]

            return remember

        def thread() -> None:
            try:
                with daemon.client() as client:
                    done = 0
                    while not stop.is_set():
                        bases: list[bytes] = []
                        client.key_info("agent", refresh=done % 5 == 0)
                        signature, info = client.sign_rebuilding("agent", kept(bases))
                        check(signature, info, bases[-1])
                        done += 1
                    counts.append(done)
            except Exception as exc:
                failures.append(exc)

        async def task(client: AsyncClient) -> None:
            done = 0
            while not stop.is_set():
                bases: list[bytes] = []
                await client.key_info("agent", refresh=done % 5 == 0)
                signature, info = await client.sign_rebuilding("agent", kept(bases))
                await asyncio.to_thread(check, signature, info, bases[-1])
                done += 1
            counts.append(done)

        async def tasks() -> None:
            try:
                async with AsyncClient(daemon.address) as client, asyncio.TaskGroup() as group:
                    for _ in range(WORKERS):
                        group.create_task(task(client))
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=thread) for _ in range(WORKERS)] + [
            threading.Thread(target=lambda: asyncio.run(tasks()))
        ]
        for worker in threads:
            worker.start()
        try:
            for number in range(ROTATIONS):
                assert admin.rotate_key("agent", now=True).version == number + 2
        finally:
            stop.set()
            for worker in threads:
                worker.join()
        assert not failures, failures[0]
        assert len(counts) == 2 * WORKERS
        assert min(counts) > 0
        versions = admin.get_key("agent").versions
        assert len({version.kid for version in versions}) == len(versions) == ROTATIONS + 1
