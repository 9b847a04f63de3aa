"""The publisher: answers from what the daemon told it, and asks it for the rest."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyd.core.clock import Clock
from keyd.service.pages import NOT_KEPT, Headers, Page, respond, text
from keyd.service.publisher import wire

#: Pages that are kept, their size in bytes, and questions at one time.
_MOST_PAGES = 4096
_MOST_BYTES = 64 * 1024 * 1024
_AT_ONCE = 16
#: Questions a second for names, of keys and of backends, and as many for hosts: both are without end.
_PER_SECOND = 500
#: Documents that were there before the flood, and are asked for in any case.
_MOST_REGULARS = 64
#: For how many seconds a page is kept that may be another at any time, so that no flood asks for it more often: less than it is on its way.
_BRIEFLY = 0.1
#: The same whatever the host is, and always asked for: who gets no answer from them restarts the daemon.
_PROBES = ("/livez", "/readyz")
#: Seconds that an answer is waited for; the first signatures of a key directory may take two.
_PATIENCE = 5.0

Where = tuple[str, tuple[bytes, ...]]


class BootClock:
    """Seconds since the machine was started, those that it slept among them; nobody can set it."""

    def now(self) -> float:
        """Return them."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class Shelf:
    """The pages that the daemon has given, and the questions to it.

    Attributes:
        state: the number of the present state; pages of another are gone. As an object, for :class:`keyd.service.http_ready.Ready`.
    """

    def __init__(self, writer: asyncio.StreamWriter, clock: Clock) -> None:
        self.state: object = None
        self._writer = writer
        self._clock = clock
        self._heard = float("-inf")
        self._pages: dict[Where, tuple[Page, float]] = {}
        self._size = 0
        self._waiting: dict[int, asyncio.Future[tuple[int, Page]]] = {}
        self._number = 0
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._regulars: set[Where] = {(path, ()) for path in _PROBES}
        self._second, self._in_second = 0, Counter[bool]()

    def find(self, path: str, headers: Headers) -> Page | None:
        """Return a page that is good now, and for how long it will be if the daemon says nothing more; None: ask."""
        now = self._clock.now()
        kept = self._pages.get(_where(path, headers))
        fresh = 0.0 if kept is None else min(kept[1], self._heard + wire.LEASE) - now
        return None if kept is None or fresh <= 0 else replace(kept[0], fresh=fresh)

    async def page(self, path: str, headers: Headers) -> Page:
        """Return the page, of the daemon if need be."""
        page = self.find(path, headers)
        if page is not None:
            return page
        if self._clock.now() >= self._heard + wire.LEASE or self._too_many(_where(path, headers)):
            return _later()
        try:
            async with asyncio.timeout(_PATIENCE), self._places:
                return await self._ask(path, headers)
        except TimeoutError:
            return _later()

    async def _ask(self, path: str, headers: Headers) -> Page:
        self._number += 1
        number, question = self._number, wire.ask(self._number, path, headers)
        if len(question) > wire.LONGEST_ASK:
            return text(404, "no such key")
        began = self._clock.now()
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(question)
            state, page = await self._waiting[number]
        finally:
            del self._waiting[number]
        if state == self.state:
            self._keep(_where(path, headers), page, began + max(page.fresh, _BRIEFLY))
        return page

    def _too_many(self, where: Where) -> bool:
        if where in self._regulars:
            return False
        second = int(self._clock.now())
        if second != self._second:
            self._second, self._in_second = second, Counter()
        named = _named(where)  # a flood of names does not keep hosts out
        self._in_second[named] += 1
        return self._in_second[named] > _PER_SECOND

    def _keep(self, where: Where, page: Page, until: float) -> None:
        before = self._pages.pop(where, None)
        self._size += len(page.body) - (0 if before is None else len(before[0].body))
        if len(self._pages) >= _MOST_PAGES or self._size > _MOST_BYTES:
            self._pages.clear()
            self._size = len(page.body)
        self._pages[where] = page, until
        if page.status == HTTPStatus.OK and not _named(where) and len(self._regulars) < _MOST_REGULARS:
            self._regulars.add(where)

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Take in what the daemon says. Returns when it is gone."""
        while line := await reader.readline():
            said = json.loads(line)
            body = await reader.readexactly(said.get("length", 0))
            self._heard = self._clock.now()
            if said["state"] != self.state:
                self.state = said["state"]
                self._pages.clear()
                self._size = 0
            self._take(said, body)

    def _take(self, said: dict[str, Any], body: bytes) -> None:
        waiting = self._waiting.get(said.get("answer", 0))
        if waiting is not None and not waiting.done():
            waiting.set_result((said["state"], wire.answered(said, body)))


def application(shelf: Shelf, documents: Iterable[str]) -> Starlette:
    """Return the ASGI application: the paths of the daemon's, those of ``documents`` among them, and its answers."""

    async def answer(request: Request) -> Response:
        headers = request.scope["headers"]
        return respond(await shelf.page(request.scope["path"], headers), headers)

    paths = (*documents, "/keys/{name}/jwks.json", "/livez", "/readyz", "/readyz/{backend}")
    app = Starlette(routes=[Route(path, answer) for path in paths])
    app.router.redirect_slashes = False
    return app


def finder(shelf: Shelf, path: str) -> partial[Page | None]:
    """Return what finds the page at a path, if it is there."""
    return partial(shelf.find, path)


def _where(path: str, headers: Headers) -> Where:
    if path in _PROBES:
        return path, ()
    return path, tuple(value for name, value in headers if name == b"host")


def _named(where: Where) -> bool:
    return where[0].startswith(("/keys/", "/readyz/"))


def _later() -> Page:
    return text(503, "not known now", {**NOT_KEPT, "Retry-After": "1"})
