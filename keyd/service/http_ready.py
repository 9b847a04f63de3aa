"""Answers over HTTP that are ready: the same request, sent again, is answered again as it was, without being read anew.

Verifiers and the caches in front of them send the same octets over and over. Those were read once, by the library that reads every
other request too; so nothing here reads HTTP for itself, and there is no second opinion on what a request is.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

import h11

from keyd.core.clock import Clock
from keyd.service.pages import Finder, Headers, Page, respond

#: Longest request that is remembered, longest answer, and all of both together, in bytes.
_LONGEST_REQUEST = 2 * 1024
_LONGEST_ANSWER = 256 * 1024
_MOST = 4 * 1024 * 1024
# Everything else is for the application; to have read it here too would only make floods of it dearer.
_ASKS_FOR_ONE = (b"GET /.well-known/", b"HEAD /.well-known/", b"GET /keys/", b"HEAD /keys/")
_OF_KEY = re.compile(r"/keys/([A-Za-z0-9._-]{1,200})/jwks\.json", re.ASCII)

#: Header lines that the server itself adds to each answer; another object as soon as they are others.
Own = list[tuple[bytes, bytes]]


class Ready:
    """Ready answers, for as long as the state of the daemon is the same, and no deadline of one of them has passed.

    Attributes:
        paths: those of the pages, but for those of keys.
        hits: requests that were answered as they were before.
        misses: those that had to be read, and were answered.
    """

    def __init__(
        self,
        pages: Mapping[str, Finder],
        page_of_key: Callable[[str], Finder],
        state: Callable[[], tuple[object, ...]],
        clock: Clock,
    ) -> None:
        """Args:
        pages: what finds each page, by path.
        page_of_key: what finds that of a key, by its name.
        state: all that the pages depend on, but the time: they are the same while each of these objects is.
        """
        self.paths = tuple(pages)
        self._pages = pages
        self._page_of_key = page_of_key
        self._look = state
        self._clock = clock
        self._answers: dict[bytes, bytes] = {}
        self._size = 0
        self._own: Own = []
        self._state: tuple[object, ...] = ()
        self._since, self._until = 0.0, 0.0
        self.hits = self.misses = 0

    def answer(self, sent: bytes, own: Own) -> bytes | None:
        """Return what answers these octets, if they are one whole request on a connection that waits for one; None: the application has to."""
        if not sent.startswith(_ASKS_FOR_ONE) or len(sent) > _LONGEST_REQUEST:
            return None
        now, state = self._clock.now(), self._look()
        sound = own is self._own and self._since <= now < self._until and all(map(operator.is_, state, self._state))
        if not sound:
            self._forget()
            self._own, self._state, self._since, self._until = own, state, now, float("inf")
        known = self._answers.get(sent)
        if known is not None:
            self.hits += 1
            return known
        return self._read(sent, own, now)

    def page(self, path: str, headers: Headers) -> Page | None:
        """Return the page at a path; None where there is none, or it has to be waited for."""
        find = self._finder(path)
        return None if find is None else find(headers)

    def _read(self, sent: bytes, own: Own, now: float) -> bytes | None:
        connection = h11.Connection(h11.SERVER)
        request = _whole(connection, sent)
        if request is None:
            return None
        headers = [(name.lower(), value) for name, value in request.headers]
        page = self.page(request.target.decode("ascii"), headers)
        if page is None or page.fresh <= 0:
            return None
        response = respond(page, headers)
        head = h11.Response(
            status_code=response.status_code,
            headers=[*own, *response.raw_headers],
            reason=HTTPStatus(response.status_code).phrase.encode(),
        )
        body = b"" if request.method == b"HEAD" else bytes(response.body)
        events = [head, h11.Data(data=body), h11.EndOfMessage()]
        answer = b"".join(connection.send(event) or b"" for event in events)
        self._until = min(self._until, now + page.fresh)
        self.misses += 1
        self._keep(sent, answer)
        return answer

    def _finder(self, path: str) -> Finder | None:
        of_key = _OF_KEY.fullmatch(path)
        return self._pages.get(path) if of_key is None else self._page_of_key(of_key[1])

    def _keep(self, sent: bytes, answer: bytes) -> None:
        if len(answer) > _LONGEST_ANSWER:
            return
        self._size += len(sent) + len(answer)
        if self._size > _MOST:
            self._forget()
            self._size = len(sent) + len(answer)
        self._answers[sent] = answer

    def _forget(self) -> None:
        self._answers.clear()
        self._size = 0


def _whole(connection: h11.Connection, sent: bytes) -> h11.Request | None:
    """Return the request, if it is exactly one, without a body, and the connection goes on after it."""
    try:
        connection.receive_data(sent)
        request = connection.next_event()
        end = connection.next_event() if isinstance(request, h11.Request) else None
    except h11.RemoteProtocolError:
        return None
    alone = connection.trailing_data == (b"", False) and connection.their_state is h11.DONE
    return request if isinstance(request, h11.Request) and isinstance(end, h11.EndOfMessage) and alone else None
