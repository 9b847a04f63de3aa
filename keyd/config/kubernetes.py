"""``[kubernetes]``: the key of a cluster's service account tokens, and the socket for its kube-apiserver."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import AfterValidator, Field

from keyd.config.addresses import AbsolutePath
from keyd.config.durations import Duration, text
from keyd.config.listeners import Account, Mode, SocketPath
from keyd.config.problems import ConfigError, Problem, dotted
from keyd.config.section import Section
from keyd.core.kubernetes import SHORTEST_MAXIMUM, PublicKey, Rules
from keyd.core.model import NAME

_MAX_SIZE = 1024 * 1024
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def _key(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a key name is 1 to 63 of A-Z a-z 0-9 . _ - and starts with a letter or digit")
    return value


def _kid(value: str) -> str:
    if not 1 <= len(value.encode()) <= 1024:
        raise ValueError("a kid has 1 to 1024 bytes")
    return value


Kid = Annotated[str, AfterValidator(_kid)]


class PreviousKeys(Section):
    """One file of public keys that signed tokens before keyd did."""

    file: AbsolutePath
    kid: Kid | None = None


class Kubernetes(Section):
    """``[kubernetes]``. Durations in seconds; without ``refresh_hint`` it is that of [jwks] max_age."""

    socket: SocketPath
    socket_mode: Mode = "0600"
    socket_owner: Account | None = None
    socket_group: Account | None = None
    key: Annotated[str, AfterValidator(_key)]
    max_token_expiration: Annotated[Duration, Field(ge=SHORTEST_MAXIMUM)] = 86400.0
    refresh_hint: Annotated[Duration, Field(ge=1)] | None = None
    previous_keys: Annotated[tuple[PreviousKeys, ...], Field(max_length=64)] = ()
    exclude_from_oidc_discovery: Annotated[tuple[Kid, ...], Field(max_length=256)] = ()

    def to_rules(self, max_age: float) -> Rules:
        """Return it as the core has it. Reads the files of previous keys. ``max_age`` is that of [jwks].

        Raises:
            ConfigError: a file cannot be used.
        """
        previous, problems = _previous(self.previous_keys)
        if problems:
            raise ConfigError(problems)
        hint = max_age if self.refresh_hint is None else self.refresh_hint
        excluded = frozenset(self.exclude_from_oidc_discovery)
        return Rules(self.key, self.max_token_expiration, hint, tuple(previous.values()), excluded)


def contradictions(section: Kubernetes, taken: Mapping[Path, str], max_age: float | None) -> Iterator[tuple[str, str]]:
    """Tell what the section has that other sections do not allow: the field, and what is wrong.

    Args:
        taken: the fields of other sockets, by their paths.
        max_age: that of [jwks]; None where it is not known.
    """
    if section.socket in taken:
        yield "socket", f"{taken[section.socket]} has the same path"
    if max_age is not None and section.refresh_hint is not None and section.refresh_hint > max_age:
        message = (
            f"more than {text(max_age)}, which is jwks.max_age: how long a version is published before it signs depends on that"
        )
        yield "refresh_hint", message


def _previous(files: tuple[PreviousKeys, ...]) -> tuple[dict[str, PublicKey], list[Problem]]:
    found: dict[str, PublicKey] = {}
    problems = []
    for number, each in enumerate(files):
        where = dotted(("kubernetes", "previous_keys", str(number)))
        try:
            for key in _keys_of(each):
                if found.setdefault(key.kid, key) != key:
                    raise ValueError("another of previous_keys has the same kid, and is another key")
        except (OSError, ValueError) as error:
            problems.append(Problem(where, f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)))
    return found, problems


def _keys_of(entry: PreviousKeys) -> list[PublicKey]:
    """Return the public keys of a file, each under its kid. Raises OSError and ValueError."""
    keys = list(_read(entry.file))
    if not keys:
        raise ValueError("there is no PEM public key or certificate in it")
    if entry.kid is not None and len(keys) > 1:
        raise ValueError(f"it has {len(keys)} keys, and a kid names one; give each a file")
    return [PublicKey(entry.kid or kid_of(pkix), pkix) for pkix in keys]


def kid_of(pkix: bytes) -> str:
    """Return the kid that kube-apiserver gives a key by itself: base64url, unpadded, of SHA-256 over the PKIX form, DER."""
    return base64.urlsafe_b64encode(hashlib.sha256(pkix).digest()).rstrip(b"=").decode()


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        content = file.read(_MAX_SIZE + 1)
    if len(content) > _MAX_SIZE:
        raise ValueError("more than 1 MiB, which is no file of public keys")
    for block in _PEM.finditer(content):
        label = block[1].decode()
        if label.endswith("PRIVATE KEY"):
            raise ValueError("it has a private key; give its public half: openssl pkey -in FILE -pubout")
        yield _pkix(label, block[0])


def _pkix(label: str, pem: bytes) -> bytes:
    try:
        key = x509.load_pem_x509_certificate(pem).public_key() if label == "CERTIFICATE" else load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"a PEM block {label} in it is no public key and no certificate") from None
    if not (isinstance(key, rsa.RSAPublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES))):
        raise ValueError(  # noqa: TRY004 - like everything else that is wrong with a file
            "a key in it is neither RSA nor P-256, P-384 or P-521, so kube-apiserver cannot verify with it"
        )
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
