"""The fake kube-apiserver refuses what the real one does: each fault by a signer that has it, and nothing of a sound one."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from components.fake_apiserver import FakeApiserver, FatalError, RefusedError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.timestamp_pb2 import Timestamp
from support import START

from backends.api import Algorithm
from backends.encoding import sign_with
from keyd.externaljwt.v1 import api_pb2 as pb
from keyd.externaljwt.v1 import api_pb2_grpc

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("kid-1", "kid-2")}


def pkix(name: str) -> bytes:
    return KEYS[name].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class FaultySigner:
    """A signer whose answers the test spoils."""

    def __init__(self) -> None:
        stamp = Timestamp(seconds=int(START))
        self.keys = pb.FetchKeysResponse(data_timestamp=stamp, refresh_hint_seconds=5)
        self.keys.keys.add(key_id="kid-1", key=pkix("kid-1"))
        self.keys.keys.add(key_id="kid-2", key=pkix("kid-2"), exclude_from_oidc_discovery=True)
        self.metadata = pb.MetadataResponse(max_token_expiration_seconds=600)
        self.header: Any = {"alg": "ES256", "kid": "kid-1", "typ": "JWT"}
        self.signature: str | None = None
        self.signs_with = "kid-1"
        self.gate = asyncio.Event()
        self.gate.set()

    async def FetchKeys(self, request: Any, context: Any) -> pb.FetchKeysResponse:
        await self.gate.wait()
        return self.keys

    async def Metadata(self, request: Any, context: Any) -> pb.MetadataResponse:
        return self.metadata

    async def Sign(self, request: Any, context: Any) -> pb.SignJWTResponse:
        header = self.header if isinstance(self.header, str) else b64(json.dumps(self.header).encode())
        signature = b64(sign_with(KEYS[self.signs_with], Algorithm.ES256, f"{header}.{request.claims}".encode()))
        return pb.SignJWTResponse(header=header, signature=signature if self.signature is None else self.signature)


@pytest.fixture
async def signer() -> FaultySigner:
    return FaultySigner()


@pytest.fixture
async def apiserver(signer: FaultySigner) -> AsyncIterator[FakeApiserver]:
    server = grpc.aio.server()
    api_pb2_grpc.add_ExternalJWTSignerServicer_to_server(signer, server)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="keyd-s-") as directory:
        path = str(Path(directory) / "s")
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        async with FakeApiserver.dial(path) as channel:
            yield FakeApiserver(channel, lambda: START)
        await server.stop(0)


async def test_a_sound_signer_is_taken(signer: FaultySigner, apiserver: FakeApiserver) -> None:
    await apiserver.start()
    assert (apiserver.max_expiration, apiserver.next_fetch, apiserver.cache.broadcasts) == (600, START + 5, 1)
    assert apiserver.discovery() == ["kid-1"]
    assert await apiserver.authenticate(await apiserver.token_request())
    await apiserver.cache.sync()
    assert apiserver.cache.broadcasts == 1


KEY_FAULTS: dict[str, Callable[[Any], Any]] = {
    "invalid refresh hint": lambda keys: setattr(keys, "refresh_hint_seconds", 0),
    "found no keys": lambda keys: keys.ClearField("keys"),
    "invalid data timestamp": lambda keys: keys.ClearField("data_timestamp"),
    "invalid data timestamp, nanos": lambda keys: setattr(keys.data_timestamp, "nanos", -1),
    "invalid public key id": lambda keys: setattr(keys.keys[1], "key_id", ""),
    "invalid public key id, 1025": lambda keys: setattr(keys.keys[1], "key_id", "x" * 1025),
    "empty public key": lambda keys: setattr(keys.keys[1], "key", b""),
    "public key does not parse": lambda keys: setattr(keys.keys[1], "key", b"\x30\x00"),
}


@pytest.mark.parametrize("fault", KEY_FAULTS)
async def test_faults_of_keys(fault: str, signer: FaultySigner, apiserver: FakeApiserver) -> None:
    await apiserver.cache.sync()
    sound = apiserver.cache.current
    KEY_FAULTS[fault](signer.keys)
    with pytest.raises(RefusedError, match=fault.partition(",")[0]):
        await apiserver.cache.sync()
    assert apiserver.cache.current is sound
    apiserver.next_fetch = START
    await apiserver.tick()
    assert apiserver.next_fetch == START + 10
    with pytest.raises(FatalError):
        await apiserver.start()


async def test_a_kid_of_1024_bytes_is_taken(signer: FaultySigner, apiserver: FakeApiserver) -> None:
    signer.keys.keys[0].key_id = signer.header["kid"] = "x" * 1024
    await apiserver.start()
    assert await apiserver.authenticate(await apiserver.token_request())


HEADER_FAULTS: dict[str, Any] = {
    "key id missing": {"alg": "ES256", "typ": "JWT"},
    "key id missing, empty": {"alg": "ES256", "typ": "JWT", "kid": ""},
    "key id longer than 1 kb": {"alg": "ES256", "typ": "JWT", "kid": "x" * 1025},
    "bad signing algorithm": {"alg": "", "typ": "JWT", "kid": "kid-1"},
    "bad signing algorithm, EdDSA": {"alg": "EdDSA", "typ": "JWT", "kid": "kid-1"},
    "bad signing algorithm, PS512": {"alg": "PS512", "typ": "JWT", "kid": "kid-1"},
    "bad type": {"alg": "ES256", "typ": "jwt", "kid": "kid-1"},
    "bad type, none": {"alg": "ES256", "kid": "kid-1"},
    "header has unknown fields": {"alg": "ES256", "typ": "JWT", "kid": "kid-1", "crit": []},
    "header is not JSON": b64(b"no JSON"),
    "header is not base64url": "e30=",
    "key is excluded from OIDC discovery": {"alg": "ES256", "typ": "JWT", "kid": "kid-2"},
}


@pytest.mark.parametrize("fault", HEADER_FAULTS)
async def test_faults_of_headers(fault: str, signer: FaultySigner, apiserver: FakeApiserver) -> None:
    await apiserver.start()
    signer.header = HEADER_FAULTS[fault]
    with pytest.raises(RefusedError, match=fault.partition(",")[0]):
        await apiserver.token_request()


async def test_an_empty_signature(signer: FaultySigner, apiserver: FakeApiserver) -> None:
    await apiserver.start()
    signer.signature = ""
    with pytest.raises(RefusedError, match="empty signature"):
        await apiserver.token_request()


async def test_tokens_of_other_keys(signer: FaultySigner, apiserver: FakeApiserver) -> None:
    """A key that is not in the set, and another key under the same kid: signed, and not believed."""
    await apiserver.start()
    signer.header = {"alg": "ES256", "kid": "kid-3", "typ": "JWT"}
    unknown = await apiserver.token_request()
    signer.header = {"alg": "ES256", "kid": "kid-1", "typ": "JWT"}
    signer.signs_with = "kid-2"
    for token in (unknown, await apiserver.token_request()):
        with pytest.raises(RefusedError, match="invalid bearer token"):
            await apiserver.authenticate(token)


@pytest.mark.parametrize(("seconds", "flag"), [(599, None), (600, 601), (0, None)])
async def test_faults_of_metadata(seconds: int, flag: int | None, signer: FaultySigner, apiserver: FakeApiserver) -> None:
    signer.metadata.max_token_expiration_seconds = seconds
    apiserver._flag = flag
    with pytest.raises(FatalError):
        await apiserver.start()


async def test_a_change_is_picked_up_at_the_hint_and_not_before(signer: FaultySigner, apiserver: FakeApiserver) -> None:
    await apiserver.start()
    now = START
    apiserver._clock = lambda: now
    signer.keys.keys[1].exclude_from_oidc_discovery = False
    now += 4
    await apiserver.tick()
    assert apiserver.discovery() == ["kid-1"]
    now += 1
    await apiserver.tick()
    assert (apiserver.discovery(), apiserver.cache.broadcasts) == (["kid-1", "kid-2"], 2)


CHANGES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "timestamp": (lambda keys: setattr(keys.data_timestamp, "nanos", 1), True),
    "count": (lambda keys: keys.keys.pop(), True),
    "order": (lambda keys: keys.keys.reverse(), True),
    "kid": (lambda keys: setattr(keys.keys[0], "key_id", "kid-9"), True),
    "excluded": (lambda keys: setattr(keys.keys[0], "exclude_from_oidc_discovery", True), True),
    "only the key itself": (lambda keys: setattr(keys.keys[0], "key", pkix("kid-2")), False),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_counts_as_a_change(change: str, signer: FaultySigner, apiserver: FakeApiserver) -> None:
    await apiserver.cache.sync()
    alter, counts = CHANGES[change]
    alter(signer.keys)
    await apiserver.cache.sync()
    assert apiserver.cache.broadcasts == 1 + counts


async def test_one_fetch_at_a_time(signer: FaultySigner, apiserver: FakeApiserver) -> None:
    await apiserver.start()
    signer.gate.clear()
    lookups = [asyncio.ensure_future(apiserver.cache.get("unknown")) for _ in range(20)]
    await asyncio.sleep(0)
    signer.gate.set()
    assert await asyncio.gather(*lookups) == [[]] * 20
    assert apiserver.cache.fetches == 2
