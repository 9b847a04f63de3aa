import pickle

import grpc
import pytest

from keyd import client as keyd
from keyd.client.errors import from_sign_error
from keyd.client.retry import Attempts
from keyd.v1 import signing_service_pb2 as pb

CODES = {
    "NOT_FOUND": keyd.NotFound,
    "ALREADY_EXISTS": keyd.AlreadyExists,
    "INVALID_ARGUMENT": keyd.InvalidRequest,
    "PERMISSION_DENIED": keyd.PermissionDenied,
    "UNAUTHENTICATED": keyd.Unauthenticated,
    "FAILED_PRECONDITION": keyd.KeyStateError,
    "RESOURCE_EXHAUSTED": keyd.ResourceExhausted,
    "DEADLINE_EXCEEDED": keyd.DeadlineExceeded,
    "INTERNAL": keyd.InternalError,
    "ABORTED": keyd.KeydClientError,
}


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_class(daemon, client, code: str) -> None:
    daemon.faults.append(daemon.Fault(grpc.StatusCode[code], "COVERAGE", fact="1"))
    with pytest.raises(keyd.KeydClientError) as caught:
        client.sign_base("agent", b'"x')
    error = caught.value
    assert (type(error), error.code, error.reason) == (CODES[code], grpc.StatusCode[code], "COVERAGE")
    assert error.metadata == {"fact": "1"}
    assert str(error) == "COVERAGE on purpose"
    assert len(daemon.calls) == 1


@pytest.mark.parametrize("fault", [("", "keyd"), ("COVERAGE", "other.example")])
def test_facts_of_others_are_not_keyds(daemon, client, fault: tuple[str, str]) -> None:
    daemon.faults.append(daemon.Fault(grpc.StatusCode.PERMISSION_DENIED, *fault))
    with pytest.raises(keyd.PermissionDenied) as caught:
        client.sign_base("agent", b'"x')
    assert (caught.value.reason, caught.value.metadata) == ("", {})
    assert daemon.address in str(caught.value)


async def test_asyncio_has_the_same_errors(daemon, aclient) -> None:
    daemon.faults.append(daemon.Fault(grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE", active_kid="agent-7"))
    with pytest.raises(keyd.KeyStateError) as caught:
        await aclient.sign_base("agent", b'"x')
    assert caught.value.active_kid == "agent-7"


def test_results_have_the_same_errors() -> None:
    error = from_sign_error(pb.SignError(code=9, reason="KEY_STATE", message="m", metadata={"active_kid": "k"}))
    assert isinstance(error, keyd.KeyStateError)
    assert (error.active_kid, error.code, str(error)) == ("k", grpc.StatusCode.FAILED_PRECONDITION, "m")
    assert from_sign_error(pb.SignError(code=99)).code is grpc.StatusCode.UNKNOWN


def test_an_approval_that_is_needed_is_not_the_state_of_a_key() -> None:
    error = from_sign_error(pb.SignError(code=9, reason="APPROVAL_NEEDED", message="m", metadata={"requested_by": "uid:1"}))
    assert type(error) is keyd.ApprovalNeeded
    assert error.metadata == {"requested_by": "uid:1"}


@pytest.mark.parametrize(
    ("metadata", "expected"), [({"retry_after": "0.250"}, 0.25), ({}, None), ({"retry_after": "soon"}, None)]
)
def test_a_rate_says_when_to_come_back(metadata: dict[str, str], expected: float | None) -> None:
    error = from_sign_error(pb.SignError(code=8, reason="RATE", message="m", metadata=metadata))
    assert isinstance(error, keyd.ResourceExhausted)
    assert error.retry_after == expected


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(keyd.KeyStateError("m", grpc.StatusCode.ABORTED, "R", {"active_kid": "k"})))
    assert (type(error), str(error), error.reason, error.active_kid) == (keyd.KeyStateError, "m", "R", "k")


class _Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return ""

    def trailing_metadata(self) -> None:
        return None


def test_pauses_grow_and_shrink_by_chance() -> None:
    now = 0.0
    attempts = Attempts(100, 8, "a", monotonic=lambda: now, jitter=lambda: 1.0)
    assert [attempts.pause_after(_Failed()) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    with pytest.raises(keyd.Unavailable, match="keyd at a"):
        attempts.pause_after(_Failed())
    assert Attempts(100, 1, "a", monotonic=lambda: now, jitter=lambda: 0.0).pause_after(_Failed()) == 0.1


def test_no_pause_passes_the_deadline() -> None:
    now = 0.0
    attempts = Attempts(5, 9, "a", monotonic=lambda: now, jitter=lambda: 1.0)
    now = 4.9
    assert attempts.remaining() == pytest.approx(0.1)
    with pytest.raises(keyd.Unavailable):
        attempts.pause_after(_Failed())
    now = 6
    assert attempts.remaining() == 0


def test_what_no_wait_makes_better_is_not_tried_again() -> None:
    with pytest.raises(keyd.ResourceExhausted):
        Attempts(100, 9, "a").pause_after(_Failed(grpc.StatusCode.RESOURCE_EXHAUSTED))
