"""The documents beside the JWK Set of an issuer, over HTTP, for verifiers that come by the issuer's name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyd.core.clock import Clock
from keyd.core.documents import MEDIA_TYPE, NAMES, Documents
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.jwks import Document
from keyd.core.publication import Publication, Rules
from keyd.service.http_host import BadHostError, host_of
from keyd.service.pages import NOT_KEPT, Headers, Page, of_document, respond, text

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def routes(publication: Publication, documents: Documents, clock: Clock) -> list[Route]:
    """Return where they are served."""
    return [Route(path, _handler(find)) for path, find in finders(publication, documents, clock).items()]


def finders(publication: Publication, documents: Documents, clock: Clock) -> Mapping[str, Callable[[Headers], Page]]:
    """Return what finds them, by path."""
    return {f"/.well-known/{name}": partial(_page, publication, documents, clock, name) for name in NAMES}


def _handler(find: Callable[[Headers], Page]) -> _Handler:
    async def answer(request: Request) -> Response:
        headers = request.scope["headers"]
        return respond(find(headers), headers)

    return answer


def _page(publication: Publication, documents: Documents, clock: Clock, name: str, headers: Headers) -> Page:
    try:
        document = _at(publication.rules, documents, headers, name)
    except BadHostError:
        return text(400, "one Host, please")
    except NotFoundError:
        return text(404, "no such document")
    except KeyStateError:
        return text(503, "not published now", {**NOT_KEPT, "Retry-After": "60"})
    return of_document(document, MEDIA_TYPE, clock.now())


def _at(rules: Rules, documents: Documents, headers: Headers, name: str) -> Document:
    host, port = host_of(headers)
    issuer = rules.at(host, port)
    # A document that names another origin than the one that it is fetched from is refused by whoever fetches it, and rightly.
    if issuer is None or issuer.origin != f"https://{host}":
        raise NotFoundError("no document at this host")
    return documents.get(issuer, name)
