"""Sessions of the blocking and of the asyncio client, against the real daemon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from session_house import SUBJECT, House, claims, eventually, result

from keyd import client as keyd
from keyd.client import AsyncClient, Client, SessionInfo
from keyd.client.keys import PrivateKey, public_key
from keyd.client.session_state import Known, Wanted


@pytest.fixture(scope="module")
def daemon() -> Iterator[House]:
    house = House()
    yield house
    house.close()


@pytest.fixture
def house(daemon: House) -> Iterator[House]:
    yield daemon
    daemon.lose_sessions()


@pytest.fixture(params=["blocking", "asyncio"])
async def client(request, house):
    if request.param == "blocking":
        with Client(house.address, clock=house.clock.now) as client:
            yield client
    else:
        async with AsyncClient(house.address, clock=house.clock.now) as client:
            yield client


def base(house: House, info: SessionInfo, authority: str = "api.example") -> bytes:
    covered = '("@method" "@authority" "@path" "signature-key")'
    lines = {"@method": "GET", "@authority": authority, "@path": "/", "signature-key": info.signature_key}
    text = "".join(f'"{name}": {value}\n' for name, value in lines.items())
    return f'{text}"@signature-params": {covered};created={int(house.clock.now())}'.encode()


def verify(info: SessionInfo, signature: keyd.Signature, data: bytes) -> None:
    """Verify with what the token says, as a resource does."""
    jwk = claims(info.token)["cnf"]["jwk"]
    public_key(jwk, "Ed25519").verify(signature.signature, data)


async def sign(house: House, session: Any) -> SessionInfo:
    """Have a base signed as the adapters do, and verify that; returns the session that signed."""
    built: list[bytes] = []

    def build(info: SessionInfo) -> bytes:
        built.append(base(house, info))
        return built[-1]

    signature, info = await result(session.sign_rebuilding(build))
    verify(info, signature, built[-1])
    return info


async def test_a_session_has_a_token_that_binds_its_key_and_signs_with_it(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT, claims={"task": "t-1"}, token_lifetime=600))
    info = await result(session.info())
    said = claims(session.token)
    assert (said["iss"], said["sub"], said["task"]) == ("https://agents.example", SUBJECT, "t-1")
    assert said["exp"] == info.token_expires == house.clock.now() + 600
    assert session.signature_key == f'sig=jwt;jwt="{session.token}"'
    assert said["cnf"]["jwk"]["x"] == session.jwk["x"]
    assert (session.subject, session.agent_auth, info.kind, info.jose_algorithm) == (SUBJECT, "", "aauth", "Ed25519")
    data = base(house, info)
    signature = await result(session.sign_base(data))
    verify(info, signature, data)
    assert signature.kid == session.thumbprint
    with pytest.raises(InvalidSignature):
        verify(info, signature, data.replace(b"GET", b"PUT"))


async def test_kinds_and_algorithms(house, client) -> None:
    lumo = await result(client.open_session("lumo", SUBJECT, kind="lumoauth", audiences=["https://api.example"]))
    assert lumo.agent_auth == f"agent_token={lumo.token}"
    delegate = await result(client.open_session("delegate", kind="jkt-jwt", algorithm="ES256"))
    assert delegate.signature_key.startswith('sig=jkt-jwt;jwt="')
    assert (delegate.subject, delegate.jwk["crv"]) == ("", "P-256")


async def test_what_the_grant_does_not_have_is_refused(house, client) -> None:
    for issuer_key, subject in (("other", SUBJECT), ("agents", "aauth:someone@agents.example")):
        with pytest.raises(keyd.PermissionDenied):
            await result(client.open_session(issuer_key, subject))
    for wrong in ({"kind": "oauth"}, {"algorithm": "HS256"}, {"claims": {"task": float("nan")}}):
        with pytest.raises(ValueError, match=r"oauth|OAUTH|HS256|JSON"):
            await result(client.open_session("agents", SUBJECT, **wrong))
    session = await result(client.open_session("agents", SUBJECT))
    with pytest.raises(keyd.PermissionDenied):
        await result(session.sign_base(base(house, await result(session.info()), "evil.example")))


async def test_neither_id_nor_token_is_in_a_repr(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT))
    info = await result(session.info())
    for shown in (repr(session), repr(info), str(session)):
        assert info.id not in shown
        assert info.token not in shown
    assert SUBJECT in repr(session)


async def test_a_new_token_is_fetched_when_it_is_due_and_the_key_stays(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT))
    before = await result(session.info())
    house.clock.advance(30)
    assert (await result(session.info())) is before  # not asked for with each request
    house.clock.advance(2800)
    house.renew()
    after = await result(session.info())
    assert (after.thumbprint, after.id) == (before.thumbprint, before.id)
    assert after.token_expires > before.token_expires
    assert (await sign(house, session)).token == after.token


async def test_a_base_that_shows_a_token_which_is_over_is_built_again(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT))
    before = await result(session.info())
    then = house.clock.now()
    session._known._clock = lambda: then  # a client that takes what it knows for good
    house.clock.advance(3601)
    house.renew()
    after = await sign(house, session)
    assert after.token != before.token
    assert after.thumbprint == before.thumbprint


async def test_a_lost_session_is_opened_again_and_the_request_built_again(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT, claims={"task": "t"}))
    before = await sign(house, session)
    house.lose_sessions()
    after = await sign(house, session)
    assert after.thumbprint != before.thumbprint
    assert claims(after.token)["task"] == "t"
    house.lose_sessions()
    with pytest.raises(keyd.NotFound) as caught:
        await result(session.sign_base(base(house, after)))
    assert caught.value.reason == "SESSION"
    assert (await result(session.info())).thumbprint != after.thumbprint


async def test_one_that_may_not_be_opened_again_says_so(house, client) -> None:
    """The negative twin of the one above: the second attempt is not made for ever."""
    session = await result(client.open_session("agents", SUBJECT))
    house.lose_sessions()
    session._wanted.message.subject = "aauth:someone@agents.example"
    with pytest.raises(keyd.PermissionDenied):
        await sign(house, session)


async def test_a_daemon_that_was_started_anew(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT))
    before = await sign(house, session)
    house.stop()
    house.start()
    assert (await sign(house, session)).thumbprint != before.thumbprint


async def test_sub_agents_end_with_their_parent_and_come_back_with_it(house, client) -> None:
    parent = await result(client.open_session("agents", SUBJECT))
    child = await result(parent.open_sub_agent("aauth:shop+buyer@agents.example"))
    assert claims(child.token)["parent_agent"] == SUBJECT
    assert child.thumbprint != parent.thumbprint
    house.lose_sessions()
    await sign(house, child)
    assert house.open_sessions() == 2
    await result(parent.close())
    assert house.open_sessions() == 0
    with pytest.raises(ValueError, match="closed"):
        await sign(house, child)
    with pytest.raises(keyd.InvalidRequest):
        again = await result(client.open_session("agents", SUBJECT))
        await result(again.open_sub_agent("aauth:cart@agents.example"))


async def test_close_ends_it_in_keyd_and_here(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT))
    if isinstance(client, Client):
        with session:
            assert house.open_sessions() == 1
    else:
        async with session:
            assert house.open_sessions() == 1
    assert house.open_sessions() == 0
    for use in (session.info, session.close):
        if use == session.close:
            await result(use())  # once more does nothing
        else:
            with pytest.raises(ValueError, match="closed"):
                await result(use())


async def test_close_where_keyd_is_gone(house) -> None:
    with Client(house.address, clock=house.clock.now, timeout=0.3, retries=0) as client:
        session = client.open_session("agents", SUBJECT)
        house.stop()
        session.close()
        house.start()


async def test_close_after_its_client_hides_no_error(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT))
    await result(client.close())
    await result(session.close())
    with pytest.raises(ValueError, match="is closed; open another one"):
        await result(session.info())


async def test_close_ends_the_watch_of_a_lost_session_while_keyd_is_gone(house) -> None:
    async with AsyncClient(house.address, clock=house.clock.now, timeout=0.3, retries=0) as client:
        session = await client.open_session("agents", SUBJECT, close_on_disconnect=True)
        house.stop()
        session._known.lose(session._known.info)  # as a signature has it that keyd refused before it went away
        await session.close()
        ended = session._watching.done()
        house.start()
        assert ended


async def test_a_watched_session_has_its_new_token_without_asking_and_ends_with_its_client(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT, close_on_disconnect=True))
    before = session.token
    watched = house.within(house.running.daemon.sessions.all)[0]
    await eventually(lambda: watched.watchers == 1)
    house.clock.advance(2800)
    house.renew()
    await eventually(lambda: session._known.info.token != before)
    assert house.open_sessions() == 1
    if isinstance(client, AsyncClient):
        session._watching.cancel()
    else:
        session._watch_call.cancel()
    await eventually(lambda: watched.watchers == 0)
    house.clock.advance(11)
    house.renew()
    assert house.open_sessions() == 0
    assert (await sign(house, session)).token != before  # it was needed after all


async def test_a_watch_follows_the_session_that_came_after_a_lost_one(house, client) -> None:
    session = await result(client.open_session("agents", SUBJECT, close_on_disconnect=True))
    house.lose_sessions()
    await sign(house, session)
    (watched,) = house.within(house.running.daemon.sessions.all)
    await eventually(lambda: watched.watchers == 1)
    await result(session.close())
    assert house.open_sessions() == 0


def test_threads_share_a_session_that_is_lost_again_and_again(house) -> None:
    failures: list[BaseException] = []
    signed = [0] * 4

    def work(session: keyd.Session, thread: int) -> None:
        try:
            for _ in range(30):
                asyncio.run(sign(house, session))
                signed[thread] += 1
        except BaseException as exc:
            failures.append(exc)

    with Client(house.address, clock=house.clock.now) as client, client.open_session("agents", SUBJECT) as session:
        threads = [threading.Thread(target=work, args=(session, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        lost, then = 0, [0] * 4
        while any(thread.is_alive() for thread in threads):
            threads[0].join(0.05)
            # A call is made anew once: who loses another session meanwhile is told.
            if not failures and all(now - before >= 2 or now == 30 for now, before in zip(signed, then, strict=True)):
                house.lose_sessions()
                lost, then = lost + 1, signed.copy()
        assert lost > 3
        assert failures == []
        assert house.open_sessions() <= 1


def test_a_private_key_for_libraries(house) -> None:
    with Client(house.address, clock=house.clock.now) as client:
        session = client.open_session("agents", SUBJECT)
        key, info = session.private_key(), session.info()
        data = base(house, info)
        key.public_key().verify(key.sign(data), data)
        with pytest.raises(keyd.PermissionDenied, match="signature bases"):
            key.sign(b"eyJhbGciOiJFZERTQSJ9.e30")
        with pytest.raises(TypeError, match="stays in keyd"):
            key.private_bytes_raw()
        house.lose_sessions()
        with pytest.raises(keyd.NotFound):
            key.sign(data)
        assert session.private_key().kid == session.thumbprint != info.thumbprint

        other = client.open_session("agents", SUBJECT, algorithm="ES256")
        data = base(house, other.info())
        algorithm = ec.ECDSA(hashes.SHA256())
        other.private_key().public_key().verify(other.private_key().sign(data, algorithm), data, algorithm)


def test_a_library_signs_once_more_with_another_session(house) -> None:
    with Client(house.address, clock=house.clock.now) as client:
        session = client.open_session("agents", SUBJECT)
        before = session.info()

        def use(key: PrivateKey, info: SessionInfo) -> str:
            assert key.jwk["alg"] == "Ed25519"
            try:
                key.sign(base(house, info))
            except keyd.KeydClientError:
                raise LookupError("what a library makes of it")  # noqa: B904
            return info.thumbprint

        assert session.with_private_key(use) == before.thumbprint
        house.lose_sessions()
        assert session.with_private_key(use) == session.thumbprint != before.thumbprint
        with pytest.raises(keyd.PermissionDenied):
            session.with_private_key(lambda key, info: key.sign(b"eyJhbGciOiJFZERTQSJ9.e30"))
        with pytest.raises(LookupError, match="its own"):
            session.with_private_key(lambda key, info: {}["its own"])
        house.lose_sessions()
        with pytest.raises(keyd.PermissionDenied):
            session.with_private_key(lambda key, info: key.sign(base(house, info, "evil.example")))


async def test_tasks_share_a_session(house) -> None:
    async with AsyncClient(house.address, clock=house.clock.now) as client:
        session = await client.open_session("agents", SUBJECT)
        house.lose_sessions()
        signed = await asyncio.gather(*(sign(house, session) for _ in range(20)))
        assert len({info.thumbprint for info in signed}) == 1
        assert house.open_sessions() == 1


def test_what_is_known_is_good_for_a_minute_and_never_past_the_renewal(house) -> None:
    now = 1000.0
    known = Known(lambda: now)
    with Client(house.address, clock=house.clock.now) as client:
        info = client.open_session("agents", SUBJECT).info()
    known.take(info)
    now = 1059.0
    assert known.fresh() is info
    now = 1061.0
    assert known.fresh() is None
    assert known.usable() is info
    now = 900.0  # the clock was set back
    assert known.fresh() is None
    now = info.renew_time - 5
    known.take(info)
    now = info.renew_time + 0.1
    assert known.fresh() is None
    now = info.token_expires
    assert known.usable() is None
    other = replace(info, id="another session's")
    known.lose(other)
    known.renew(other)
    assert known.info is info
    known.lose(info)
    assert known.info is None
    known.renew(info)  # a watch that is late
    assert known.info is None


def test_what_a_watch_says_is_late_when_another_thread_has_lost_the_session_meanwhile(house) -> None:
    with Client(house.address, clock=house.clock.now) as client:
        info = client.open_session("agents", SUBJECT).info()
    meanwhile: list[SessionInfo] = []

    def clock() -> float:  # stands for the other thread: it runs where `renew` may be interrupted
        for lost in meanwhile:
            known.lose(lost)
        return 1000.0

    known = Known(clock)
    known.take(info)
    known.renew(info)
    assert known.info is info
    meanwhile.append(info)
    known.renew(info)
    assert known.info is None


@pytest.mark.parametrize("failed", [True, False])
async def test_what_the_program_raises_is_not_hidden_by_a_refusal_to_close(house, client, monkeypatch, failed: bool) -> None:
    session = await result(client.open_session("agents", SUBJECT))

    def refuse(*_: Any) -> Any:
        raise keyd.PermissionDenied("a reload took the grant away", reason="GRANT")

    monkeypatch.setattr(type(session), "close", refuse)
    expected = ZeroDivisionError if failed else keyd.PermissionDenied
    with pytest.raises(expected):
        if isinstance(client, Client):
            with session:
                assert 1 // (not failed)
        else:
            async with session:
                assert 1 // (not failed)


def test_each_session_is_asked_for_under_an_id_of_its_own() -> None:
    wanted = Wanted.of("agents", SUBJECT, {})
    ids = {wanted.request().request_id for _ in range(3)} | {
        wanted.sub_agent("aauth:shop+x@agents.example").request("p").request_id
    }
    assert len(ids) == 4
    assert all(ids)
