"""Fifty clients that sign without a pause worth mentioning, each with one retry on another replica, and verify every signature."""

from __future__ import annotations

import asyncio
import base64
import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from support import signature_base

from fleet.history import History
from fleet.replica import CATCHES_UP, Replica
from keyd.client import AsyncClient, Client, KeydClientError, KeyInfo, KeyStateError, Signature

_REFETCH = 5.0  # seconds within which a replica must publish what another signed with, unless it is behind
_PATIENCE = 60.0  # and if it is


def build(info: KeyInfo) -> bytes:
    if info.active is None:
        raise KeyStateError(f"key {info.name!r} has no active version")
    return signature_base(time.time(), keyid=info.active.kid)


class Traffic:
    """Clients in threads and clients in tasks, half of each."""

    def __init__(self, replicas: Sequence[Replica], history: History, keys: Callable[[], list[str]], clients: int) -> None:
        self.replicas = replicas
        self.history = history
        self.keys = keys
        self.clients = clients
        self._stop = threading.Event()
        self._verifiers = [replica.client() for replica in replicas]
        self._threads = [threading.Thread(target=self._blocking, args=(number,)) for number in range(clients // 2)]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._tasks(clients - clients // 2))))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._verifiers:
            client.close()

    def _blocking(self, number: int) -> None:
        """One client in a thread."""
        chance = random.Random(number)
        clients = [replica.client() for replica in self.replicas]
        while not self._stop.is_set():
            key, order = chance.choice(self.keys()), self._order(number)
            self._signed(key, order, lambda at, key=key: _recorded(clients[at], key), chance)
            self._stop.wait(chance.uniform(0.05, 0.45))
        for client in clients:
            client.close()

    def _signed(
        self, key: str, order: list[int], sign: Callable[[int], tuple[Signature, KeyInfo, bytes]], chance: random.Random
    ) -> None:
        begin = time.monotonic()
        errors = []
        for at in order:
            began = time.monotonic()
            try:
                signature, info, base = sign(at)
            except KeydClientError as exc:
                errors.append(self._told(at, exc))
                continue
            self._done(at, key, began, signature, info, base, len(errors), chance)
            return
        self._failed(key, begin, errors)

    async def _tasks(self, count: int) -> None:
        """The clients in tasks."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._task(1000 + number))

    async def _task(self, number: int) -> None:
        chance = random.Random(number)
        clients = [AsyncClient(replica.address, timeout=3.0, retries=0) for replica in self.replicas]
        while not self._stop.is_set():
            key, order = chance.choice(self.keys()), self._order(number)
            begin, errors = time.monotonic(), []
            for at in order:
                began = time.monotonic()
                try:
                    signature, info, base = await _arecorded(clients[at], key)
                except KeydClientError as exc:
                    errors.append(self._told(at, exc))
                    continue
                await asyncio.to_thread(self._done, at, key, began, signature, info, base, len(errors), chance)
                break
            else:
                self._failed(key, begin, errors)
            await asyncio.sleep(chance.uniform(0.05, 0.45))
        for client in clients:
            await client.close()

    def _order(self, number: int) -> list[int]:
        """Each client has a replica that it asks, and one of the others for its one retry."""
        first = number % len(self.replicas)
        return [first, (first + 1 + number // len(self.replicas) % (len(self.replicas) - 1)) % len(self.replicas)]

    def _told(self, at: int, exc: KeydClientError) -> str:
        return f"{self.replicas[at].name}: {exc.code.name} {exc.reason} {exc}"

    def _failed(self, key: str, begin: float, errors: list[str]) -> None:
        what = f"a signature with {key} failed twice in {time.monotonic() - begin:.1f} s: {'; then '.join(errors)}"
        if any(" KEY_STATE " in error for error in errors):
            self.history.lacked(key, begin, what)
        else:
            self.history.fail(what)

    def _done(
        self,
        at: int,
        key: str,
        began: float,
        signature: Signature,
        info: KeyInfo,
        base: bytes,
        retries: int,
        chance: random.Random,
    ) -> None:
        self.history.count("signatures")
        if retries:
            self.history.count("signatures that took the retry")
        _, confirmed = self.history.compromised.get(signature.kid, (0.0, float("inf")))
        if began > confirmed + CATCHES_UP and not self.replicas[at].was_hurt(confirmed):
            self.history.fail(f"{signature.kid} of {key} signed {began - confirmed:.1f} s after it was compromised")
        assert info.active is not None
        if signature.kid != info.active.kid:
            self.history.fail(f"{key} was to sign with {info.active.kid}, and {signature.kid} did")
        self._verify(key, signature, base, chance)

    def _verify(self, key: str, signature: Signature, base: bytes, chance: random.Random) -> None:
        """Verify with a JWK Set of any replica; where the kid is not in it, fetch again, as verifiers do."""
        begin = time.monotonic()
        for attempt in count():
            at = chance.randrange(len(self.replicas))
            try:
                jwks = self._verifiers[at].jwks()
            except KeydClientError:
                if time.monotonic() > begin + _PATIENCE:
                    self.history.fail(f"no JWK Set could be had in {_PATIENCE} s to verify {signature.kid} of {key}")
                    return
                continue
            jwk = next((jwk for jwk in jwks["keys"] if jwk["kid"] == signature.kid), None)
            if jwk is not None:
                if not verifies(jwk, signature.signature, base):
                    self.history.fail(f"a signature with {signature.kid} of {key} does not verify")
                return
            if signature.kid in self.history.compromised:
                self.history.count("signatures not verified, their kid was compromised meanwhile")
                return
            if not attempt and not self.replicas[at].was_hurt(begin):
                with self.history.lock:
                    self.history.late[signature.kid] = self.history.late.get(signature.kid, 0) + 1
            waited = time.monotonic() - begin
            behind = self.replicas[at].was_hurt(time.monotonic() - _REFETCH)
            if (waited > _REFETCH and not behind) or waited > _PATIENCE:
                self.history.fail(
                    f"{self.replicas[at].name} does not publish {signature.kid} of {key} {waited:.1f} s after it signed"
                )
                return
            time.sleep(0.1)


def _recorded(client: Client, key: str) -> tuple[Signature, KeyInfo, bytes]:
    bases: list[bytes] = []

    def recorded(info: KeyInfo) -> bytes:
        bases.append(build(info))
        return bases[-1]

    signature, info = client.sign_rebuilding(key, recorded)
    return signature, info, bases[-1]


async def _arecorded(client: AsyncClient, key: str) -> tuple[Signature, KeyInfo, bytes]:
    bases: list[bytes] = []

    def recorded(info: KeyInfo) -> bytes:
        bases.append(build(info))
        return bases[-1]

    signature, info = await client.sign_rebuilding(key, recorded)
    return signature, info, bases[-1]


def verifies(jwk: dict[str, Any], signature: bytes, data: bytes) -> bool:
    """Verify as somebody who has nothing but the JWK."""
    try:
        if jwk["kty"] == "OKP":
            Ed25519PublicKey.from_public_bytes(_decoded(jwk["x"])).verify(signature, data)
        else:
            numbers = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), ec.SECP256R1())
            half = len(signature) // 2
            encoded = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
            numbers.public_key().verify(encoded, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(text: str) -> int:
    return int.from_bytes(_decoded(text))
