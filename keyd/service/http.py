"""JWK Sets and health over HTTP, for resources and probes."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from keyd.core import jwks
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.keyring import Keyring
from keyd.core.monitor import Monitor
from keyd.core.publication import Publication
from keyd.service.http_host import BadHostError, host_of

_PROBE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PUBLIC = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
# A cache may keep a 404 for as long as it likes if nobody says otherwise (RFC 9111 section 4.2.2): past the key's creation, that is.
_NO_SET = {**_PUBLIC, "Cache-Control": "no-store"}


def application(keyring: Keyring, publication: Publication, monitor: Monitor, more: Iterable[Route] = ()) -> Starlette:
    """Return the ASGI application, with ``more`` routes."""

    async def jwk_set(request: Request) -> Response:
        name: str | None = request.path_params.get("name")
        try:
            issuer = publication.rules.at(*host_of(request.scope["headers"]))
            document = publication.document(key=name, issuer=issuer)
        except BadHostError:
            return PlainTextResponse("one Host, please\n", 400, _NO_SET)
        except NotFoundError:
            return PlainTextResponse("no such key\n", 404, _NO_SET)
        except KeyStateError:
            if name is not None and not keyring.snapshot.get(name).key.publish:
                return PlainTextResponse(
                    "no such key\n", 404, _NO_SET
                )  # as if it were not there: it is none of the internet's business
            return PlainTextResponse("nothing is published now\n", 503, {**_NO_SET, "Retry-After": "5"})
        # No Vary: the host is part of the URI, and so of every cache's key (RFC 9110 section 7.1, RFC 9111 section 2).
        headers = {**_PUBLIC, "ETag": document.etag, "Cache-Control": f"public, max-age={document.max_age}"}
        if unchanged(request, document.etag):
            return Response(status_code=304, headers=headers)
        return Response(document.body, headers=headers, media_type=jwks.MEDIA_TYPE)

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_PROBE)

    async def ready(request: Request) -> Response:
        """Ready is who can sign for anybody: one backend out of several that is down takes nothing from the others."""
        sound = {name: monitor.answers(name) for name in keyring.backends}
        asked: str | None = request.path_params.get("backend")
        if asked is not None and asked not in sound:
            return PlainTextResponse("no such backend\n", 404, _PROBE)
        good = any(sound.values()) if asked is None else sound[asked]
        # What is wrong with them is in the log: it is none of the internet's business.
        lines = [f"{name}: {'ok' if ok else 'failing'}\n" for name, ok in sorted(sound.items()) if asked in (None, name)]
        return PlainTextResponse("".join(lines), 200 if good else 503, _PROBE)

    app = Starlette(
        routes=[
            Route("/.well-known/jwks.json", jwk_set),
            Route("/keys/{name}/jwks.json", jwk_set),
            Route("/livez", alive),
            Route("/readyz", ready),
            Route("/readyz/{backend}", ready),
            *more,
        ]
    )
    # A redirect to the path without a slash would lead to whatever host the request names, and a cache may keep it.
    app.router.redirect_slashes = False
    return app


def unchanged(request: Request, etag: str) -> bool:
    """Say whether the client has the document already: evaluate If-None-Match with the weak comparison (RFC 9110 section 13.1.2)."""
    header = request.headers.get("if-none-match", "")
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or etag in tags
