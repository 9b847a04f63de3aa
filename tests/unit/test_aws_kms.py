"""What the AWS KMS backend does besides its contract, through the real SDK, against the fake of KMS."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from components.aws_environment import isolated
from components.fake_kms import ADMIN, DAEMON, EXTERNAL_ID, REGION, ROLE, FakeKms, KmsError
from components.iam import Policy
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends import deadline, errors
from backends._aws_names import alias_for, parse_alias
from backends.api import Algorithm, BackendContext
from backends.aws_kms import AwsKmsBackend
from backends.encoding import verify_raw

MESSAGE = b"the message"
ES256 = Algorithm.ES256
Opener = Callable[..., AwsKmsBackend]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def apply(access_key: tuple[str, str] | None, **more: str) -> None:
        for name, value in isolated(tmp_path, access_key, **more).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    return apply


@pytest.fixture
def kms(environment: Callable[..., None]) -> Iterator[FakeKms]:
    with FakeKms().running() as kms:
        environment(ADMIN)
        yield kms


@pytest.fixture
def opened(kms: FakeKms, tmp_path: Path) -> Iterator[Opener]:
    backends: list[AwsKmsBackend] = []

    def make(**config: Any) -> AwsKmsBackend:
        config = {"region": REGION, "endpoint_url": kms.url, "rsa_bits": 2048, **config}
        backends.append(AwsKmsBackend.open(AwsKmsBackend.Config(**config), BackendContext("aws", tmp_path)))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture
def admin(kms: FakeKms) -> Any:
    access, secret = ADMIN
    return boto3.client("kms", region_name=REGION, endpoint_url=kms.url, aws_access_key_id=access, aws_secret_access_key=secret)


def sent(kms: FakeKms, operation: str) -> list[dict[str, Any]]:
    return [parameters for name, parameters in kms.calls if name == operation]


# -- what is sent, and what comes back


@pytest.mark.parametrize(
    ("algorithm", "signing_algorithm", "key_spec"),
    [
        (Algorithm.ED25519, "ED25519_SHA_512", "ECC_NIST_EDWARDS25519"),
        (Algorithm.ES256, "ECDSA_SHA_256", "ECC_NIST_P256"),
        (Algorithm.ES384, "ECDSA_SHA_384", "ECC_NIST_P384"),
        (Algorithm.PS512, "RSASSA_PSS_SHA_512", "RSA_2048"),
        (Algorithm.RS256, "RSASSA_PKCS1_V1_5_SHA_256", "RSA_2048"),
    ],
)
@pytest.mark.parametrize("message_type", ["digest", "raw"])
def test_digests_are_sent_and_messages_only_where_they_must(
    kms: FakeKms, opened: Opener, algorithm: Algorithm, signing_algorithm: str, key_spec: str, message_type: str
) -> None:
    backend = opened(message_type=message_type)
    handle = backend.create("k", 1, algorithm)
    signature = backend.sign(handle, algorithm, MESSAGE)
    verify_raw(backend.public_key(handle), algorithm, signature, MESSAGE)
    (creation,), (request,) = sent(kms, "CreateKey"), sent(kms, "Sign")
    assert (creation["KeySpec"], creation["KeyUsage"]) == (key_spec, "SIGN_VERIFY")
    assert (request["KeyId"], request["SigningAlgorithm"]) == (handle, signing_algorithm)
    if message_type == "raw" or algorithm is Algorithm.ED25519:
        assert (request["MessageType"], request["Message"]) == ("RAW", MESSAGE)
    else:
        digest = hashlib.new(f"sha{signing_algorithm[-3:]}", MESSAGE).digest()
        assert (request["MessageType"], request["Message"]) == ("DIGEST", digest)


def test_two_calls_at_first_and_one_per_signature_then(kms: FakeKms, opened: Opener) -> None:
    handle = opened().create("k", 1, ES256)
    backend = opened()
    kms.calls.clear()
    for _ in range(3):
        backend.sign(handle, ES256, MESSAGE)
    assert [name for name, _ in kms.calls] == ["GetPublicKey", "Sign", "Sign", "Sign"]


@pytest.mark.parametrize(("message_type", "algorithm"), [("digest", Algorithm.ED25519), ("raw", ES256)])
def test_messages_that_kms_would_refuse_are_not_sent(
    kms: FakeKms, opened: Opener, message_type: str, algorithm: Algorithm
) -> None:
    backend = opened(message_type=message_type)
    handle = backend.create("k", 1, algorithm)
    assert backend.capabilities.max_message[algorithm] == 4096
    assert backend.sign(handle, algorithm, bytes(4096))
    for size in (0, 4097):
        with pytest.raises(errors.MessageSizeError, match=rf"1 to 4096 bytes with {algorithm.value}, not {size}"):
            backend.sign(handle, algorithm, bytes(size))
    assert len(sent(kms, "Sign")) == 1


def test_a_key_says_what_it_is(kms: FakeKms, opened: Opener) -> None:
    backend = opened(tags={"team": "agents"}, prefix="prod")
    handle = backend.create("agent.one", 7, ES256)
    key = kms.keys[handle]
    assert key.tags == {"keyd:key": "agent.one", "keyd:version": "7", "team": "agents"}
    assert key.description == "keyd agent.one version 7, ES256"
    assert kms.aliases == {"alias/prod/agent/one/v7": handle}


def test_multi_region_keys_and_arns(kms: FakeKms, opened: Opener) -> None:
    backend = opened(multi_region=True)
    handle = backend.create("k", 1, ES256)
    assert handle.startswith("mrk-")
    arn = f"arn:aws:kms:{REGION}:111122223333:key/{handle}"
    verify_raw(backend.public_key(arn), ES256, backend.sign(arn, ES256, MESSAGE), MESSAGE)
    backend.destroy(arn)
    assert kms.keys[handle].state == "PendingDeletion" and kms.aliases == {}


def test_an_alias_is_no_handle(kms: FakeKms, opened: Opener) -> None:
    backend = opened()
    backend.create("k", 1, ES256)
    before = len(kms.calls)
    for alias in ("alias/keyd/k/v1", f"arn:aws:kms:{REGION}:111122223333:alias/keyd/k/v1"):
        for call in (backend.public_key, backend.destroy, lambda alias: backend.sign(alias, ES256, MESSAGE)):
            with pytest.raises(errors.KeyNotFoundError, match="aliases are not taken"):
                call(alias)
    assert len(kms.calls) == before


# -- states and uses of keys


def test_a_disabled_key(opened: Opener, admin: Any) -> None:
    backend = opened()
    handle = backend.create("k", 1, ES256)
    admin.disable_key(KeyId=handle)
    for call in (lambda: backend.sign(handle, ES256, MESSAGE), lambda: backend.public_key(handle)):
        with pytest.raises(errors.BackendAccessError, match=f"{handle} is disabled; enable it in KMS"):
            call()
    assert [key.handle for key in backend.list()] == [handle]
    admin.enable_key(KeyId=handle)
    assert backend.sign(handle, ES256, MESSAGE)


def test_a_key_that_somebody_else_is_having_deleted(kms: FakeKms, opened: Opener, admin: Any) -> None:
    backend = opened()
    handle = backend.create("k", 1, ES256)
    admin.schedule_key_deletion(KeyId=handle)
    for _ in range(2):
        with pytest.raises(errors.KeyNotFoundError, match="about to be deleted"):
            backend.sign(handle, ES256, MESSAGE)
    assert len(sent(kms, "Sign")) == 1, "what was known of a key that is gone should have been forgotten"
    assert list(backend.list()) == []
    admin.cancel_key_deletion(KeyId=handle)
    with pytest.raises(errors.BackendAccessError, match="is disabled"):
        backend.sign(handle, ES256, MESSAGE)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("PendingReplicaDeletion", errors.KeyNotFoundError),
        ("PendingImport", errors.BackendAccessError),
        ("Unavailable", errors.BackendUnavailableError),
        ("Creating", errors.BackendUnavailableError),
    ],
)
def test_other_states(kms: FakeKms, opened: Opener, state: str, error: type[Exception]) -> None:
    backend = opened()
    handle = backend.create("k", 1, ES256)
    kms.keys[handle].state = state
    with pytest.raises(error, match=state):
        backend.sign(handle, ES256, MESSAGE)
    kms.keys[handle].state = "Enabled"
    assert backend.sign(handle, ES256, MESSAGE)


@pytest.mark.parametrize(
    "key",
    [
        {},
        {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
        {"KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT"},
        {"KeySpec": "ECC_NIST_P521", "KeyUsage": "SIGN_VERIFY"},
    ],
    ids=["symmetric", "encryption", "agreement", "other curve"],
)
def test_keys_for_something_else(opened: Opener, admin: Any, key: Mapping[str, str]) -> None:
    backend = opened()
    handle = admin.create_key(**key)["KeyMetadata"]["KeyId"]
    admin.create_alias(AliasName="alias/keyd-adopt/x", TargetKeyId=handle)
    for algorithm in Algorithm:
        with pytest.raises(errors.UnsupportedAlgorithmError):
            backend.sign(handle, algorithm, MESSAGE)
    with pytest.raises(errors.UnsupportedAlgorithmError):
        backend.public_key(handle)
    assert list(backend.list()) == []


# -- making and destroying


def test_a_new_key_that_is_not_known_everywhere_yet(kms: FakeKms, opened: Opener) -> None:
    kms.lag = 3
    kms.failures = {"GetPublicKey": [KmsError("NotFoundException", "") for _ in range(2)]}
    backend = opened()
    handle = backend.create("k", 1, ES256)
    assert backend.sign(handle, ES256, MESSAGE)
    assert len(sent(kms, "CreateKey")) == 1


def test_a_new_key_that_stays_unknown(kms: FakeKms, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.aws_kms._SETTLING", 0.3)
    kms.lag = 1000
    with pytest.raises(errors.BackendUnavailableError, match="does not know of what it just made"):
        opened().create("k", 1, ES256)


def test_what_is_missing_may_look_forbidden(kms: FakeKms, opened: Opener) -> None:
    kms.hides_missing = True
    backend = opened()
    backend.create("k", 1, ES256)
    with pytest.raises(errors.KeyExistsError):
        backend.create("k", 1, ES256)


def test_the_key_of_a_lost_race_is_not_left_behind(kms: FakeKms, opened: Opener) -> None:
    backend = opened(deletion_window_days=9)
    first = backend.create("k", 1, ES256)
    kms.failures = {"DescribeKey": [KmsError("NotFoundException", "")]}  # as before the other one was there
    with pytest.raises(errors.KeyExistsError):
        backend.create("k", 1, ES256)
    assert {key.id: (key.state, key.window) for key in kms.keys.values() if key.id != first}.popitem()[1] == (
        "PendingDeletion",
        9,
    )
    assert [key.handle for key in backend.list()] == [first]


def test_an_alias_whose_answer_was_lost_is_not_taken_for_somebody_elses(kms: FakeKms, opened: Opener, monkeypatch: Any) -> None:
    backend = opened()
    send = backend._client.create_alias
    # What the SDK does when no answer comes: it sends the request again, which is told that there is such an alias.
    monkeypatch.setattr(backend._client, "create_alias", lambda **request: (send(**request), send(**request)))
    handle = backend.create("k", 1, ES256)
    assert kms.keys[handle].state == "Enabled"
    assert backend.find("k", 1) == handle


def test_an_alias_that_leads_to_another_key_is_not_found_as_ours(kms: FakeKms, opened: Opener, admin: Any) -> None:
    """Whoever may set aliases could otherwise have keyd destroy another key as an orphan of its own."""
    other = admin.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Description="payroll")["KeyMetadata"]["KeyId"]
    admin.create_alias(AliasName="alias/keyd/k/v1", TargetKeyId=other)
    with pytest.raises(errors.BackendIntegrityError, match="description does not say"):
        opened().find("k", 1)


def test_a_key_that_cannot_be_completed_nor_discarded_is_named(kms: FakeKms, opened: Opener, caplog: Any) -> None:
    denied = KmsError("AccessDeniedException", "")
    kms.failures = {"CreateAlias": [denied], "ScheduleKeyDeletion": [denied]}
    with pytest.raises(errors.BackendAccessError, match="alias/keyd/k/v1: CreateAlias is refused"):
        opened().create("k", 1, ES256)
    (handle,) = kms.keys
    assert f"key {handle} was made for alias/keyd/k/v1 but could not be completed" in caplog.text


def test_making_a_key_is_not_tried_again_unless_it_surely_failed(kms: FakeKms, opened: Opener) -> None:
    backend = opened()
    failure = KmsError("KMSInternalException", "", 500)
    kms.failures = {"CreateKey": [failure]}
    with pytest.raises(errors.BackendUnavailableError):
        backend.create("k", 1, ES256)
    assert len(sent(kms, "CreateKey")) == 1
    kms.failures = {"CreateKey": [KmsError("ThrottlingException", "")], "GetPublicKey": [failure, failure]}
    assert backend.create("k", 1, ES256)
    assert (len(sent(kms, "CreateKey")), len(sent(kms, "GetPublicKey"))) == (3, 3)


def test_an_interrupted_destruction_is_finished(kms: FakeKms, opened: Opener) -> None:
    backend = opened(deletion_window_days=7)
    handle = backend.create("k", 1, ES256)
    kms.failures = {"DeleteAlias": [KmsError("AccessDeniedException", "")]}
    with pytest.raises(errors.BackendAccessError):
        backend.destroy(handle)
    assert (kms.keys[handle].state, kms.keys[handle].window) == ("PendingDeletion", 7)
    assert list(backend.list()) == []
    backend.destroy(handle)
    assert kms.aliases == {}
    assert [request["PendingWindowInDays"] for request in sent(kms, "ScheduleKeyDeletion")] == [7, 7]


def test_keys_that_keyd_may_not_describe_are_not_offered(kms: FakeKms, opened: Opener, admin: Any) -> None:
    theirs = admin.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    admin.create_alias(AliasName="alias/keyd-adopt/theirs", TargetKeyId=theirs)
    backend = opened()
    assert [(key.handle, key.name) for key in backend.list()] == [(theirs, None)]
    assert list(opened(adopt_prefix=None).list()) == []
    kms.failures = {"DescribeKey": [KmsError("AccessDeniedException", "")]}
    assert list(backend.list()) == []
    own = backend.create("k", 1, ES256)
    kms.failures = {"DescribeKey": [KmsError("AccessDeniedException", "") for _ in range(2)]}
    with pytest.raises(errors.BackendAccessError, match=own):
        list(backend.list())


# -- credentials


def test_a_role_is_assumed(kms: FakeKms, opened: Opener, environment: Callable[..., None]) -> None:
    kms.external_id = EXTERNAL_ID
    environment(DAEMON, AWS_ENDPOINT_URL_STS=kms.url)
    with pytest.raises(errors.BackendAccessError, match="AccessDenied"):
        opened().create("k", 1, ES256)
    with pytest.raises(errors.BackendAccessError, match="may not assume the role"):
        opened(role_arn=ROLE, external_id="wrong").create("k", 1, ES256)
    backend = opened(role_arn=ROLE, external_id=EXTERNAL_ID, role_session_name="keyd-7")
    backend.sign(backend.create("k", 1, ES256), ES256, MESSAGE)
    (request,) = sent(kms, "AssumeRole")
    assert (request["RoleArn"], request["RoleSessionName"], request["ExternalId"]) == (ROLE, "keyd-7", EXTERNAL_ID)


def test_a_credentials_file_that_somebody_else_renews(
    kms: FakeKms, opened: Opener, environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends._aws_client._RENEWAL_INTERVAL", 0.3)
    file = tmp_path / "aws_credentials"
    environment(None)
    write = "[default]\naws_access_key_id = {0}\naws_secret_access_key = {1}\n".format
    file.write_text(write(*ADMIN))
    backend = opened()
    handle = backend.create("k", 1, ES256)
    kms.callers["AKIASECOND"] = kms.callers.pop(ADMIN[0])
    with pytest.raises(errors.BackendAccessError, match="does not take the credentials"):
        backend.sign(handle, ES256, MESSAGE)
    file.write_text(write("AKIASECOND", "another-secret"))
    until = time.monotonic() + 10
    while True:
        try:
            backend.sign(handle, ES256, MESSAGE)
            break
        except errors.BackendAccessError:
            assert time.monotonic() < until, "the new credentials are not noticed"
            time.sleep(0.1)


def test_refused_credentials_are_not_loaded_for_every_call(kms: FakeKms, opened: Opener, environment: Any) -> None:
    kms.external_id = EXTERNAL_ID
    environment(DAEMON, AWS_ENDPOINT_URL_STS=kms.url)
    backend = opened(role_arn=ROLE, external_id=EXTERNAL_ID)
    handle = backend.create("k", 1, ES256)
    kms.failures = {"Sign": [KmsError("ExpiredTokenException", "") for _ in range(100)]}
    for _ in range(10):
        with pytest.raises(errors.BackendAccessError):
            backend.sign(handle, ES256, MESSAGE)
    assert len(sent(kms, "AssumeRole")) <= 3


def test_no_credentials(kms: FakeKms, opened: Opener, environment: Callable[..., None]) -> None:
    environment(None)
    backend = opened()
    for _ in range(2):
        with pytest.raises(errors.BackendAccessError, match="no usable AWS credentials"):
            list(backend.list())


def test_a_web_identity_without_its_token(kms: FakeKms, opened: Opener, environment: Any, tmp_path: Path) -> None:
    environment(None, AWS_ROLE_ARN=ROLE, AWS_WEB_IDENTITY_TOKEN_FILE=str(tmp_path / "missing"))
    with pytest.raises(errors.BackendAccessError, match="cannot read the file that AWS credentials come from: No such file"):
        list(opened().list())


def test_no_secret_in_what_is_raised(kms: FakeKms, opened: Opener) -> None:
    backend = opened(max_attempts=1)
    handle = backend.create("k", 1, ES256)
    for code in ("AccessDeniedException", "ExpiredTokenException", "ThrottlingException", "ValidationException"):
        kms.failures = {"Sign": [KmsError(code, "") for _ in range(2)]}
        with pytest.raises(errors.BackendError) as caught:
            backend.sign(handle, ES256, MESSAGE)
        text = "".join(traceback.format_exception(caught.value)) + repr(vars(backend))
        assert ADMIN[1] not in text and MESSAGE.decode() not in text


# -- errors and retries

ERRORS = [
    ("ThrottlingException", 400, errors.BackendThrottledError),
    ("RequestLimitExceeded", 400, errors.BackendThrottledError),
    ("LimitExceededException", 400, errors.BackendThrottledError),
    ("TooManyRequests", 429, errors.BackendThrottledError),
    ("KMSInternalException", 500, errors.BackendUnavailableError),
    ("DependencyTimeoutException", 503, errors.BackendUnavailableError),
    ("KeyUnavailableException", 500, errors.BackendUnavailableError),
    ("ServiceUnavailable", 503, errors.BackendUnavailableError),
    ("AccessDeniedException", 400, errors.BackendAccessError),
    ("UnrecognizedClientException", 400, errors.BackendAccessError),
    ("ExpiredTokenException", 400, errors.BackendAccessError),
    ("InvalidSignatureException", 403, errors.BackendAccessError),
    ("SomethingFromAProxy", 403, errors.BackendAccessError),
    ("NotFoundException", 400, errors.KeyNotFoundError),
    ("InvalidArnException", 400, errors.KeyNotFoundError),
    ("DisabledException", 400, errors.BackendAccessError),
    ("InvalidKeyUsageException", 400, errors.UnsupportedAlgorithmError),
    ("ValidationException", 400, errors.BackendError),
]


@pytest.mark.parametrize(("code", "status", "error"), ERRORS, ids=[code for code, _, _ in ERRORS])
def test_errors(kms: FakeKms, opened: Opener, code: str, status: int, error: type[Exception]) -> None:
    backend = opened(max_attempts=1)
    handle = backend.create("k", 1, ES256)
    kms.failures = {"Sign": [KmsError(code, "what KMS says about it", status) for _ in range(2)]}
    with pytest.raises(errors.BackendError) as caught:
        backend.sign(handle, ES256, MESSAGE)
    assert type(caught.value) is error
    text = str(caught.value)
    assert "what KMS says" not in text and not text.endswith(".") and text[0] in "nktaKA"
    assert handle in text or code in text


@pytest.mark.parametrize("operation", ["CreateKey", "CreateAlias"])
def test_a_used_up_quota_of_keys(kms: FakeKms, opened: Opener, operation: str) -> None:
    kms.failures = {operation: [KmsError("LimitExceededException", "")]}
    with pytest.raises(errors.BackendFullError):
        opened(max_attempts=1).create("k", 1, ES256)
    assert all(key.state == "PendingDeletion" for key in kms.keys.values())


def test_it_opens_while_kms_is_out_of_reach(kms: FakeKms, opened: Opener) -> None:
    handle = opened().create("k", 1, ES256)
    with kms.gone():
        backend = opened()
        with pytest.raises(errors.BackendUnavailableError, match="EndpointConnectionError"):
            list(backend.list())
    assert backend.sign(handle, ES256, MESSAGE)


def test_the_read_timeout_holds_without_a_deadline(kms: FakeKms, opened: Opener) -> None:
    backend = opened(read_timeout=0.2, max_attempts=2)
    handle = backend.create("k", 1, ES256)
    with kms.hung():
        start = time.monotonic()
        with pytest.raises(errors.BackendUnavailableError, match="ReadTimeoutError"):
            backend.sign(handle, ES256, MESSAGE)
        assert 0.4 <= time.monotonic() - start < 2


def test_the_deadline_holds_for_what_a_list_asks_side_by_side(kms: FakeKms, opened: Opener) -> None:
    backend = opened()
    for version in range(1, 12):
        backend.create("k", version, ES256)
    with kms.hung("DescribeKey"):
        start = time.monotonic()
        with pytest.raises(errors.BackendUnavailableError), deadline.within(0.5):
            list(backend.list())
        assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("mode", ["standard", "adaptive"])
def test_throttling_of_every_other_call(kms: FakeKms, opened: Opener, mode: str) -> None:
    """Every signature is made or fails as throttled, in time, and with no more requests than attempts."""
    backend = opened(retry_mode=mode, max_attempts=4)
    handle = backend.create("k", 1, ES256)
    public = backend.public_key(handle)
    limit = 2.0

    def work(number: int) -> tuple[bool, float]:
        start = time.monotonic()
        try:
            with deadline.within(limit):
                verify_raw(public, ES256, backend.sign(handle, ES256, b"%d" % number), b"%d" % number)
        except errors.BackendThrottledError:
            return False, time.monotonic() - start
        return True, time.monotonic() - start

    kms.calls.clear()
    with kms.throttling(0.5), ThreadPoolExecutor(16) as pool:
        results = list(pool.map(work, range(32)))
    made = sum(done for done, _ in results)
    # The adaptive mode takes whatever is throttled for a sign of too many requests, down to one in two seconds.
    assert made >= (16 if mode == "standard" else 1), f"only {made} of 32 signatures"
    assert max(took for _, took in results) < limit + 0.5
    assert len(sent(kms, "Sign")) <= 32 * 4
    until = time.monotonic() + 10
    while not work(0)[0]:
        assert time.monotonic() < until, "no recovery"


def test_adaptive_waits_no_longer_than_the_deadline(kms: FakeKms, opened: Opener) -> None:
    """The SDK's own adaptive mode would keep threads until there is a token: at half a request per second, for minutes."""
    backend = opened(retry_mode="adaptive", max_attempts=1)
    handle = backend.create("k", 1, ES256)

    def work(_: int) -> float:
        start = time.monotonic()
        with pytest.raises(errors.BackendThrottledError), deadline.within(0.5):
            backend.sign(handle, ES256, MESSAGE)
        return time.monotonic() - start

    kms.calls.clear()
    with kms.throttling(1.0), ThreadPoolExecutor(16) as pool:
        assert max(pool.map(work, range(64))) < 1.0
    assert len(sent(kms, "Sign")) < 64, "the client does not slow down"


# -- the policy


@pytest.fixture
def role(kms: FakeKms, opened: Opener, environment: Callable[..., None]) -> Callable[..., AwsKmsBackend]:
    def make(**config: Any) -> AwsKmsBackend:
        environment(DAEMON, AWS_ENDPOINT_URL_STS=kms.url)
        backend = opened(role_arn=ROLE, **config)
        kms.policy = AwsKmsBackend.policy(backend._config)
        return backend

    return make


def test_the_policy_allows_what_keyd_does_and_nothing_else(kms: FakeKms, role: Opener, admin: Any) -> None:
    theirs = admin.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    admin.create_alias(AliasName="alias/keyd-adopt/theirs", TargetKeyId=theirs)
    backend = role(tags={"team": "agents"})
    handle = backend.create("k", 1, ES256)
    for used in (handle, theirs):
        backend.sign(used, ES256, MESSAGE)
    assert {key.handle for key in backend.list()} == {handle, theirs}
    backend.destroy(handle)
    assert set(kms.actions) == Policy(str(kms.policy)).actions()
    with pytest.raises(errors.BackendAccessError, match="ScheduleKeyDeletion"):
        backend.destroy(theirs)


def test_the_policy_keeps_keyd_from_the_keys_of_others(kms: FakeKms, role: Opener, admin: Any) -> None:
    backend = role(tags={"team": "agents"})
    backend.create("k", 1, ES256)
    role_client = backend._client
    untagged = admin.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    tags = [{"TagKey": "keyd:key", "TagValue": "k"}, {"TagKey": "keyd:version", "TagValue": "1"}]
    of_another_team = admin.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", Tags=tags)["KeyMetadata"]["KeyId"]
    for handle in (untagged, of_another_team):
        with pytest.raises(errors.BackendAccessError, match="GetPublicKey"):
            backend.sign(handle, ES256, MESSAGE)
        with pytest.raises(errors.BackendAccessError, match="ScheduleKeyDeletion"):
            backend.destroy(handle)
        with pytest.raises(role_client.exceptions.ClientError, match="AccessDenied"):
            role_client.create_alias(AliasName="alias/keyd-adopt/mine", TargetKeyId=handle)
    own = next(iter(kms.keys))
    for refused in (
        lambda: role_client.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY"),
        role_client.create_key,
        lambda: role_client.schedule_key_deletion(KeyId=own, PendingWindowInDays=7),
        lambda: role_client.disable_key(KeyId=own),
    ):
        with pytest.raises(role_client.exceptions.ClientError, match="AccessDenied"):
            refused()


def test_the_policy_names_what_is_configured() -> None:
    config = AwsKmsBackend.Config(region="us-gov-west-1", prefix="prod", adopt_prefix=None, algorithms=["ES256", "RS256"])
    statements = {statement["Sid"]: statement for statement in json.loads(AwsKmsBackend.policy(config))["Statement"]}
    assert statements["KeydAliases"]["Resource"] == "arn:aws-us-gov:kms:us-gov-west-1:*:alias/prod/*"
    assert statements["KeydCreate"]["Condition"]["StringEquals"]["kms:KeySpec"] == ["ECC_NIST_P256", "RSA_3072"]
    assert "KeydAdopt" not in statements
    assert "KeydAdopt" in AwsKmsBackend.policy(None)


# -- names and configuration

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@given(NAMES, st.integers(1, 10**10 - 1))
def test_aliases_say_name_and_version(name: str, version: int) -> None:
    alias = alias_for("keyd", name, version)
    assert len(alias) <= 256 and set(alias) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-")
    assert parse_alias("keyd", alias) == (name, version)
    assert parse_alias("key", alias) is None and parse_alias("keyd2", alias) is None


@given(NAMES, st.integers(1, 999), NAMES, st.integers(1, 999))
def test_aliases_do_not_collide(name: str, version: int, other: str, another: int) -> None:
    assert (alias_for("p", name, version) == alias_for("p", other, another)) == ((name, version) == (other, another))


@given(st.text(alphabet="alis/keydv.0123456789-_ :", max_size=40))
def test_an_alias_that_is_understood_is_one_of_ours(text: str) -> None:
    for alias in (text, "alias/keyd/" + text):
        parsed = parse_alias("keyd", alias)
        assert parsed is None or alias_for("keyd", *parsed) == alias


def test_names_without_an_alias() -> None:
    for name, version in (("", 1), ("a/b", 1), ("a:b", 1), ("x" * 64, 1), ("k", 0), ("k", 10**10)):
        with pytest.raises(errors.BackendError, match="use another name"):
            alias_for("keyd", name, version)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix": "aws"},
        {"prefix": "a/b"},
        {"prefix": "a.b"},
        {"adopt_prefix": "aws/x"},
        {"adopt_prefix": "keyd/x"},
        {"adopt_prefix": "keyd"},
        {"tags": {"keyd:key": "x"}},
        {"tags": {"aws:x": "x"}},
        {"tags": {str(number): "x" for number in range(49)}},
        {"external_id": "without-role"},
        {"role_arn": "arn:aws:iam::1:role/x"},
        {"endpoint_url": "ftp://127.0.0.1"},
        {"endpoint_url": "https://127.0.0.1", "use_fips": True},
        {"deletion_window_days": 6},
        {"deletion_window_days": 31},
        {"algorithms": []},
        {"rsa_bits": 1024},
        {"aws_secret_access_key": "never here"},
    ],
    ids=repr,
)
def test_wrong_configuration(wrong: dict[str, Any]) -> None:
    AwsKmsBackend.Config.model_validate_json("{}", strict=True)
    with pytest.raises(ValidationError) as caught:
        AwsKmsBackend.Config.model_validate_json(json.dumps(wrong), strict=True)
    assert "never here" not in str(caught.value)


def test_every_field_from_the_file() -> None:
    given_fields = {
        "region": "eu-west-1",
        "profile": "p",
        "role_arn": ROLE,
        "role_session_name": "xy",
        "external_id": "y1",
        "prefix": "prod",
        "adopt_prefix": "a/b",
        "tags": {"a": "b"},
        "multi_region": True,
        "deletion_window_days": 7,
        "algorithms": ["Ed25519"],
        "rsa_bits": 4096,
        "message_type": "raw",
        "retry_mode": "adaptive",
        "max_attempts": 1,
        "connect_timeout": 1,
        "read_timeout": 0.5,
        "use_fips": True,
        "allow_plaintext": True,
    }
    config = AwsKmsBackend.Config.model_validate_json(json.dumps(given_fields), strict=True)
    assert set(given_fields) | {"endpoint_url"} == set(AwsKmsBackend.Config.model_fields)
    assert config.algorithms == {Algorithm.ED25519}


@pytest.mark.parametrize("wrong", [{"region": None}, {"profile": "no-such-profile"}, {"region": "not a region"}], ids=repr)
def test_configuration_that_the_sdk_does_not_take(
    environment: Callable[..., None], tmp_path: Path, wrong: dict[str, Any]
) -> None:
    environment(ADMIN)
    config = AwsKmsBackend.Config(**{"region": REGION, **wrong})
    with pytest.raises(errors.BackendConfigError, match=r"backend kms.*region, endpoint_url and profile"):
        AwsKmsBackend.open(config, BackendContext("kms", tmp_path))


def test_the_region_may_come_from_the_environment(environment: Callable[..., None], tmp_path: Path) -> None:
    environment(ADMIN, AWS_DEFAULT_REGION="eu-north-1")
    backend = AwsKmsBackend.open(AwsKmsBackend.Config(use_fips=False), BackendContext("kms", tmp_path))
    assert backend._client.meta.region_name == "eu-north-1"
    backend.close()


def test_plaintext_endpoints_are_for_this_machine() -> None:
    for endpoint in ("http://127.0.0.1:4566", "http://localhost:4566", "http://[::1]:4566", "https://kms.example"):
        AwsKmsBackend.Config(endpoint_url=endpoint)
    with pytest.raises(ValueError, match="http:// to another machine"):
        AwsKmsBackend.Config(endpoint_url="http://kms.example:4566")
    AwsKmsBackend.Config(endpoint_url="http://kms.example:4566", allow_plaintext=True)
