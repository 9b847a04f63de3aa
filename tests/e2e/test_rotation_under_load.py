"""Threads and tasks sign while a key rotates again and again: the short form of `make rotations`."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
import urllib.request

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from daemon_process import DaemonProcess
from support import signature_base

from keyd.client import AsyncClient, KeyInfo, Signature

WORKERS = 16  # as many threads as tasks
ROTATIONS = int(os.environ.get("KEYD_ROTATIONS", "40"))


class Work:
    """What every worker does again and again, and what came of it."""

    def __init__(self, jwks_url: str) -> None:
        self.jwks_url = jwks_url
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self.counts: list[int] = []

    @staticmethod
    def build(info: KeyInfo) -> bytes:
        assert info.active is not None
        return signature_base(1_700_000_000, keyid=info.active.kid)

    def check(self, signature: Signature, info: KeyInfo) -> None:
        """The kid is the one that the base names, and the JWK Set of this very moment verifies."""
        assert info.active is not None
        assert signature.kid == info.active.kid
        with urllib.request.urlopen(self.jwks_url, timeout=30) as response:
            jwks = {jwk["kid"]: jwk for jwk in json.load(response)["keys"]}
        public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(jwks[signature.kid]["x"] + "="))
        public.verify(signature.signature, self.build(info))

    def thread(self, daemon: DaemonProcess) -> None:
        done = 0
        try:
            with daemon.client() as client:
                while not self.stop.is_set():
                    client.key_info("agent", refresh=done % 5 == 0)
                    self.check(*client.sign_rebuilding("agent", self.build))
                    done += 1
        except BaseException as exc:
            self.failures.append(exc)
        self.counts.append(done)

    async def task(self, client: AsyncClient) -> None:
        done = 0
        while not self.stop.is_set():
            await client.key_info("agent", refresh=done % 5 == 0)
            await asyncio.to_thread(self.check, *await client.sign_rebuilding("agent", self.build))
            done += 1
        self.counts.append(done)

    async def tasks(self, address: str) -> None:
        try:
            async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self.task(client))
        except BaseException as exc:
            self.failures.append(exc)


def test_no_failed_call_and_no_wrong_kid(daemon: DaemonProcess) -> None:
    work = Work(daemon.jwks_url)
    with daemon.admin() as admin:
        admin.create_key(name="agent", profile="vectors")  # its bases have a fixed `created`, so that they can be built twice
        workers = [threading.Thread(target=work.thread, args=(daemon,)) for _ in range(WORKERS)]
        workers.append(threading.Thread(target=lambda: asyncio.run(work.tasks(daemon.address))))
        for worker in workers:
            worker.start()
        started = time.monotonic()
        try:
            for number in range(ROTATIONS):
                assert admin.rotate_key("agent", now=True).version == number + 2
        finally:
            work.stop.set()
            for worker in workers:
                worker.join()
        print(f"{sum(work.counts)} signatures, {ROTATIONS} rotations, {time.monotonic() - started:.1f} s")
        assert not work.failures, work.failures[0]
        assert len(work.counts) == 2 * WORKERS
        assert min(work.counts) > 0
        versions = admin.get_key("agent").versions
        assert len({version.kid for version in versions}) == len(versions) == ROTATIONS + 1
