"""What ``keyd bench`` has signed: for each profile that keyd comes with, requests that it takes."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from keyd.cli.output import base64url_text
from keyd.client.inputs import InputKind

if TYPE_CHECKING:
    from keyd.client.model import VersionInfo

#: Seconds for which a base, and the token in it, are good from when they are made.
_LIFETIME = 60
_AAUTH = {"aauth": "jwt", "aauth-server": "jwks_uri"}


class Inputs:
    """Makes inputs for one version of a key. Each is another one, as requests are."""

    def __init__(self, version: VersionInfo, profile: str, method: str, url: str) -> None:
        """``url`` is that of the requests, absolute. Raises click.UsageError for one that is not."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or not url.isascii():
            raise click.UsageError(f"{url!r} is not an http or https URL")
        self._version = version
        self._profile = profile
        self._request = [("@method", method.upper()), ("@authority", parts.netloc.lower()), ("@path", parts.path or "/")]
        self._prefix = secrets.token_urlsafe(12)  # no nonce of this run is one of another
        self._numbers = itertools.count()

    def base(self, now: float) -> bytes:
        """Return a signature base (RFC 9421 section 2.5). ``now`` is in seconds since the epoch."""
        created = int(now)
        components, parameters = list(self._request), [f"created={created}"]
        nonce = f'nonce="{self._prefix}{next(self._numbers)}"'
        if self._profile == "web-bot-auth":
            components = [("@authority", self._request[1][1])]
            parameters += [f"expires={created + _LIFETIME}", f'keyid="{self._version.thumbprint}"', nonce, 'tag="web-bot-auth"']
        elif self._profile == "lumoauth":
            digest = ("content-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")
            components += [("signature-key", ""), digest, ("content-type", "application/json"), ("authorization", "")]
            parameters.append(nonce)
        elif self._profile in _AAUTH:
            components.append(("signature-key", self._signature_key(created)))
            parameters.append(nonce)
        else:
            parameters += [f"expires={created + _LIFETIME}", f'keyid="{self._version.kid}"', nonce]
        names = " ".join(f'"{name}"' for name, _ in components)
        lines = [f'"{name}": {value}' for name, value in components]
        return "\n".join([*lines, f'"@signature-params": ({names});{";".join(parameters)}']).encode()

    def message(self, now: float) -> bytes:
        """Return bytes that are neither a base nor a JWS signing input."""
        return f"{self._prefix}{next(self._numbers)} {now:.6f}".encode().ljust(300, b".")

    def _signature_key(self, created: int) -> str:
        if self._profile == "aauth-server":
            return f'sig=jwks_uri;id="https://bench.invalid";dwk="aauth-resource.json";kid="{self._version.kid}"'
        # keyd looks at what a token binds, and leaves its signature to the verifier: this one has none that anybody would take.
        begins = created - created % _LIFETIME  # as an agent, which shows one token with many requests
        header = {"alg": "Ed25519", "typ": "aa-agent+jwt", "kid": "bench"}
        claims = {"exp": begins + 3 * _LIFETIME, "cnf": {"jkt": self._version.thumbprint}}
        token = ".".join(base64url_text(json.dumps(part).encode()) for part in (header, claims))
        return f'sig=jwt;jwt="{token}.{base64url_text(bytes(64))}"'


def maker(inputs: Inputs, purposes: frozenset[str]) -> tuple[InputKind, Callable[[float], bytes]]:
    """Return what a key with these purposes signs, and what makes it. Raises click.UsageError where it signs neither."""
    if "http" in purposes:
        return InputKind.SIGNATURE_BASE, inputs.base
    if "raw" in purposes:
        return InputKind.MESSAGE, inputs.message
    raise click.UsageError("the key has neither purpose http nor raw; make one for the load: keyd key create bench")
