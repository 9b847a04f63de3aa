"""What is published over HTTP, before anybody asks on what condition: one value for each answer, whoever sends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from starlette.responses import Response

from keyd.core.jwks import Document

#: Where the JWK Set of a host is.
JWKS = "/.well-known/jwks.json"
#: Names in lower case, with values, as ASGI has them.
Headers = Iterable[tuple[bytes, bytes]]
#: Finds the page that is asked for at one path. None: it has to be waited for.
Finder = Callable[[Headers], "Page | None"]

PUBLIC = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
# A cache may keep a 404 for as long as it likes if nobody says otherwise (RFC 9111 section 4.2.2): past the key's creation, that is.
NOT_KEPT = {**PUBLIC, "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Page:
    """An answer.

    Attributes:
        fields: those that also go out with a 304 in its place.
        etag: strong, with quotes. None: no condition is looked at.
        whole_fields: those that go out with the body only.
        fresh: for how many seconds it is the same answer, unless something changes.
    """

    status: int
    fields: Mapping[str, str]
    body: bytes
    media_type: str = "text/plain"
    etag: str | None = None
    whole_fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fresh: float = 0.0


def of_document(document: Document, media_type: str, now: float) -> Page:
    """Return the page of a document that is published."""
    # No Vary: the host is part of the URI, and so of every cache's key (RFC 9110 section 7.1, RFC 9111 section 2).
    fields = {**PUBLIC, "ETag": document.etag, "Cache-Control": f"public, max-age={document.max_age}"}
    return Page(200, fields, document.body, media_type, document.etag, fresh=same_for(document.until, document.max_age, now))


def text(status: int, line: str, fields: Mapping[str, str] = NOT_KEPT) -> Page:
    """Return a page of one line, which nobody keeps."""
    return Page(status, fields, f"{line}\n".encode())


def same_for(until: float, max_age: int, now: float) -> float:
    """Return for how many seconds a document that is another ``until`` then goes out with the same ``max_age``."""
    return max(0.0, until - now - max_age)


def unchanged(headers: Headers, etag: str) -> bool:
    """Say whether the client has the document already: evaluate If-None-Match with the weak comparison (RFC 9110 section 13.1.2)."""
    asked = b",".join(value for name, value in headers if name == b"if-none-match")
    if asked.strip() == b"*":
        return True
    return etag.encode() in {tag.strip().removeprefix(b"W/") for tag in asked.split(b",")}


def respond(page: Page, headers: Headers) -> Response:
    """Return the response to a request with these headers: the page, or that the client has it already."""
    if page.etag is not None and unchanged(headers, page.etag):
        return Response(status_code=304, headers=page.fields)
    return Response(page.body, page.status, {**page.fields, **page.whole_fields}, page.media_type)
