import copy
import json
import math

import grpc
import jwt
import pytest
from cryptography.exceptions import InvalidSignature

from keyd import client as keyd
from keyd.client import Client, InputKind, SignInput, calls
from keyd.service.bounds import Bounds
from keyd.v1 import signing_service_pb2 as pb

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def verify(daemon, signature: keyd.Signature, data: bytes) -> None:
    daemon.public_keys()[signature.kid].verify(signature.signature, data)


def test_signatures_of_every_kind(daemon, client) -> None:
    for method, field in (
        (client.sign_base, "signature_base"),
        (client.sign_jws, "jws_signing_input"),
        (client.sign_message, "message"),
    ):
        signature = method("agent", b"data")
        verify(daemon, signature, b"data")
        with pytest.raises(InvalidSignature):
            verify(daemon, signature, b"Data")
        assert (signature.kid, signature.version, signature.http_algorithm, signature.jose_algorithm) == (
            "agent-1",
            1,
            "ed25519",
            "Ed25519",
        )
        assert daemon.requests[-1].WhichOneof("input") == field


def test_unavailable_twice_then_fine(daemon, client) -> None:
    daemon.faults.extend([daemon.Fault(UNAVAILABLE), daemon.Fault(UNAVAILABLE, "BACKEND_UNAVAILABLE")])
    verify(daemon, client.sign_base("agent", b'"x'), b'"x')
    assert daemon.calls == ["Sign"] * 3


def test_over_the_rate_it_waits_as_long_as_it_is_told(daemon, client, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    daemon.faults.append(daemon.Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE", retry_after="1.250"))
    verify(daemon, client.sign_base("agent", b'"x'), b'"x')
    assert slept == [1.25]
    daemon.faults.append(daemon.Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE", retry_after="60"))
    with pytest.raises(keyd.ResourceExhausted):  # longer than anybody waits
        client.sign_base("agent", b'"x')
    assert slept == [1.25]


def test_unavailable_once_too_often(daemon, client) -> None:
    daemon.faults.extend(daemon.Fault(UNAVAILABLE, "BACKEND_UNAVAILABLE") for _ in range(3))
    with pytest.raises(keyd.Unavailable) as caught:
        client.sign_base("agent", b'"x')
    assert caught.value.reason == "BACKEND_UNAVAILABLE"
    assert daemon.calls == ["Sign"] * 3


def test_no_daemon(tmp_path) -> None:
    with (
        Client(f"unix:{tmp_path}/none.sock", retries=0) as client,
        pytest.raises(keyd.Unavailable, match="check that the daemon runs"),
    ):
        client.jwks()


def test_deadline(daemon) -> None:
    daemon.hang = True
    with Client(daemon.address, timeout=0.1) as client, pytest.raises(keyd.DeadlineExceeded, match="raise the client's timeout"):
        client.sign_base("agent", b'"x')
    assert daemon.calls == ["Sign"]


def test_a_signature_of_another_version_than_asked_is_dropped(daemon, client) -> None:
    daemon.lie_about_kid = True
    with pytest.raises(keyd.InternalError, match="instead of 'agent-1'"):
        client.sign_base("agent", b'"x', kid="agent-1")


def test_key_info(daemon, client) -> None:
    daemon.rotate("agent")
    info = client.key_info("agent")
    assert (info.name, info.jose_algorithm, info.http_algorithm) == ("agent", "Ed25519", "ed25519")
    assert info.purposes == {"http", "jwt"}
    assert [(v.kid, v.state) for v in info.versions] == [("agent-2", "active"), ("agent-1", "deactivated")]
    assert info.active == info.versions[0]
    assert info.active.jwk == daemon.versions["agent"][1].jwk()
    assert info.active.deactivate_time is None
    assert hash(info)
    assert copy.copy(info) == info


def test_unknown_words_of_a_newer_daemon() -> None:
    info = calls.key_info(pb.GetKeyResponse.FromString(b"\x2a\x01\x63"))  # purposes: 99
    assert info.purposes == {"unknown_99"}


@pytest.mark.parametrize(("deactivate_time", "known_until"), [(None, 1060), (1010, 1010), (2000, 1060)])
def test_keys_are_remembered_for_a_minute_and_not_past_a_rotation(daemon, deactivate_time, known_until) -> None:
    now = 1000.0
    daemon.deactivate_time = deactivate_time
    with Client(daemon.address, clock=lambda: now) as client:
        client.key_info("agent")
        now = known_until - 0.001
        client.key_info("agent")
        assert len(daemon.calls) == 1
        now = known_until
        client.key_info("agent")
        assert len(daemon.calls) == 2


def test_what_is_remembered_can_be_refreshed_and_does_not_survive_a_clock_set_back(daemon) -> None:
    now = 1000.0
    with Client(daemon.address, clock=lambda: now) as client:
        client.key_info("agent")
        client.key_info("agent", refresh=True)
        assert len(daemon.calls) == 2
        now = 999.0
        client.key_info("agent")
        assert len(daemon.calls) == 3


def test_keys_that_cannot_sign_are_not_remembered(daemon, client) -> None:
    daemon.disabled = True
    assert client.key_info("agent").active is None
    with pytest.raises(keyd.KeyStateError, match="key 'agent' has no active version"):
        client.sign_rebuilding("agent", lambda info: b'"x')
    daemon.disabled = False
    assert client.key_info("agent").active is not None


def test_rebuilds_once_when_the_key_was_rotated_in_between(daemon, client) -> None:
    client.key_info("agent")
    daemon.rotate("agent")
    signature, info = client.sign_rebuilding("agent", lambda info: f'"for {info.active.kid}"'.encode())
    assert (signature.kid, info.active.kid) == ("agent-2", "agent-2")
    verify(daemon, signature, b'"for agent-2"')
    assert daemon.calls == ["GetKey", "Sign", "GetKey", "Sign"]


def test_does_not_rebuild_in_the_sign_grace(daemon, client) -> None:
    client.key_info("agent")
    daemon.rotate("agent", grace=True)
    assert client.sign_rebuilding("agent", lambda info: b'"x')[0].kid == "agent-1"


def test_rebuilds_no_more_than_once(daemon, client) -> None:
    state = [daemon.Fault(grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE", active_kid="agent-9") for _ in range(2)]
    client.key_info("agent")
    built = []

    def build(info: keyd.KeyInfo) -> bytes:
        built.append(info)
        daemon.faults.append(state.pop())
        return b'"x'

    with pytest.raises(keyd.KeyStateError) as caught:
        client.sign_rebuilding("agent", build)
    assert caught.value.active_kid == "agent-9"
    assert len(built) == 2


def test_a_key_state_error_ends_what_was_remembered(daemon, client) -> None:
    client.key_info("agent")
    daemon.rotate("agent")
    with pytest.raises(keyd.KeyStateError):
        client.sign_base("agent", b'"x', kid="agent-1")
    assert client.key_info("agent").active.kid == "agent-2"


def test_a_batch_has_a_result_for_each(daemon, client) -> None:
    items = [
        SignInput("agent", b'"a'),
        SignInput("nobody", b'"b'),
        SignInput("agent", b"eyJ.c", InputKind.JWS_SIGNING_INPUT, "agent-1"),
    ]
    good, missing, jws = client.sign_batch(items)
    verify(daemon, good, b'"a')
    assert isinstance(missing, keyd.NotFound)
    verify(daemon, jws, b"eyJ.c")
    assert daemon.calls == ["SignBatch"]


def test_large_batches_are_cut(daemon, client) -> None:
    results = client.sign_batch(SignInput("agent", str(number).encode()) for number in range(300))
    for number, signature in enumerate(results):
        verify(daemon, signature, str(number).encode())
    assert [len(request.requests) for request in daemon.requests] == [256, 44]
    daemon.requests.clear()
    assert len(client.sign_batch([SignInput("agent", bytes(2**16))] * 16)) == 16
    assert [len(request.requests) for request in daemon.requests] == [12, 4]
    assert all(request.ByteSize() <= Bounds().max_message_bytes for request in daemon.requests)
    assert client.sign_batch([]) == []


def test_lies_in_a_batch(daemon, client) -> None:
    daemon.lie_about_kid = True
    assert isinstance(client.sign_batch([SignInput("agent", b'"a', kid="agent-1")])[0], keyd.InternalError)


def test_jwt(daemon, client) -> None:
    token = client.sign_jwt("agent", {"sub": "x"}, "aa-agent+jwt", lifetime=90.5)
    public = daemon.public_keys()["agent-1"]
    assert jwt.get_unverified_header(token) == {"alg": "Ed25519", "typ": "aa-agent+jwt", "kid": "agent-1"}
    signing_input, _, signature = token.rpartition(".")
    public.verify(jwt.utils.base64url_decode(signature), signing_input.encode())
    request = daemon.requests[-1]
    assert (json.loads(request.claims), request.lifetime.ToMilliseconds()) == ({"sub": "x"}, 90500)
    client.sign_jwt("agent", {}, "t", kid="agent-1")
    assert not daemon.requests[-1].HasField("lifetime")
    with pytest.raises(ValueError, match="JSON"):
        client.sign_jwt("agent", {"exp": float("nan")}, "t")


def test_jwks(daemon, client) -> None:
    daemon.add("other", "ES256")
    assert [jwk["kid"] for jwk in client.jwks()["keys"]] == ["agent-1", "other-1"]
    assert [jwk["kid"] for jwk in client.jwks("other")["keys"]] == ["other-1"]


def test_watch_sees_a_rotation_and_refreshes_what_is_known(daemon, client) -> None:
    client.key_info("agent")
    watch = client.watch(["agent"])
    assert next(watch).active.kid == "agent-1"
    daemon.rotate("agent")
    assert next(watch).active.kid == "agent-2"
    watch.close()
    assert client.key_info("agent").active.kid == "agent-2"
    assert daemon.calls == ["GetKey", "WatchKeys"]


def test_watch_connects_again(daemon, client) -> None:
    daemon.faults.append(daemon.Fault(UNAVAILABLE))
    watch = client.watch(["agent"])
    assert next(watch).active.kid == "agent-1"
    daemon.faults.extend(daemon.Fault(UNAVAILABLE) for _ in range(2))
    daemon.rotate("agent")
    assert next(watch).active.kid == "agent-2"
    assert daemon.calls == ["WatchKeys"] * 4
    watch.close()


def test_the_set_as_it_is_served(daemon, client) -> None:
    found = client.jwk_set()
    assert (found.etag, found.max_age, found.issuers) == ('"1"', 300, {"shop": ("keys.example", "keys.example:8443")})
    assert {"keys": found.keys} == json.loads(found.document)
    with pytest.raises(keyd.NotFound):
        client.jwk_set(issuer="nobody")
    assert [request.issuer for request in daemon.requests] == ["", "nobody"]


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 1}', b"\xff"])
def test_what_is_no_set_is_not_taken_for_one(daemon, client, document: bytes) -> None:
    daemon.jwks_document = document
    with pytest.raises(keyd.InternalError, match="no JWK Set"):
        client.jwks()


def test_a_watch_need_not_give_up(daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.client.retry._FIRST_PAUSE", 0.0)
    daemon.faults.extend(daemon.Fault(UNAVAILABLE) for _ in range(1100))
    with Client(daemon.address, retries=1) as client:
        watch = client.watch(["agent"], retries=math.inf)
        assert next(watch).active.kid == "agent-1"
        watch.close()


def test_watch_gives_up(daemon) -> None:
    daemon.faults.extend(daemon.Fault(UNAVAILABLE) for _ in range(2))
    with Client(daemon.address, retries=1) as client, pytest.raises(keyd.Unavailable):
        next(client.watch(["agent"]))


def test_repr_names_the_address(daemon, client) -> None:
    assert repr(client) == f"Client({daemon.address!r})"
