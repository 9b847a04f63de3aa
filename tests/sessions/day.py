"""Hours of two agents: requests, renewals, a planned rotation, an emergency, and what must be refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from keyd.client import Client, PermissionDenied, Session, SessionInfo
from keyd.client.http import OutgoingRequest
from keyd.client.httpx_auth import KeydAuth
from keyd.client.session_http import sign_outgoing
from keyd.v1 import session_service_pb2 as pb
from keyd.v1 import session_service_pb2_grpc
from sessions.house import LEAD, STORES, House, agent, provider
from sessions.resources import Resource

#: Of the clock, for the requests: at most three tokens of an hour, which are renewed after 39 to 45 minutes.
HOURS = 5400.0
_LIBRARIES = ("introspection-aauth", "aauth")
_BODY = b'{"item": 7}'


@dataclass
class Report:
    """What came of it.

    Attributes:
        figures: as they are printed.
        problems: what fell short; empty: nothing.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def demand(self, good: bool, what: str) -> None:
        if not good and len(self.problems) < 40:
            self.problems.append(what)


class Agent:
    """One agent, with the session that it opened, and a resource for each library, which trusts its provider."""

    def __init__(self, house: House, store: str, stack: ExitStack, report: Report) -> None:
        self.store, self._house, self._report = store, house, report
        self.issuer_key = STORES[store]
        self.resources = {
            name: Resource(name, house.http, provider(store), f"https://{name.partition('-')[0]}.example", house.clock_file)
            for name in _LIBRARIES
        }
        for each in self.resources.values():
            stack.callback(each.close)
        client = stack.enter_context(Client(house.address, clock=house.clock.now))
        self.session: Session = stack.enter_context(client.open_session(self.issuer_key, agent(store)))
        self._options = {name: {"clock": house.clock.now, "base64url": name == "aauth"} for name in _LIBRARIES}
        auths = {name: KeydAuth(self.session, **options) for name, options in self._options.items()}  # type: ignore[arg-type]
        self._http = {name: stack.enter_context(httpx.Client(auth=auth, verify=False)) for name, auth in auths.items()}
        self._plain = stack.enter_context(httpx.Client(verify=False))
        self.sent = self.verified = 0
        self.tokens: set[str] = set()

    def send(self, number: int, library: str, expect: str | None = None) -> None:
        """Send a request as agents do. It has to be verified, and with ``expect``, under that kid."""
        resource = self.resources[library]
        url, headers = f"{resource.url}/orders/{number}", {"Host": resource.authority}
        if number % 3:
            answer = self._http[library].get(f"{url}?page={number}", headers=headers)
        else:
            headers["Content-Type"] = "application/json"
            answer = self._http[library].post(url, content=_BODY, headers=headers)
        said = answer.json()
        good = answer.status_code == 200 and said["agent"] == agent(self.store)
        self.sent += 1
        self.verified += good
        self._report.demand(good, f"{self.store}: request {number} to {library}: {answer.status_code} {said}")
        if good:
            self.tokens.add(said["token"])
            if expect is not None:
                kid = self.session.info().token_kid
                self._report.demand(kid == expect, f"{self.store}: the token is by {kid}, not by {expect}")

    def settle(self, kid: str | None = None) -> SessionInfo:
        """Wait until keyd has renewed the token, if that is due by the clock, or until it is by ``kid``."""
        end = time.monotonic() + 30
        while True:
            info = self.session.info(refresh=True)
            if info.renew_time > self._house.clock.now() and kid in (None, info.token_kid):
                return info
            assert time.monotonic() < end, f"{self.store}: the token is not renewed: {info}"

    def demand(self, expected: int, what: str, url: str, fields: dict[str, str], body: bytes = _BODY) -> None:
        """Send what is signed already. The resource has to answer as expected."""
        answer = self._plain.post(url, headers=fields, content=body)
        self._report.demand(answer.status_code == expected, f"{self.store}: {what}: {answer.status_code} {answer.text}")

    def signed(self, library: str, info: SessionInfo | None = None, authority: str = "") -> tuple[str, dict[str, str]]:
        """Return the URL and fields of a signed POST; with ``info``, one that shows that token, whatever the newest is."""
        resource = self.resources[library]
        fields = {"Host": authority or resource.authority, "Content-Type": "application/json"}
        request = OutgoingRequest("POST", f"{resource.url}/orders?a=1", fields.items(), _BODY)
        signer: Any = self.session if info is None else _Shows(self.session, info)
        return request.url, fields | sign_outgoing(signer, None, request, self._options[library])  # type: ignore[arg-type]


class _Shows:
    """A session that shows one token and no other, as a thief of nothing but the token would have it."""

    def __init__(self, session: Session, info: SessionInfo) -> None:
        self._session, self._info = session, info

    def sign_rebuilding(self, build: Any) -> Any:
        return self._session.sign_base(build(self._info)), self._info


def live(requests: int) -> Report:
    """Go through all of it, with so many requests for each agent.

    Sessions are short of nothing when all requests but those that must be refused are verified, and each store has signed at most three
    times for the ``requests`` of its agent, by keyd's count and by its own.
    """
    report = Report()
    with ExitStack() as stack:
        house = House(stack)
        before = house.by_keyd(), house.by_stores()
        agents = [Agent(house, store, stack, report) for store in STORES]
        for each in agents:  # all are started before the first is waited for
            for library in _LIBRARIES:
                each.send(0, library)
        _requests(house, agents, requests, report)
        _count(house, agents, before, report)
        _planned(house, agents, min(requests, 60))
        _emergency(house, agents)
        refused = _refused(agents, report)
        report.figures["requests"] = sum(each.sent for each in agents)
        report.figures["verified"] = sum(each.verified for each in agents)
        report.figures["refused, as they must be"] = refused
        for each in agents:
            for library, resource in each.resources.items():
                counts = resource.counts()
                report.figures[f"{library}, agents of {each.store}"] = ", ".join(f"{n} {what}" for what, n in counts.items())
        for store, tokens in _tokens(house).items():
            report.figures[f"tokens of the agent of {store}"] = tokens
    return report


def _requests(house: House, agents: list[Agent], requests: int, report: Report) -> None:
    begun = time.monotonic()
    for number in range(1, requests + 1):
        for each in agents:
            each.send(number, _LIBRARIES[number % 2])
        house.clock.advance(HOURS / requests)
        if HOURS / requests > 60:  # so few requests that a renewal would be missed
            for each in agents:
                each.settle()
    seconds = time.monotonic() - begun
    report.figures["requests per second, one after the other"] = round(requests * len(agents) / seconds)


def _count(house: House, agents: list[Agent], before: tuple[dict[str, int], dict[str, int]], report: Report) -> None:
    by_keyd, by_stores = house.by_keyd(), house.by_stores()
    for each in agents:
        store = each.store
        counted = by_keyd[store] - before[0][store], by_stores[store] - before[1][store]
        report.figures[f"signatures by {store} for {each.sent} requests"] = (
            f"{counted[0]} by keyd's count, {counted[1]} by its own"
        )
        report.demand(counted[0] == counted[1], f"{store} and keyd do not count the same: {counted}")
        report.demand(2 <= counted[1] <= 3, f"{store} has signed {counted[1]} times: at least twice, and at most three times")
        tokens = _tokens(house).get(store, 0)
        report.demand(tokens == counted[1], f"{store} has signed {counted[1]} times for {tokens} tokens")
        report.demand(2 <= len(each.tokens) <= tokens, f"{store}: the resources have seen {len(each.tokens)} of {tokens} tokens")


def _planned(house: House, agents: list[Agent], steps: int) -> None:
    """Rotate as planned, and go on until every token is by the new version."""
    with house.admin() as admin:
        kids = {each.store: admin.rotate_key(each.issuer_key).key.versions[-1].kid for each in agents}
    for step in _steps(house, LEAD + 3600, steps):
        for each in agents:
            each.settle()
            for library in _LIBRARIES:
                each.send(step, library)
    for each in agents:
        each.send(0, _LIBRARIES[0], kids[each.store])


def _emergency(house: House, agents: list[Agent]) -> None:
    """Rotate at once, call the version before compromised, and go on. A token that shows that version is refused from then on."""
    _idle(house, agents)
    stolen = {each.store: each.settle() for each in agents}
    _show(agents, stolen, 200, "a token that is good")
    kids = {}
    with house.admin() as admin:
        for each in agents:
            old = max(version.version for version in admin.get_key(each.issuer_key).versions)
            kids[each.store] = admin.rotate_key(each.issuer_key, now=True).key.versions[-1].kid
            admin.compromise_version(each.issuer_key, old, "a drill")
    for each in agents:
        each.settle(kids[each.store])
        for number in range(6):
            each.send(number, _LIBRARIES[number % 2], kids[each.store])
    _show(agents, stolen, 401, "a token of a compromised version")


def _idle(house: House, agents: list[Agent]) -> None:
    """Have every cache filled anew, and then nothing happen for the minute that verifiers leave between two fetches."""
    house.clock.advance(301.0)
    for each in agents:
        each.settle()
        for library in _LIBRARIES:
            each.send(1, library)
    house.clock.advance(61.0)


def _show(agents: list[Agent], tokens: dict[str, SessionInfo], expected: int, what: str) -> None:
    for each in agents:
        for library in _LIBRARIES:
            each.demand(expected, what, *each.signed(library, tokens[each.store]))


def _refused(agents: list[Agent], report: Report) -> int:
    """Send what resources must refuse, and return how often they did."""
    refused = len(agents) * len(_LIBRARIES)  # those with the token of a compromised version
    for each in agents:
        for library in _LIBRARIES:
            url, fields = each.signed(library)
            other = next(name for name in _LIBRARIES if name != library)
            elsewhere = each.signed(library, authority=each.resources[other].authority)
            twins = {
                "another body": (url, fields, b'{"item": 8}'),
                "another path": (url.replace("/orders", "/admin"), fields, _BODY),
                "another query": (url.replace("a=1", "a=2"), fields, _BODY),
                "another content-type": (url, fields | {"Content-Type": "text/plain"}, _BODY),
                "no signature": (url, {k: v for k, v in fields.items() if not k.startswith("Signature")}, _BODY),
                "signed for another authority": (*elsewhere, _BODY),
            }
            each.demand(200, "a request that is good", url, fields)
            for what, twin in twins.items():
                each.demand(401, what, *twin)
            refused += len(twins)
        try:
            each.signed(_LIBRARIES[0], authority="evil.example")
        except PermissionDenied:
            refused += 1
        else:
            report.demand(False, f"{each.store}: keyd has signed a request to evil.example")
    return refused


def _tokens(house: House) -> dict[str, int]:
    """Return how many tokens the session of each store's agent has had, by keyd."""
    with grpc.insecure_channel(house.address) as channel:
        listed = session_service_pb2_grpc.SessionAdminServiceStub(channel).ListSessions(pb.ListSessionsRequest())
    stores = {agent(store): store for store in STORES}
    return {stores[session.subject]: session.tokens for session in listed.sessions}


def _steps(house: House, seconds: float, count: int) -> Iterator[int]:
    for step in range(count):
        house.clock.advance(seconds / count)
        yield step
