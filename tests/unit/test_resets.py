"""Resets of calls, counted by their frame headers, on a clock that the test moves."""

from __future__ import annotations

import struct

from support import FakeClock

from keyd.service.gate.resets import Resets


def reset(stream: int, flags: int = 0) -> bytes:
    return b"\0\0\4\3" + struct.pack(">BII", flags, stream, 8)


def many(count: int, flags: int = 0) -> bytes:
    return b"".join(reset(2 * number + 1, flags) for number in range(count))


def test_a_burst_and_then_so_many_a_second_by_account() -> None:
    clock = FakeClock(1000.0)
    resets = Resets(clock.now)
    assert resets.allows("uid:1", many(500))
    assert not resets.allows("uid:1", reset(1))
    assert resets.allows("uid:2", many(500))
    clock.advance(1.0)
    assert resets.allows("uid:1", many(100))
    assert not resets.allows("uid:1", reset(1))


def test_flags_that_mean_nothing_hide_nothing() -> None:
    resets = Resets(FakeClock(1000.0).now)
    assert resets.allows("uid:1", many(500, flags=0xFF))
    assert not resets.allows("uid:1", many(1, flags=0x40))


def test_other_frames_cost_nothing() -> None:
    resets = Resets(FakeClock(1000.0).now)
    for _ in range(10):
        assert resets.allows("uid:1", b"\0\0\4\x08\0\0\0\0\0\0\0\0\1" * 1000 + b"\0\0\x08\6\0\0\0\0\0" * 1000)
    assert resets.allows("uid:1", many(500))
