"""Dual control."""

from __future__ import annotations

import pytest
from support import FakeClock

from keyd.core import approvals as module
from keyd.core.approvals import Approvals
from keyd.core.errors import ApprovalError
from keyd.core.principal import Principal

ALICE, BOB = Principal(uid=1, executable="/usr/bin/keyd"), Principal(spiffe_id="spiffe://e.org/bob")


def may(_: Principal) -> bool:
    return True


def refused(approvals: Approvals, who: Principal, operation: str = "destroy_version", arguments: bytes = b"1") -> ApprovalError:
    with pytest.raises(ApprovalError) as caught:
        approvals.approve(operation, arguments, who, 900, may)
    return caught.value


def test_the_second_account_completes_it_once() -> None:
    approvals = Approvals(FakeClock(1_800_000_000))
    error = refused(approvals, ALICE)
    assert error.metadata == {"until": "2027-01-15T08:15:00Z", "requested_by": "uid:1"}
    assert approvals.approve("destroy_version", b"1", BOB, 900, may) == "uid:1"
    refused(approvals, BOB)  # what is done is done; this is a new one


def test_the_same_account_is_no_second_one() -> None:
    approvals = Approvals(FakeClock())
    refused(approvals, ALICE)
    refused(approvals, ALICE)
    refused(approvals, Principal(uid=1, executable="/bin/other", pid=7))


def test_certificates_that_share_a_name_are_one_account() -> None:
    approvals = Approvals(FakeClock())
    refused(approvals, Principal(dns_names=("a.ops.example", "b.ops.example")))
    refused(approvals, Principal(dns_names=("b.ops.example", "a.ops.example")))
    assert approvals.approve("destroy_version", b"1", Principal(dns_names=("c.ops.example",)), 900, may) == "dns:b.ops.example"


def test_it_must_be_the_same_call() -> None:
    approvals = Approvals(FakeClock())
    refused(approvals, ALICE)
    refused(approvals, BOB, arguments=b"2")
    refused(approvals, BOB, operation="compromise_version")
    assert approvals.approve("destroy_version", b"1", BOB, 900, may) == "uid:1"


def test_time_runs_out() -> None:
    clock = FakeClock()
    approvals = Approvals(clock)
    refused(approvals, ALICE)
    clock.advance(900)
    assert approvals.approve("destroy_version", b"1", BOB, 900, may) == "uid:1"
    refused(approvals, ALICE)
    clock.advance(900.1)
    refused(approvals, BOB)


def test_what_waits_is_bounded() -> None:
    approvals = Approvals(FakeClock())
    for number in range(module.MAX_PENDING + 10):
        refused(approvals, ALICE, arguments=str(number).encode())
    assert len(approvals) == module.MAX_PENDING
    assert approvals.approve("destroy_version", str(module.MAX_PENDING + 9).encode(), BOB, 900, may)


def test_who_may_not_any_more_does_not_count_as_the_first() -> None:
    approvals = Approvals(FakeClock())
    refused(approvals, ALICE)
    with pytest.raises(ApprovalError):
        approvals.approve("destroy_version", b"1", BOB, 900, lambda principal: principal is not ALICE)
    assert approvals.approve("destroy_version", b"1", ALICE, 900, may) == BOB.account
