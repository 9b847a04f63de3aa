"""The short form of `make fuzz`: each target on its corpus, and on seeded mutations of it. No coverage guides it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import DICTIONARY, MAX_LENGTH, handlers, targets

from keyd.core import binding, jws, signature_base

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
ROUNDS = 2000


@pytest.fixture
def _handlers_closed() -> Iterator[None]:
    yield
    handlers.close()


def corpus(name: str) -> list[bytes]:
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert inputs
    return inputs


def mutated(rng: random.Random, inputs: list[bytes]) -> bytes:
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.randrange(1, 4)):
        position = rng.randrange(len(data) + 1)
        what = rng.choice([rng.randbytes(1), rng.choice(DICTIONARY).encode(), rng.choice(inputs)[:40], b""])
        data[position : position + rng.choice([0, 0, 1, 4, 20])] = what
    return bytes(data)


@pytest.mark.usefixtures("_handlers_closed")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_nothing_is_found_in_the_corpus_and_around_it(name: str) -> None:
    rng, inputs, target = random.Random(name), corpus(name), targets.TARGETS[name]
    for data in inputs:
        target(data)
    for _ in range(ROUNDS):
        target(mutated(rng, inputs))


def test_there_are_inputs_and_a_length_for_every_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == targets.TARGETS.keys() == MAX_LENGTH.keys()
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) <= 200
    assert sum(path.stat().st_size for path in files) <= 300_000


# --- that the targets find what they are for


def find(name: str) -> None:
    target = targets.TARGETS[name]
    with pytest.raises(Exception):  # noqa: B017 - whatever: a finding is any exception
        for data in corpus(name):
            target(data)


def test_a_parser_that_forgets_a_component_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = signature_base.parse
    monkeypatch.setattr(signature_base, "parse", lambda data: real(data)._replace(components=real(data).components[1:]))
    find("base")


def test_a_base_that_is_of_both_kinds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_base, "parse", lambda data: None)
    find("unsigned-base")


def test_a_token_that_is_read_in_another_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jws, "parse", lambda data: jws.JwsSigningInput("Ed25519", "JWT", None, {}))
    find("token")


def test_a_binding_to_two_keys_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "check", lambda *_: None)
    find("signature-key")


@pytest.mark.usefixtures("_handlers_closed")
def test_an_error_without_a_status_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_base, "parse", lambda data: 1 // 0)
    find("handlers")
