"""The API as a stranger's tool finds it, without our protos: by reflection, through the gated socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemon_process import DaemonProcess
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from support import signature_base

SERVICES = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "keyd.v1.AuditService",
    "keyd.v1.BackendService",
    "keyd.v1.KeyService",
    "keyd.v1.SigningService",
}


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    daemon = DaemonProcess()
    try:
        daemon.start()
        with daemon.admin() as admin:
            admin.create_key("agent")
        with grpc.insecure_channel(daemon.address) as channel:
            yield channel
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def database(channel: grpc.Channel) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(channel)


def base_of_the_docs(now: float, kid: str) -> bytes:
    """The base that docs/clients.md shows to whoever builds one by hand, with a time and a kid in it."""
    text = (Path(__file__).parents[2] / "docs/clients.md").read_text()
    base = "\n".join(line.strip() for line in text.partition("```text\n")[2].partition("```")[0].rstrip().splitlines())
    for shown, meant in (("1800000000", f"{int(now)}"), ("1800000060", f"{int(now) + 60}"), ("KID", kid)):
        assert shown in base
        base = base.replace(shown, meant)
    return base.encode()


def test_every_service_is_listed_and_described(database: ProtoReflectionDescriptorDatabase) -> None:
    assert set(database.get_services()) >= SERVICES
    pool = DescriptorPool(database)
    for service in database.get_services():
        assert pool.FindServiceByName(service).methods
    with pytest.raises(KeyError):
        pool.FindServiceByName("keyd.v1.NoSuchService")


def test_a_call_is_made_from_what_reflection_says_alone(
    channel: grpc.Channel, database: ProtoReflectionDescriptorDatabase
) -> None:
    service = DescriptorPool(database).FindServiceByName("keyd.v1.SigningService")

    def call(name: str, **fields: Any) -> Any:
        method = service.methods_by_name[name]
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        path = f"/{service.full_name}/{name}"
        return channel.unary_unary(path, request.SerializeToString, response.FromString)(request(**fields), timeout=5)

    kid = call("GetKey", key="agent").active.kid
    signed = call("Sign", key="agent", signature_base=signature_base(time.time(), keyid=kid))
    assert (len(signed.signature), signed.kid, signed.http_algorithm) == (64, kid, "ed25519")
    assert call("Sign", key="agent", signature_base=base_of_the_docs(time.time(), kid)).kid == kid
    for base in (signature_base(time.time() - 600, keyid=kid), base_of_the_docs(time.time(), "another")):
        with pytest.raises(grpc.RpcError) as refused:
            call("Sign", key="agent", signature_base=base)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(("version", "served"), [("v1", True), ("v1alpha", True), ("v2", False)])
def test_the_versions_of_reflection(channel: grpc.Channel, version: str, served: bool) -> None:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = call(iter([reflection_pb2.ServerReflectionRequest(list_services="*")]), timeout=5)
    if served:
        assert {service.name for service in next(answers).list_services_response.service} >= SERVICES
    else:
        with pytest.raises(grpc.RpcError) as unknown:
            next(answers)
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
