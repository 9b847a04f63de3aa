"""The question that the gate puts to a client, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.service.gate.proof import MAX_HELD, PREFACE, Proof, ProofError

SETTINGS, PING = 4, 6
BOUND = bytes([0, 0, 0, SETTINGS, 1, 0, 0, 0, 0])


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def asked(proof: Proof) -> bytes:
    """Let the server begin, and return the nonce."""
    greeting = frame(SETTINGS, b"\0\4\0\0\0\1") + frame(8, b"\0\0\1\0")
    sent = proof.ask(greeting)
    assert sent[: len(greeting)] == greeting
    assert sent[len(greeting) :][:9] == frame(PING, bytes(8))[:9]
    return sent[-8:]


def test_the_answer_is_taken_out_and_the_rest_is_passed_on():
    proof = Proof()
    answer = frame(PING, asked(proof), flags=1)
    before, after = PREFACE + frame(SETTINGS) + BOUND + frame(1, b"headers", stream=1), frame(0, b"data", stream=1) + b"\0\0"
    assert PREFACE + proof.answered(before + answer + after) == before + after  # the gate has sent the preface itself


@pytest.mark.parametrize("late", [0, 1, 2])
def test_nothing_is_passed_on_before_the_client_is_bound_by_the_settings(late):
    """grpcio would read headers of any size. What the client sent in front of it comes behind it."""
    proof = Proof()
    frames = [frame(1, b"headers", stream=1), frame(PING, asked(proof), flags=1)]
    assert proof.answered(PREFACE + frame(SETTINGS) + b"".join(frames[:late])) is None
    assert proof.answered(frame(SETTINGS)) is None  # another one of the client's own
    assert (proof.answered(BOUND + b"".join(frames[late:]))) == frame(SETTINGS) + BOUND + b"".join(
        [frames[0], frame(SETTINGS)] if late else [frame(SETTINGS), frames[0]]
    )


@given(st.lists(st.integers(1, 80), max_size=30))
def test_however_it_is_cut(sizes):
    proof = Proof()
    whole = PREFACE + frame(SETTINGS) + BOUND + frame(1, b"h" * 40, stream=1) + frame(PING, b"another1", flags=1)
    data = whole + frame(PING, asked(proof), flags=1)
    for size in sizes:
        if len(data) > size:
            assert proof.answered(data[:size]) is None
            data = data[size:]
    assert PREFACE + proof.answered(data) == whole


@given(st.lists(st.integers(1, 40), max_size=10))
def test_the_question_stands_between_frames(sizes):
    proof = Proof()
    data, sent = frame(SETTINGS, b"s" * 60) + frame(8, b"\0\0\1\0"), b""
    for size in sizes:
        sent += proof.ask(data[:size])
        data = data[size:]
    sent += proof.ask(data) + proof.ask(b"more")
    kinds = []
    while len(sent) >= 9 and not sent.startswith(b"more"):
        kinds.append(sent[3])
        sent = sent[9 + int.from_bytes(sent[:3]) :]
    assert kinds.count(PING) == 1
    assert kinds[0] == SETTINGS


@pytest.mark.parametrize(
    "wrong",
    [
        lambda nonce: frame(PING, nonce),  # a question, no answer
        lambda nonce: frame(PING, bytes(8), flags=1),
        lambda nonce: frame(PING, nonce[:7], flags=1),
        lambda nonce: frame(0, frame(PING, nonce, flags=1), stream=1),  # within another frame
        lambda nonce: frame(SETTINGS, nonce, flags=1),
        lambda nonce: frame(PING, nonce, flags=1)[:-1],
    ],
)
def test_what_is_no_answer(wrong):
    proof = Proof()
    assert proof.answered(PREFACE + frame(SETTINGS) + BOUND + wrong(asked(proof))) is None


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"P0", PREFACE[:-1] + b"x", b"\x16\x03\x01"])
def test_another_protocol(data):
    with pytest.raises(ProofError, match="does not speak HTTP/2"):
        Proof().answered(data)


def test_more_than_may_be_held():
    proof = Proof()
    assert proof.answered(PREFACE + b"\xff" * (MAX_HELD - len(PREFACE))) is None
    with pytest.raises(ProofError, match="too much"):
        proof.answered(b"x")


def test_a_server_that_speaks_something_else():
    with pytest.raises(ProofError, match="SETTINGS"):
        Proof().ask(frame(PING, bytes(8)))


def test_no_two_questions_are_alike():
    assert asked(Proof()) != asked(Proof())


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data):
    try:
        assert Proof().answered(PREFACE + data) is None
    except ProofError:
        pytest.fail("after the preface only the size is judged")
