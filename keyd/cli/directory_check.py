"""Looks at a key directory of Web Bot Auth as a verifier does that meets it for the first time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
from http_message_signatures import HTTPMessageVerifier, MappingKeyResolver, algorithms

from keyd.cli.request import signed
from keyd.client.digest import content_digest
from keyd.core import authorities, jwk
from keyd.core.directory import MEDIA_TYPE, PATH
from keyd.core.publication import FEWEST_READ, SMALLEST_READ
from keyd.core.signature_base import DIRECTORY_TAG

_AUTHORITY = '"@authority";req'
_DIGEST = '"content-digest"'
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_LIBRARY: Mapping[str, Any] = {
    item.algorithm_id: item for item in vars(algorithms).values() if isinstance(item, type) and hasattr(item, "algorithm_id")
}
_BY_CURVE = {"Ed25519": "ed25519", "P-256": "ecdsa-p256-sha256", "P-384": "ecdsa-p384-sha384"}


class CheckError(Exception):
    """There is nothing to look at."""


@dataclass(slots=True)
class KeyVerdict:
    """What was found of one key.

    Attributes:
        thumbprint: RFC 7638; empty where it is no public key.
        kind: its curve, or its type.
        problem: why a verifier that wants signatures does not use it; empty where it does.
        cloudflare: why Cloudflare does not use it; empty where it does.
        expires: when its signature ends, in seconds since the epoch.
    """

    thumbprint: str
    kind: str
    problem: str = ""
    cloudflare: str = ""
    expires: int | None = None


@dataclass(slots=True)
class Verdict:
    """What was found of a directory; ``problems`` are those of the document."""

    url: str
    problems: list[str] = field(default_factory=list)
    keys: list[KeyVerdict] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the document is right and each of its keys signs it."""
        return bool(self.keys) and not self.problems and not any(key.problem for key in self.keys)


def url_of(text: str) -> str:
    """Return the URL of the directory of an origin, which may have the path already. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme != "https":
        raise ValueError(f"{text!r} is not https, and verifiers ask for nothing else; to look before there is TLS, use --via")
    authority = parts.netloc.lower().removesuffix(":443")
    try:
        if not authority or "*" in authority or parts.query or parts.fragment or parts.path not in ("", "/", PATH):
            raise ValueError("no origin")
        authorities.check(authority)
    except ValueError as exc:
        reason = "" if authority.isascii() else f": {exc}"
        raise ValueError(
            f"{text!r} is not an origin such as https://agent.example; verifiers add {PATH} themselves{reason}"
        ) from None
    return f"https://{authority}{PATH}"


def check(url: str, *, via: str | None, timeout: float) -> Verdict:
    """Fetch a directory and look at it.

    Args:
        via: an origin that is asked in the place of that of ``url``, as a proxy in front of keyd would.
        timeout: in seconds.

    Raises:
        CheckError: it cannot be fetched.
    """
    response, body = _fetch(url, via, timeout)
    verdict = Verdict(url, list(_document_problems(response, body)))
    if response.status_code == 200:
        keys = _keys(body)
        if keys is None:
            verdict.problems.append("it is not a JWK Set")
        else:
            verdict.problems += [problem for key in keys for problem in _naming_problems(key)] if keys else ["it lists no key"]
            verdict.keys = [_of_key(key, url, response, body) for key in keys]
    return verdict


def _fetch(url: str, via: str | None, timeout: float) -> tuple[httpx.Response, bytes]:
    authority = urlsplit(url).netloc
    headers = {"Accept": MEDIA_TYPE, "Host": authority, "Accept-Encoding": "identity"}
    target = url if via is None else f"{via.rstrip('/')}{PATH}"
    try:
        with httpx.Client(timeout=timeout) as client, client.stream("GET", target, headers=headers) as response:
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > SMALLEST_READ:
                    break
            return response, body
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise CheckError(f"no answer from {urlsplit(target).netloc}: {str(exc) or type(exc).__name__}") from None


def _document_problems(response: httpx.Response, body: bytes) -> Iterator[str]:
    if response.is_redirect:
        yield f"it redirects ({response.status_code}), which verifiers do not follow"
    elif response.status_code != 200:
        yield f"the status is {response.status_code}, and only 200 is a directory"
    else:
        found = response.headers.get("content-type", "")
        if found != MEDIA_TYPE:
            yield f"Content-Type is {found!r}, and has to be {MEDIA_TYPE}"
        if len(body) > SMALLEST_READ:
            yield f"it is larger than {SMALLEST_READ} bytes, and some verifiers read no more"
        keys = _keys(body) or []
        if len(keys) > FEWEST_READ:
            yield f"it lists {len(keys)} keys, and some verifiers read {FEWEST_READ}"


def _keys(body: bytes) -> list[dict[str, Any]] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    keys = document.get("keys") if isinstance(document, dict) else None
    return keys if isinstance(keys, list) and all(isinstance(key, dict) for key in keys) else None


def _naming_problems(member: dict[str, Any]) -> Iterator[str]:
    """Tell what the draft does not allow, and Cloudflare does not look at."""
    thumbprint, algorithm = jwk.thumbprint(member), _algorithm(member)
    if thumbprint is not None and member.get("kid", thumbprint) != thumbprint:
        yield f"the kid of key {thumbprint} is not this, its thumbprint"
    if thumbprint is not None and member.get("alg", algorithm) != algorithm:
        yield f"the alg of key {thumbprint} is not RFC 9421's; leave it out, or write {algorithm}"


def _of_key(member: dict[str, Any], url: str, response: httpx.Response, body: bytes) -> KeyVerdict:
    kind = str(member.get("crv") or member.get("kty"))
    thumbprint = jwk.thumbprint(member)
    verdict = KeyVerdict(thumbprint or "", kind)
    if not _PRIVATE.isdisjoint(member):
        verdict.problem = "it shows its private key: take it away now, and never use it again"
    elif thumbprint is None:
        verdict.problem = "it is no public key that can be read"
    else:
        _look_at_signature(verdict, member, url, response, body)
    verdict.cloudflare = verdict.problem or verdict.cloudflare
    return verdict


def _algorithm(member: Mapping[str, Any]) -> str:
    if member.get("kty") != "RSA":
        return _BY_CURVE.get(str(member.get("crv")), "")
    return "rsa-v1_5-sha256" if member.get("alg") == "rsa-v1_5-sha256" else "rsa-pss-sha512"


def _look_at_signature(verdict: KeyVerdict, member: dict[str, Any], url: str, response: httpx.Response, body: bytes) -> None:
    mine = [
        entry
        for entry in signed(response.headers)
        if (entry["kid"], entry["parameters"].get("tag")) == (verdict.thumbprint, DIRECTORY_TAG)
    ]
    if not mine:
        verdict.problem = "it does not sign the response"
        return
    components, parameters = mine[0]["components"], mine[0]["parameters"]
    if missing := {"created", "expires"} - parameters.keys():
        verdict.problem = f"its signature lacks {min(missing)}"
    elif _AUTHORITY not in components:
        verdict.problem = f"its signature does not cover {_AUTHORITY}"
    elif _DIGEST in components and response.headers.get("content-digest") != content_digest(body):
        verdict.problem = "its signature covers a Content-Digest that is not that of the document"
    else:
        verdict.problem = _verify(mine[0]["label"], member, verdict.thumbprint, url, response)
        expires = parameters["expires"]
        verdict.expires = expires if isinstance(expires, int) else None
    if member.get("crv") != "Ed25519":
        verdict.cloudflare = "Cloudflare uses Ed25519 alone"
    elif components != [_AUTHORITY]:
        verdict.cloudflare = f"its signature covers more than {_AUTHORITY}, which Cloudflare does not document"


def _verify(label: str, member: dict[str, Any], thumbprint: str, url: str, response: httpx.Response) -> str:
    """Return why a signature is not good, or nothing."""
    public = {name: member[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in member}
    request = SimpleNamespace(method="GET", url=url, headers={})
    message = SimpleNamespace(status_code=200, headers=dict(response.headers), request=request)
    try:
        resolver = MappingKeyResolver(public_keys={thumbprint: jwk.to_public_key(json.dumps(public))}, private_keys={})
        verifier = HTTPMessageVerifier(signature_algorithm=_LIBRARY[_algorithm(member)], key_resolver=resolver)
        verifier.verify(message, expect_tag=DIRECTORY_TAG, expect_label=label)
    except Exception as exc:  # noqa: BLE001 - of what a server sends, anything may be wrong
        return f"its signature is not good: {str(exc) or type(exc).__name__}"
    return ""
