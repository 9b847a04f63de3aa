"""The key directory of Web Bot Auth over HTTP."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyd.core import directory
from keyd.core.directories import Directories
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.service.http import unchanged
from keyd.service.http_host import BadHostError, host_of

#: Seconds that a request waits for the first signatures of a new key, or of a new document.
_PATIENCE = 2.0
_PUBLIC = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
_NONE = {**_PUBLIC, "Cache-Control": "no-store"}
# A script of another origin sees no other fields.
_EXPOSED = {"Access-Control-Expose-Headers": "ETag, Content-Digest, Signature, Signature-Input"}


def route(directories: Directories) -> Route:
    """Return the route of the well-known path. It answers at the authorities that have a directory, and redirects nowhere."""

    async def respond(request: Request) -> Response:
        try:
            host = host_of(request.scope["headers"])
            await directories.settled(*host, within=_PATIENCE)
            answer = directories.answer(*host)
        except BadHostError:
            return PlainTextResponse("one Host, please\n", 400, _NONE)
        except NotFoundError:
            return PlainTextResponse("no key directory here\n", 404, _NONE)
        except KeyStateError:
            # Not an empty or unsigned one: verifiers would forget the keys that they have, and after a failure they keep them.
            return PlainTextResponse("nothing to publish now\n", 503, {**_NONE, "Retry-After": "5"})
        headers = {**_PUBLIC, **_EXPOSED, "ETag": answer.etag, "Cache-Control": f"public, max-age={answer.max_age}"}
        headers.update(answer.fields)  # also without the document: a cache puts them in the place of older ones
        # A cache that is told nothing of signatures keeps those that it has; they may be of a key that was disabled.
        if answer.fields and unchanged(request, answer.etag):
            return Response(status_code=304, headers=headers)
        if answer.content_digest is not None:
            headers["Content-Digest"] = answer.content_digest
        return Response(answer.body, headers=headers, media_type=directory.MEDIA_TYPE)

    return Route(directory.PATH, respond)
