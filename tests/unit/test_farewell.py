"""Where the frames of a server end, however they are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyd.service.gate.farewell import GOAWAY, Frames


def frame(size: int) -> bytes:
    return size.to_bytes(3) + b"\0\0\0\0\0\1" + b"x" * size


@given(st.lists(st.integers(0, 300), max_size=6), st.lists(st.integers(1, 50), max_size=60))
def test_it_is_between_frames_exactly_at_their_ends(sizes, cuts):
    whole = b"".join(map(frame, sizes))
    ends, at = {0}, 0
    for size in sizes:
        ends.add(at := at + 9 + size)
    frames, at = Frames(), 0
    for cut in [*cuts, len(whole)]:
        frames.follow(memoryview(whole)[at : at + cut])
        at = min(at + cut, len(whole))
        assert frames.between is (at in ends)


def test_the_farewell_is_one_frame():
    frames = Frames()
    frames.follow(GOAWAY[:-1])
    assert not frames.between
    frames.follow(GOAWAY[-1:])
    assert frames.between
