"""What the daemon and the publisher say to each other: lines of JSON, behind those with a ``length`` so many octets of a page.

The publisher may be in the hands of whoever broke into it: what it asks is read like anything else from outside.
"""

from __future__ import annotations

import json
from typing import Any

from keyd.service.pages import Headers, Page

#: Longest line of the publisher, in bytes, and of the daemon.
LONGEST_ASK = 8 * 1024
LONGEST_WORD = 1024 * 1024
#: Seconds between two words of the daemon, and after which it is not believed any more.
PULSE, LEASE = 1.0, 5.0
_A_DAY = 86400.0


class WireError(ValueError):
    """What came is no question."""


def ask(number: int, path: str, headers: Headers) -> bytes:
    """Return the question for the page at a path."""
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    return _line({"ask": number, "path": path, "hosts": hosts})


def asked(line: bytes) -> tuple[int, str, list[tuple[bytes, bytes]]]:
    """Return number, path and headers of a question. Raises WireError."""
    try:
        said = json.loads(line)
        number, path, hosts = said["ask"], said["path"], said["hosts"]
        if not isinstance(number, int) or not isinstance(path, str) or not isinstance(hosts, list):
            raise WireError("not a question")
        return number, path, [(b"host", host.encode("latin-1")) for host in hosts]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise WireError("not a question") from exc


def answer(number: int, state: int, page: Page) -> bytes:
    """Return the answer to a question, which is good as long as the state has this number."""
    said = {
        "answer": number,
        "state": state,
        "status": page.status,
        "fields": dict(page.fields),
        "length": len(page.body),
        "media_type": page.media_type,
        "etag": page.etag,
        "whole_fields": dict(page.whole_fields),
        "fresh": min(page.fresh, _A_DAY),  # JSON has no infinity
    }
    return _line(said) + page.body


def answered(said: dict[str, Any], body: bytes) -> Page:
    """Return the page of an answer."""
    return Page(
        said["status"],
        said["fields"],
        body,
        said["media_type"],
        said["etag"],
        said["whole_fields"],
        said["fresh"],
    )


def pulse(state: int) -> bytes:
    """Return the word that the daemon is there, and which state is the present one: pages of others are not."""
    return _line({"state": state})


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
