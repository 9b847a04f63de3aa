"""What libraries are given: keys that follow rotations, and keyd's own errors whatever a library makes of them."""

import jwt
import pytest
import requests
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, algorithms
from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError
from joserfc.jwk import KeySet

from keyd import client as keyd
from keyd.client.errors import refusal_behind
from keyd.client.joserfc_keys import joserfc_key, keyd_key
from keyd.client.message_signatures import KeydKeyResolver, sign_message

ALGORITHMS = ("Ed25519", "ES256", "ES384", "PS512", "RS256")


@pytest.fixture(params=ALGORITHMS)
def algorithm(request, daemon) -> str:
    daemon.add("k", request.param)
    return request.param


def keys_of(client, name: str) -> KeySet:
    return KeySet.import_key_set(client.jwks(name))


def test_a_version_can_be_asked_for(daemon, client) -> None:
    assert client.private_key("agent").kid == "agent-1"
    daemon.rotate("agent", grace=True)
    assert client.private_key("agent", "agent-2").kid == "agent-2"  # newer than what the client remembers
    old = client.private_key("agent", "agent-1")
    old.public_key().verify(old.sign(b'"x'), b'"x')
    assert daemon.requests[-1].kid == "agent-1"
    with pytest.raises(keyd.NotFound, match="key 'agent' has no version with kid 'agent-3'"):
        client.private_key("agent", "agent-3")


def test_the_public_jwk_has_the_name_of_the_algorithm(daemon, client, algorithm) -> None:
    key = client.private_key("k")
    assert key.jwk == daemon.versions["k"][0].jwk() | {"kid": "k-1", "alg": algorithm}
    key.jwk.clear()
    assert key.jwk


def test_raw_signatures_are_those_of_the_registries(client, algorithm) -> None:
    assert len(client.private_key("k").sign_raw(b'"x')) == {"Ed25519": 64, "ES256": 64, "ES384": 96}.get(algorithm, 256)


def test_a_library_signs_once_more_after_a_rotation(daemon, client) -> None:
    client.key_info("agent")
    daemon.rotate("agent")
    seen = []

    def use(key: keyd.Ed25519Key) -> str:
        seen.append(key.kid)
        return jwt.encode({"sub": "x"}, key, algorithm="EdDSA", headers={"kid": key.kid})

    token = client.with_private_key("agent", use)
    assert seen == ["agent-1", "agent-2"]
    assert jwt.decode(token, daemon.public_keys()["agent-2"], algorithms=["EdDSA"]) == {"sub": "x"}


def test_but_not_twice_and_not_for_another_reason(daemon, client) -> None:
    for code in (keyd.KeyStateError, keyd.PermissionDenied):
        seen = []

        def use(key: keyd.Ed25519Key, code=code, seen=seen) -> None:
            seen.append(key.kid)
            raise code("no")

        with pytest.raises(code):
            client.with_private_key("agent", use)
        assert len(seen) == (2 if code is keyd.KeyStateError else 1)


def test_what_keyd_said_comes_out_of_what_a_library_made_of_it(client) -> None:
    refusal = keyd.PermissionDenied("the grant does not have this")

    def wraps(key: object) -> None:
        try:
            raise refusal
        except keyd.KeydClientError as exc:
            raise RuntimeError(f"failed to sign: {exc}") from exc

    def in_passing(key: object) -> None:
        try:
            raise refusal
        except keyd.KeydClientError:
            raise RuntimeError("failed to sign")  # noqa: B904 - as libraries do

    for use in (wraps, in_passing):
        with pytest.raises(keyd.PermissionDenied) as caught:
            client.with_private_key("agent", use)
        assert caught.value is refusal


def test_a_librarys_own_error_stays_what_it_is(client) -> None:
    def fails(key: object) -> None:
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        client.with_private_key("agent", fails)

    def hides() -> None:
        try:
            raise keyd.NotFound("of something else")
        except keyd.NotFound:
            raise RuntimeError from None

    with pytest.raises(RuntimeError) as caught:
        hides()
    assert refusal_behind(caught.value) is None


def test_joserfc_signs_and_puts_the_kid_in(daemon, client, algorithm) -> None:
    token = jws.serialize_compact({"alg": algorithm}, b"payload", keyd_key(client, "k"), algorithms=[algorithm])
    assert jws.deserialize_compact(token, keys_of(client, "k"), algorithms=[algorithm]).headers()["kid"] == "k-1"
    with pytest.raises(BadSignatureError):
        jws.deserialize_compact(token.replace(".cGF5", ".cGF6"), keys_of(client, "k"), algorithms=[algorithm])
    another = {"ES256": "ES384", "PS512": "RS256", "RS256": "PS512"}.get(algorithm, "ES256")
    with pytest.raises(JoseError):
        jws.serialize_compact({"alg": another}, b"payload", keyd_key(client, "k"), algorithms=[another])


def test_joserfc_signs_with_the_version_that_the_header_names(daemon, client) -> None:
    daemon.rotate("agent", grace=True)
    for kid in ("agent-1", "agent-2"):
        header = {"alg": "Ed25519", "kid": kid}
        jws.serialize_compact(header, b"payload", keyd_key(client, "agent"), algorithms=["Ed25519"])
        assert daemon.requests[-1].kid == kid


def test_a_joserfc_key_shows_its_public_half_only(client, algorithm) -> None:
    key = joserfc_key(client.private_key("k"))
    assert key.is_private
    assert key.as_dict() == key.as_dict(private=True) == client.private_key("k").jwk
    with pytest.raises(TypeError, match="stays in keyd"):
        key.as_pem(private=True)


def test_messages_of_any_kind(daemon, client, algorithm) -> None:
    message = requests.Request("GET", "https://a.example/x").prepare()
    assert sign_message(client, "k", message, covered_component_ids=("@method", "@authority")) == "k-1"
    of_library = next(
        item for item in vars(algorithms).values() if getattr(item, "algorithm_id", None) == client.key_info("k").http_algorithm
    )
    verifier = HTTPMessageVerifier(signature_algorithm=of_library, key_resolver=KeydKeyResolver(client, "k"))
    assert verifier.verify(message)[0].parameters["keyid"] == "k-1"
    message.method = "POST"
    with pytest.raises(Exception, match=r"(?i)signature|^$"):
        verifier.verify(message)


def test_a_message_is_signed_once_more_after_a_rotation(daemon, client) -> None:
    client.key_info("agent")
    daemon.rotate("agent")
    message = requests.Request("POST", "https://a.example/x", data=b"body").prepare()
    assert sign_message(client, "agent", message, body=b"body") == "agent-2"
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=KeydKeyResolver(client, "agent"))
    assert verifier.verify(message, body=b"body")[0].parameters["keyid"] == "agent-2"
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=KeydKeyResolver(client, "agent"))
    with pytest.raises(keyd.KeyStateError):
        signer.sign(requests.Request("GET", "https://a.example/x").prepare(), key_id="agent-1")  # what is pinned stays pinned


def test_an_algorithm_that_the_library_does_not_know(daemon, client, monkeypatch) -> None:
    monkeypatch.setattr("keyd.client.message_signatures.ALGORITHMS", {})
    with pytest.raises(ValueError, match="key 'agent': this http-message-signatures has no 'ed25519'"):
        sign_message(client, "agent", requests.Request("GET", "https://a.example/x").prepare())
