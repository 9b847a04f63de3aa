"""JWK Sets and health over HTTP, for resources and probes."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyd.core import jwks
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.keyring import Keyring
from keyd.core.monitor import Monitor
from keyd.core.publication import Publication
from keyd.service.http_host import BadHostError, host_of
from keyd.service.pages import JWKS, NOT_KEPT, Headers, Page, of_document, respond, text

_PROBE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def application(keyring: Keyring, publication: Publication, monitor: Monitor, more: Iterable[Route] = ()) -> Starlette:
    """Return the ASGI application, with ``more`` routes."""

    async def answer_set(request: Request) -> Response:
        headers = request.scope["headers"]
        return respond(jwk_set(keyring, publication, request.path_params.get("name"), headers), headers)

    async def alive(request: Request) -> Response:
        return respond(text(200, "ok", _PROBE), ())

    async def ready(request: Request) -> Response:
        """Ready is who can sign for anybody: one backend out of several that is down takes nothing from the others."""
        sound = {name: monitor.answers(name) for name in keyring.backends}
        asked: str | None = request.path_params.get("backend")
        if asked is not None and asked not in sound:
            return respond(text(404, "no such backend", _PROBE), ())
        good = any(sound.values()) if asked is None else sound[asked]
        # What is wrong with them is in the log: it is none of the internet's business.
        lines = [f"{name}: {'ok' if ok else 'failing'}\n" for name, ok in sorted(sound.items()) if asked in (None, name)]
        return respond(Page(200 if good else 503, _PROBE, "".join(lines).encode()), ())

    app = Starlette(
        routes=[
            Route(JWKS, answer_set),
            Route("/keys/{name}/jwks.json", answer_set),
            Route("/livez", alive),
            Route("/readyz", ready),
            Route("/readyz/{backend}", ready),
            *more,
        ]
    )
    # A redirect to the path without a slash would lead to whatever host the request names, and a cache may keep it.
    app.router.redirect_slashes = False
    return app


def jwk_set(keyring: Keyring, publication: Publication, name: str | None, headers: Headers) -> Page:
    """Return the JWK Set that is asked for at a host, or that of one key as that host publishes it."""
    try:
        issuer = publication.rules.at(*host_of(headers))
        document = publication.document(key=name, issuer=issuer)
    except BadHostError:
        return text(400, "one Host, please")
    except NotFoundError:
        return text(404, "no such key")
    except KeyStateError:
        if name is not None and not keyring.snapshot.get(name).key.publish:
            return text(404, "no such key")  # as if it were not there: it is none of the internet's business
        return text(503, "nothing is published now", {**NOT_KEPT, "Retry-After": "5"})
    return of_document(document, jwks.MEDIA_TYPE, keyring.clock.now())
