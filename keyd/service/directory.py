"""The key directory of Web Bot Auth over HTTP."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyd.core import directory
from keyd.core.clock import Clock
from keyd.core.directories import Directories
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.service.http_host import BadHostError, host_of
from keyd.service.pages import NOT_KEPT, PUBLIC, Finder, Headers, Page, respond, same_for, text

#: Seconds that a request waits for the first signatures of a new key, or of a new document.
_PATIENCE = 2.0
# A script of another origin sees no other fields.
_EXPOSED = {"Access-Control-Expose-Headers": "ETag, Content-Digest, Signature, Signature-Input"}


def route(directories: Directories, clock: Clock) -> Route:
    """Return the route of the well-known path. It answers at the authorities that have a directory, and redirects nowhere."""

    async def answer(request: Request) -> Response:
        headers = request.scope["headers"]
        page = _page(directories, clock, headers)
        if page is None:
            await directories.settled(*host_of(headers), within=_PATIENCE)
            page = _page(directories, clock, headers, wait=False)
        assert page is not None
        return respond(page, headers)

    return Route(directory.PATH, answer)


def finder(directories: Directories, clock: Clock) -> Finder:
    """Return what finds the directory at a host; None while signatures are missing that were not tried."""
    return partial(_page, directories, clock)


def _page(directories: Directories, clock: Clock, headers: Headers, *, wait: bool = True) -> Page | None:
    try:
        host = host_of(headers)
        if wait and directories.pending(*host):
            return None
        answer = directories.answer(*host)
    except BadHostError:
        return text(400, "one Host, please")
    except NotFoundError:
        return text(404, "no key directory here")
    except KeyStateError:
        # Not an empty or unsigned one: verifiers would forget the keys that they have, and after a failure they keep them.
        return text(503, "nothing to publish now", {**NOT_KEPT, "Retry-After": "5"})
    fields = {**PUBLIC, **_EXPOSED, "ETag": answer.etag, "Cache-Control": f"public, max-age={answer.max_age}"}
    fields.update(answer.fields)  # also without the document: a cache puts them in the place of older ones
    return Page(
        200,
        fields,
        answer.body,
        directory.MEDIA_TYPE,
        # A cache that is told nothing of signatures keeps those that it has; they may be of a key that was disabled.
        answer.etag if answer.fields else None,
        {} if answer.content_digest is None else {"Content-Digest": answer.content_digest},
        same_for(answer.until, answer.max_age, clock.now()),
    )
