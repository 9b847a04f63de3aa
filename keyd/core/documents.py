"""What is served beside the JWK Set of an issuer, at its origin alone: who it is, and which of its tokens are revoked.

Verifiers of AAuth find keys by ``{iss}/.well-known/{dwk}``, whose ``jwks_uri`` leads to the JWK Set. That of revoked tokens is keyd's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from keyd.core import jwks
from keyd.core.clock import Clock
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.jwks import Document
from keyd.core.publication import Issuer
from keyd.core.sessions.revocations import Revocations

MEDIA_TYPE = "application/json"
#: Those of draft-hardt-oauth-aauth-protocol-11, and as LumoAuth spells them.
AGENT, RESOURCE, LUMOAUTH_AGENT, LUMOAUTH_RESOURCE = "aauth-agent.json", "aauth-resource.json", "aauth-agent", "aauth-resource"
REVOKED = "aauth-revoked-tokens.json"
NAMES = (AGENT, LUMOAUTH_AGENT, RESOURCE, LUMOAUTH_RESOURCE, REVOKED)
#: Of a list of revoked tokens, in bytes: some ten thousand tokens.
MAX_REVOKED_SIZE = 1024 * 1024
#: For how many seconds a list of revoked tokens may be cached.
REVOKED_MAX_AGE = 60.0
_log = structlog.get_logger("keyd.documents")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A rendered document, good from ``since`` on while the issuer and the list of revoked tokens are these."""

    issuer: Issuer
    listed: object
    since: float
    document: Document


class Documents:
    """The documents of all issuers. Each is rendered once until it is another."""

    def __init__(self, clock: Clock, revocations: Revocations) -> None:
        self._clock = clock
        self._revocations = revocations
        self._kept: dict[tuple[str, str], _Kept] = {}

    def names(self, issuer: Issuer) -> list[str]:
        """Return which documents an issuer has, as they are called below ``/.well-known/``."""
        return [] if issuer.origin is None else [name for name in NAMES if name == REVOKED or name in issuer.metadata]

    def get(self, issuer: Issuer, name: str) -> Document:
        """Return a document.

        Raises:
            NotFoundError: the issuer has none of this name.
            KeyStateError: the list of revoked tokens is longer than one document. A part of it would pass for the whole.
        """
        if name not in self.names(issuer):
            raise NotFoundError(f"issuer {issuer.name!r} has no document {name!r}")
        document = self._document(issuer, name)
        if name == REVOKED and len(document.body) > MAX_REVOKED_SIZE:
            raise KeyStateError(
                f"the {document.keys} revoked tokens of issuer {issuer.name!r} are more than the {MAX_REVOKED_SIZE} bytes of one "
                "document, and a part of them would pass for the whole; mark the version that signed them compromised instead"
            )
        return document

    def revoked(self, issuers: Iterable[Issuer]) -> Mapping[str, tuple[int, int]]:
        """Return how many tokens and bytes the list of each issuer has, by its name, where it has one."""
        lists = {each.name: self._document(each, REVOKED) for each in issuers if each.origin is not None}
        return {name: (document.keys, len(document.body)) for name, document in lists.items()}

    def warn_of_size(self, issuers: Iterable[Issuer]) -> None:
        """Log which lists of revoked tokens are too long to be published."""
        for name, (number, size) in self.revoked(issuers).items():
            if size > MAX_REVOKED_SIZE:
                _log.error(
                    "the list of revoked tokens is too long and is not published any more: nobody learns of those that are added",
                    issuer=name,
                    listed=number,
                    bytes=size,
                    most_bytes=MAX_REVOKED_SIZE,
                    hint="mark the version that signed them compromised: keyd key compromise",
                )

    def _document(self, issuer: Issuer, name: str) -> Document:
        now, listed = self._clock.now(), self._revocations.state if name == REVOKED else None
        known = self._kept.get((issuer.name, name))
        if known is not None and known.issuer is issuer and known.listed is listed and known.since <= now < known.document.until:
            return known.document
        document = self._revoked(issuer) if name == REVOKED else _metadata(issuer, name)
        self._kept[issuer.name, name] = _Kept(issuer, listed, now, document)
        return document

    def _revoked(self, issuer: Issuer) -> Document:
        tokens = self._revocations.listed(issuer.origin)
        members = [{"jti": token.token_id, "exp": math.ceil(token.expires)} for token in tokens]
        document = _rendered({"issuer": issuer.origin, "revoked": members}, min(issuer.max_age, REVOKED_MAX_AGE), len(tokens))
        return replace(document, until=min((token.expires for token in tokens), default=math.inf))


def _metadata(issuer: Issuer, name: str) -> Document:
    members = {"issuer": issuer.origin, "jwks_uri": f"{issuer.origin}/.well-known/jwks.json", **issuer.metadata[name]}
    if name in (AGENT, LUMOAUTH_AGENT):
        members["revoked_tokens_uri"] = f"{issuer.origin}/.well-known/{REVOKED}"
    return _rendered(members, issuer.max_age)


def _rendered(members: Mapping[str, object], max_age: float, number: int = 0) -> Document:
    body = json.dumps(members, separators=(",", ":")).encode()
    return Document(body, jwks.etag(body), int(max_age), number)
