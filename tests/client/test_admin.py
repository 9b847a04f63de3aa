import grpc
import pytest

from keyd import client as keyd
from keyd.client import AdminClient
from keyd.v1 import types_pb2


@pytest.fixture
def admin(daemon):
    with AdminClient(daemon.address) as admin:
        yield admin


def test_create_says_what_it_was_told(daemon, admin) -> None:
    response = admin.create_key(
        "new",
        algorithm="ES256",
        backend="hsm",
        purposes=["http", "jwt"],
        profile="aauth",
        kid_format="name-version",
        keyid_aliases=["a"],
        unpublished=True,
        publish_lead=1.5,
        sign_grace=2,
        retention=3,
    )
    assert (response.key.name, list(response.warnings)) == ("new", ["a warning"])
    spec = daemon.requests[-1].spec
    assert spec.algorithm == types_pb2.ALGORITHM_ES256
    assert list(spec.purposes) == [types_pb2.PURPOSE_HTTP, types_pb2.PURPOSE_JWT]
    assert spec.kid_format == types_pb2.KID_FORMAT_NAME_VERSION
    assert (spec.backend, spec.profile, list(spec.keyid_aliases), spec.unpublished) == ("hsm", "aauth", ["a"], True)
    lifecycle = spec.lifecycle
    assert [d.ToMilliseconds() for d in (lifecycle.publish_lead, lifecycle.sign_grace, lifecycle.retention)] == [1500, 2000, 3000]


def test_create_leaves_open_what_it_was_not_told(daemon, admin) -> None:
    admin.create_key("new")
    assert [field.name for field, _ in daemon.requests[-1].spec.ListFields()] == ["name"]


@pytest.mark.parametrize("fields", [{"algorithm": "none"}, {"purposes": ["everything"]}, {"kid_format": "x"}])
def test_words_that_do_not_exist(daemon, admin, fields) -> None:
    with pytest.raises(ValueError, match="has no value"):
        admin.create_key("new", **fields)
    assert daemon.calls == []


def test_import(daemon, admin) -> None:
    admin.import_key("new", pkcs8_pem=b"pem", kid="k", algorithm="PS512")
    request = daemon.requests[-1]
    assert (request.pkcs8_pem, request.kid, request.spec.name) == (b"pem", "k", "new")
    admin.import_key("new", private_jwk=b"{}")
    assert daemon.requests[-1].WhichOneof("material") == "private_jwk"
    for wrong in ({}, {"pkcs8_pem": b"x", "private_jwk": b"x"}):
        with pytest.raises(ValueError, match="exactly one"):
            admin.import_key("new", **wrong)


def test_list_reads_every_page(daemon, admin) -> None:
    daemon.add("b")
    daemon.add("c")
    assert [key.name for key in admin.list_keys()] == ["agent", "b", "c"]
    assert daemon.calls == ["ListKeys"] * 3


def test_the_rest(daemon, admin) -> None:
    assert admin.get_key("agent").name == "agent"
    assert admin.rotate_key("agent", now=True).version == 2
    assert daemon.requests[-1].now
    assert admin.disable_key("agent").name == "agent"
    assert admin.enable_key("agent").name == "agent"
    admin.compromise_version("agent", 1, "stolen")
    assert (daemon.requests[-1].version, daemon.requests[-1].reason) == (1, "stolen")
    admin.destroy_version("agent", 1, force=True)
    assert (daemon.requests[-1].version, daemon.requests[-1].force) == (1, True)
    with pytest.raises(keyd.NotFound):
        admin.get_key("nobody")


def test_only_reading_is_tried_again(daemon, admin) -> None:
    daemon.faults.append(daemon.Fault(grpc.StatusCode.UNAVAILABLE))
    admin.get_key("agent")
    daemon.calls.clear()
    daemon.faults.append(daemon.Fault(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"))
    with pytest.raises(keyd.Unavailable):
        admin.rotate_key("agent")
    assert daemon.calls == ["RotateKey"]
