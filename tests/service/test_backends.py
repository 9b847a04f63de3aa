"""BackendService and AdoptKey over a real socket."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from service_conftest import Running, refused
from support import START, signature_base

from backends.api import Algorithm
from backends.errors import BackendUnavailableError
from keyd.v1 import backend_service_pb2 as pb
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2, types_pb2


async def test_backends_and_what_they_hold(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    created = await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name="agent")))
    (backend,) = (await running.backends.ListBackends(pb.ListBackendsRequest())).backends
    assert (backend.name, backend.type, backend.key_count, backend.imports, backend.failure) == ("file", "file", 1, True, "")
    assert len(backend.algorithms) == 5
    (stored,) = (await running.backends.ListStoredKeys(pb.ListStoredKeysRequest(backend="file"))).keys
    assert (stored.key, stored.version, stored.kid) == ("agent", 1, created.key.versions[0].kid)
    refusal = await refused(running.backends.ListStoredKeys(pb.ListStoredKeysRequest(backend="nope")))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT

    def away() -> None:
        raise BackendUnavailableError("token removed")

    monkeypatch.setattr(running.daemon.keyring.backends["file"].backend, "public_key", lambda handle: away())
    assert not await running.daemon.monitor.look("file")
    (backend,) = (await running.backends.ListBackends(pb.ListBackendsRequest())).backends
    assert "token removed" in backend.failure


async def test_what_a_backend_holds_is_told_in_order(running: Running) -> None:
    for name in ("m", "a", "z", "b", "y"):  # sorted neither forwards nor backwards, whichever way the file system keeps them
        await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name=name)))
    stored = (await running.backends.ListStoredKeys(pb.ListStoredKeysRequest(backend="file"))).keys
    assert [each.key for each in stored] == ["a", "b", "m", "y", "z"]


async def test_grpc_health_tells_each_backend(running: Running) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def serving(name: str) -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            return answer.status == health_pb2.HealthCheckResponse.SERVING

        names = ("", "keyd.v1.SigningService", "keyd.backend.file")
        assert [await serving(name) for name in names] == [True] * 3
        backend = running.daemon.keyring.backends["file"].backend
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "list", lambda: (_ for _ in ()).throw(BackendUnavailableError("gone")))
            assert not await running.daemon.monitor.look("file")
            assert [await serving(name) for name in names] == [False] * 3
        assert await running.daemon.monitor.look("file")
        assert [await serving(name) for name in names] == [True] * 3


@pytest.mark.parametrize("algorithm", [Algorithm.ED25519, Algorithm.RS256], ids=lambda a: a.value)
async def test_adopt_takes_over_a_key_pair_where_it_lives(running: Running, algorithm: Algorithm) -> None:
    handle = running.daemon.keyring.backends["file"].backend.create("made-elsewhere", 7, algorithm)
    spec = keys_pb.KeySpec(name="adopted")
    if algorithm is Algorithm.RS256:
        refusal = await refused(running.keys.AdoptKey(keys_pb.AdoptKeyRequest(spec=spec, handle=handle)))
        assert "PS512 or RS256" in refusal.message
        spec.algorithm = types_pb2.ALGORITHM_RS256
    key = (await running.keys.AdoptKey(keys_pb.AdoptKeyRequest(spec=spec, handle=handle, kid="known"))).key
    base = signature_base(START, keyid="known")
    assert (await running.signing.Sign(signing_service_pb2.SignRequest(key="adopted", signature_base=base))).kid == "known"
    assert key.algorithm == types_pb2.Algorithm.Value(f"ALGORITHM_{algorithm.value.upper()}")
    rotated = (await running.keys.RotateKey(keys_pb.RotateKeyRequest(name="adopted", now=True))).key
    assert [v.version for v in rotated.versions] == [1, 2]


async def test_adopting_twice_or_nothing_is_refused_and_destroys_nothing(running: Running) -> None:
    backend = running.daemon.keyring.backends["file"].backend
    handle = backend.create("made-elsewhere", 1, Algorithm.ED25519)
    await running.keys.AdoptKey(keys_pb.AdoptKeyRequest(spec=keys_pb.KeySpec(name="one"), handle=handle))
    refusal = await refused(running.keys.AdoptKey(keys_pb.AdoptKeyRequest(spec=keys_pb.KeySpec(name="two"), handle=handle)))
    assert refusal.reason == "ALREADY_EXISTS"
    assert backend.sign(handle, Algorithm.ED25519, b"still there")
    assert (
        await refused(running.keys.AdoptKey(keys_pb.AdoptKeyRequest(spec=keys_pb.KeySpec(name="two"))))
    ).reason == "INVALID_ARGUMENT"
    missing = keys_pb.AdoptKeyRequest(spec=keys_pb.KeySpec(name="two"), handle="nobody.1.key")
    assert (await refused(running.keys.AdoptKey(missing))).reason == "NOT_FOUND"
