"""A request as a resource got it, and what somebody on the way might make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from requests.structures import CaseInsensitiveDict


@dataclass(frozen=True)
class Request:
    """A request as it came in; ``url`` is absolute, and made of the field Host."""

    method: str
    url: str
    headers: CaseInsensitiveDict[str]
    body: bytes


#: Returns what was verified. Raises anything.
Verify = Callable[[Request], str]
Alter = Callable[[Request], Request]


def another_path(request: Request) -> Request:
    return replace(request, url=request.url.replace("/orders", "/refunds"))


def another_authority(request: Request) -> Request:
    return replace(request, url="http://evil.example/orders")


def another_token(request: Request) -> Request:
    """Change the claims of a bearer token."""
    header, _, signature = request.headers["authorization"].split(".")
    headers = CaseInsensitiveDict({**request.headers, "Authorization": f"{header}.eyJzdWIiOiJtYWxsb3J5In0.{signature}"})
    return replace(request, headers=headers)
