"""The documents beside the JWK Set of an issuer, over HTTP, for verifiers that come by the issuer's name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyd.core.documents import MEDIA_TYPE, NAMES, Documents
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.jwks import Document
from keyd.core.publication import Publication, Rules
from keyd.service.http import unchanged
from keyd.service.http_host import BadHostError, host_of

_PUBLIC = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
# A cache may keep a 404 for as long as it likes if nobody says otherwise (RFC 9111 section 4.2.2).
_NONE = {**_PUBLIC, "Cache-Control": "no-store"}
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def routes(publication: Publication, documents: Documents) -> list[Route]:
    """Return where they are served."""
    return [Route(f"/.well-known/{name}", _handler(publication, documents, name)) for name in NAMES]


def _handler(publication: Publication, documents: Documents, name: str) -> _Handler:
    async def answer(request: Request) -> Response:
        try:
            document = _at(publication.rules, documents, request, name)
        except BadHostError:
            return PlainTextResponse("one Host, please\n", 400, _NONE)
        except NotFoundError:
            return PlainTextResponse("no such document\n", 404, _NONE)
        except KeyStateError:
            return PlainTextResponse("not published now\n", 503, {**_NONE, "Retry-After": "60"})
        headers = {**_PUBLIC, "ETag": document.etag, "Cache-Control": f"public, max-age={document.max_age}"}
        if unchanged(request, document.etag):
            return Response(status_code=304, headers=headers)
        return Response(document.body, headers=headers, media_type=MEDIA_TYPE)

    return answer


def _at(rules: Rules, documents: Documents, request: Request, name: str) -> Document:
    host, port = host_of(request.scope["headers"])
    issuer = rules.at(host, port)
    # A document that names another origin than the one that it is fetched from is refused by whoever fetches it, and rightly.
    if issuer is None or issuer.origin != f"https://{host}":
        raise NotFoundError("no document at this host")
    return documents.get(issuer, name)
