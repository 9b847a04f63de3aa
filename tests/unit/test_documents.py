"""What is in the documents beside a JWK Set, and how often they are made."""

from __future__ import annotations

import json

import pytest
import structlog
from support import START, FakeClock

from keyd.core.documents import AGENT, LUMOAUTH_AGENT, MAX_REVOKED_SIZE, REVOKED, Documents
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.publication import Issuer
from keyd.core.sessions.revocations import Revocations, Revoked

ORIGIN = "https://agents.example"
HOST = frozenset({"agents.example"})
BOTH = {AGENT: {"name": "Agents"}, LUMOAUTH_AGENT: {"name": "Agents", "capabilities": ["delegation"]}}
AGENTS = Issuer("agents", HOST, ("agents-*",), "jose", 300.0, ORIGIN, metadata=BOTH)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def read(documents: Documents, name: str, issuer: Issuer = AGENTS) -> dict[str, object]:
    found: dict[str, object] = json.loads(documents.get(issuer, name).body)
    return found


def test_who_the_issuer_is(clock: FakeClock) -> None:
    documents = Documents(clock, Revocations(clock))
    agent = {
        "issuer": ORIGIN,
        "jwks_uri": f"{ORIGIN}/.well-known/jwks.json",
        "name": "Agents",
        "revoked_tokens_uri": f"{ORIGIN}/.well-known/aauth-revoked-tokens.json",
    }
    assert read(documents, AGENT) == agent
    assert read(documents, LUMOAUTH_AGENT) == {**agent, "capabilities": ["delegation"]}
    assert documents.names(AGENTS) == [AGENT, LUMOAUTH_AGENT, REVOKED]


def test_what_is_not_configured_is_not_there(clock: FakeClock) -> None:
    documents = Documents(clock, Revocations(clock))
    without_origin = Issuer("shop", HOST, ("*",), "jose", 300.0)
    with_origin = Issuer("shop", HOST, ("*",), "jose", 300.0, ORIGIN)
    assert documents.names(without_origin) == []
    assert documents.names(with_origin) == [REVOKED]
    for issuer, name in ((without_origin, REVOKED), (with_origin, AGENT), (AGENTS, "aauth-resource.json"), (AGENTS, "jwks.json")):
        with pytest.raises(NotFoundError):
            documents.get(issuer, name)


async def test_which_tokens_are_revoked(clock: FakeClock) -> None:
    revocations = Revocations(clock)
    documents = Documents(clock, revocations)
    assert read(documents, REVOKED) == {"issuer": ORIGIN, "revoked": []}
    await revocations.revoke(
        [
            Revoked(ORIGIN, "late", START + 3600, START),
            Revoked(ORIGIN, "soon", START + 59.5, START),
            Revoked("https://other.example", "other", START + 60, START),
        ]
    )
    both = [{"jti": "soon", "exp": int(START) + 60}, {"jti": "late", "exp": int(START) + 3600}]
    assert read(documents, REVOKED) == {"issuer": ORIGIN, "revoked": both}
    assert documents.get(AGENTS, REVOKED).max_age == 60
    assert documents.revoked([AGENTS]) == {"agents": (2, len(documents.get(AGENTS, REVOKED).body))}
    clock.advance(59.5)
    assert read(documents, REVOKED) == {"issuer": ORIGIN, "revoked": both[1:]}


async def test_each_is_made_once_until_it_is_another(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    revocations = Revocations(clock)
    documents, made = Documents(clock, revocations), []
    listed = revocations.listed
    monkeypatch.setattr(revocations, "listed", lambda issuer: made.append(issuer) or listed(issuer))
    await revocations.revoke([Revoked(ORIGIN, "a", START + 60, START)])
    for _ in range(5):
        documents.get(AGENTS, REVOKED)
    assert len(made) == 1
    assert documents.get(AGENTS, AGENT) is documents.get(AGENTS, AGENT)
    await revocations.revoke([Revoked(ORIGIN, "b", START + 90, START)])
    documents.get(AGENTS, REVOKED)
    assert len(made) == 2
    reloaded = Issuer("agents", HOST, ("agents-*",), "jose", 30.0, ORIGIN, metadata={AGENT: {"name": "New"}})
    assert read(documents, AGENT, reloaded)["name"] == "New"
    assert documents.get(reloaded, REVOKED).max_age == 30


async def test_a_list_that_is_too_long_is_not_shortened(clock: FakeClock) -> None:
    revocations = Revocations(clock)
    documents = Documents(clock, revocations)
    each = len(f'{{"jti":"{"x" * 250}","exp":{int(START) + 60}}},')
    many = [Revoked(ORIGIN, f"{number:x>250}", START + 60, START) for number in range(MAX_REVOKED_SIZE // each + 1)]
    await revocations.revoke(many[:-1])
    with structlog.testing.capture_logs() as logs:
        documents.warn_of_size([AGENTS])
        assert documents.get(AGENTS, REVOKED).keys == len(many) - 1
        await revocations.revoke(many)
        documents.warn_of_size([AGENTS])
    assert [(entry["log_level"], entry["issuer"], entry["listed"]) for entry in logs] == [("error", "agents", len(many))]
    with pytest.raises(KeyStateError, match="would pass for the whole"):
        documents.get(AGENTS, REVOKED)
    assert read(documents, AGENT)["issuer"] == ORIGIN
    clock.advance(60)
    assert read(documents, REVOKED) == {"issuer": ORIGIN, "revoked": []}


async def test_a_clock_that_is_set_back_brings_what_is_not_over_back(clock: FakeClock) -> None:
    revocations = Revocations(clock)
    documents = Documents(clock, revocations)
    await revocations.revoke([Revoked(ORIGIN, "a", START + 60, START)])
    before = documents.get(AGENTS, REVOKED)
    clock.advance(61)
    assert read(documents, REVOKED)["revoked"] == []
    clock.advance(-30)
    assert documents.get(AGENTS, REVOKED) == before
