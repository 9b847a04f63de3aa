"""What operators do with sessions when each worker has some of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from guarded import House
from session_support import opened

from keyd.core.errors import SessionError
from keyd.core.principal import Principal
from keyd.core.sessions.book import SessionBook
from keyd.core.sessions.issuing import TokenIssuer
from keyd.service.call import Call, Caller
from keyd.service.sessions import SessionAdminService
from keyd.team.channel import Channel
from keyd.team.member import Member
from keyd.team.sessions import SessionsOfAll
from keyd.v1 import session_service_pb2 as pb

CALL = Call(Caller(Principal(uid=2001)))


@pytest.fixture
async def without(agents: House) -> AsyncIterator[SessionsOfAll]:
    """What a worker without sessions has for operators; the other one is ``agents``. In between, what the supervisor does."""
    members = {number: Member(number, 2, False, None, None) for number in (1, 2)}
    there: dict[int, Channel] = {}
    running = []
    for number, member in members.items():
        near, far = socket.socketpair()

        async def part(what: str, about: dict[str, Any], member: Member = member) -> Any:
            return await member.part(about)

        async def others(what: str, about: dict[str, Any], number: int = number) -> Any:
            return [[other, await channel.ask("part", **about)] for other, channel in there.items() if other != number]

        ends = await Channel.over(near, part), await Channel.over(far, others)
        member.meet(ends[0])
        there[number] = ends[1]
        running += [asyncio.create_task(end.run()) for end in ends]
    empty = SessionBook(
        agents.ring, agents.guard, TokenIssuer(agents.ring, agents.publication, agents.guard), agents.book.revocations
    )
    books = {1: empty, 2: agents.book}
    services = {
        number: SessionsOfAll(
            SessionAdminService(book, agents.book.revocations, agents.clock, agents.publication), members[number]
        )
        for number, book in books.items()
    }
    yield services[1]
    for channel in there.values():
        channel.close()
    await asyncio.gather(*running)


async def test_those_of_all_workers_are_listed(agents: House, without: SessionsOfAll) -> None:
    assert not (await without.list_sessions(pb.ListSessionsRequest(), CALL)).sessions
    await opened(agents)
    (listed,) = (await without.list_sessions(pb.ListSessionsRequest(), CALL)).sessions
    assert listed.issuer_key == "ap"
    assert not (await without.list_sessions(pb.ListSessionsRequest(issuer_key="other"), CALL)).sessions


async def test_one_ends_wherever_it_is_and_once(agents: House, without: SessionsOfAll) -> None:
    session = await opened(agents)
    (listed,) = (await without.list_sessions(pb.ListSessionsRequest(), CALL)).sessions
    (token,) = (await without.revoke_session(pb.RevokeSessionRequest(session=listed.name), CALL)).tokens
    assert token.token_id == session.token_id
    assert len(agents.book) == 0
    with pytest.raises(SessionError):
        await without.revoke_session(pb.RevokeSessionRequest(session=listed.name), CALL)
