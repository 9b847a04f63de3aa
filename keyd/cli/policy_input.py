"""What ``keyd policy explain`` is asked about: a principal, a key, and what is to be signed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import click

from backends.api import Algorithm
from keyd.cli import output
from keyd.cli.options import Connection
from keyd.config import Config
from keyd.core import jws, signature_base
from keyd.core.binding import Signing
from keyd.core.errors import KeydError, PurposeError
from keyd.core.grants import OPERATIONS
from keyd.core.model import Purpose
from keyd.core.principal import Principal
from keyd.core.profile import Profile, check_base, check_jws, read_base
from keyd.core.sessions.grant import SessionKind
from keyd.core.signing_request import SigningRequest

_NUMBERS = frozenset({"uid", "gid", "pid"})
_TEXTS = frozenset({"executable", "cgroup", "unit", "user_unit", "container"})
_LOOKUP_SECONDS = 1.0
_FAR = 1e12  # seconds since the epoch, later than any time that is signed
_SESSIONS = frozenset({"list_sessions", "list_revoked_tokens", "revoke_session", "revoke_token"})
_KEYLESS = frozenset({"list_keys", "list_backends", "list_stored_keys", "get_head"}) | _SESSIONS


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What must be known of a key to look at its inputs.

    Attributes:
        profile: without the rules that compare an input with the key itself, unless ``signing`` is known.
        signing: the version that signs now; without kid and thumbprint when no daemon told them.
        purposes: what the key signs; None when no daemon told it.
    """

    profile: Profile
    signing: Signing
    purposes: frozenset[Purpose] | None = None

    def need(self, purpose: Purpose) -> None:
        """Refuse what the key does not sign, whoever asks. Raises PurposeError."""
        if self.purposes is not None and purpose not in self.purposes:
            has = ", ".join(sorted(known.value for known in self.purposes))
            raise PurposeError(f"the key has not purpose {purpose.value} (it has {has})")


def principal(text: str) -> Principal:
    """Read a principal as ``--as`` has it. Raises click.UsageError.

    The forms are ``uid=1001,executable=/usr/bin/x`` with the names of patterns, ``spiffe://...``, ``dns:NAME``, ``socket:NAME`` and
    ``loopback``.
    """
    if text.startswith("spiffe://"):
        return Principal(spiffe_id=text)
    kind, colon, rest = text.partition(":")
    if colon and "=" not in kind:
        if kind not in {"dns", "socket"} or not rest:
            raise click.UsageError("--as takes NAME=VALUE,..., spiffe://..., dns:NAME, socket:NAME or loopback")
        return Principal(dns_names=(rest,)) if kind == "dns" else Principal(socket=rest)
    return Principal() if text == "loopback" else Principal(**_attributes(text))


def _attributes(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    groups = set()
    for part in text.split(","):
        name, _, value = part.partition("=")
        if not value:
            raise click.UsageError(f"--as has {part!r}, which is not NAME=VALUE")
        if name in {"user", "group"}:
            name, value = {"user": "uid", "group": "gid"}[name], str(_looked_up(name, value))
        if name in _NUMBERS and not re.fullmatch(r"[0-9]{1,10}", value, re.ASCII):
            raise click.UsageError(f"--as has {part!r}, which is not a number")
        if name == "gid":
            groups.add(int(value))
        elif name in _NUMBERS | _TEXTS and name not in found:
            found[name] = int(value) if name in _NUMBERS else value
        else:
            raise click.UsageError(f"--as has {name!r} twice, or does not know it; it knows {', '.join(_known())}")
    return {**found, "groups": frozenset(groups)}


def _known() -> list[str]:
    return sorted({"user", "group", *_NUMBERS, *_TEXTS})


def _looked_up(kind: str, name: str) -> int:
    import grp
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise click.UsageError(f"this machine has no {kind} {name!r}") from None


def operation(name: str, key: str | None) -> str:
    """Return the name of an operators' call. Raises click.UsageError."""
    if name not in OPERATIONS:
        raise click.UsageError(f"there is no operation {name!r}; there are {', '.join(sorted(OPERATIONS))}")
    if key is None and name not in _KEYLESS:
        raise click.UsageError(f"name the key with --key: {name} is about one")
    return name


def key_of(connection: Connection, name: str, config: Config, profile: str | None, algorithm: str | None) -> KeyFacts:
    """Return what was said of a key; what was not said as the daemon has it, else the default. Raises click.UsageError."""
    known = _asked(connection, name)
    chosen = profile or known.get("profile") or config.defaults.profile
    if chosen not in config.profiles:
        raise click.UsageError(f"there is no profile {chosen!r}; there are {', '.join(sorted(config.profiles))}")
    rules = config.profiles[chosen]
    signing = Signing(
        Algorithm(algorithm or known.get("algorithm") or config.defaults.algorithm.value),
        known.get("kid", ""),
        known.get("thumbprint", ""),
    )
    if not signing.kid and (rules.signature_key_schemes or rules.keyid_is_thumbprint):
        output.note("the daemon did not tell the kid of this key, so what names it in the input is not compared with it")
        rules = replace(rules, signature_key_schemes=frozenset(), keyid_is_thumbprint=False)
    return KeyFacts(rules, signing, known.get("purposes"))


def session_of(kind: SessionKind) -> KeyFacts:
    """Return what is known of the key of a session: all but the key, which ``Signature-Key`` is not compared with then."""
    from keyd.core.sessions.signing import PROFILES

    rules = replace(PROFILES[kind], signature_key_schemes=frozenset(), keyid_is_thumbprint=False)
    return KeyFacts(rules, Signing(Algorithm.ED25519, "", ""), frozenset({Purpose.HTTP}))


def _asked(connection: Connection, name: str) -> dict[str, Any]:
    from keyd.client import KeydClientError
    from keyd.v1 import types_pb2

    try:
        with Connection(connection.address, connection.timeout or _LOOKUP_SECONDS).admin() as admin:
            key = admin.get_key(name)
    except KeydClientError:
        return {}  # no daemon, no such key, or none of our business
    spelled = types_pb2.Algorithm.Name(key.algorithm).removeprefix("ALGORITHM_").lower()
    known: dict[str, Any] = {
        "profile": key.profile,
        "algorithm": next(a.value for a in Algorithm if a.value.lower() == spelled),
        "purposes": frozenset(
            Purpose(types_pb2.Purpose.Name(purpose).removeprefix("PURPOSE_").lower()) for purpose in key.purposes
        ),
    }
    active = next((version for version in key.versions if version.state == types_pb2.KEY_STATE_ACTIVE), None)
    return known if active is None else {**known, "kid": active.kid, "thumbprint": active.thumbprint}


def bare(purpose: str, about: KeyFacts) -> SigningRequest | KeydError:
    """Return a request that says nothing but its purpose; only what needs no input can allow it."""
    try:
        about.need(Purpose(purpose))
    except KeydError as error:
        return error
    return SigningRequest(Purpose(purpose), about.profile.name, time.time())


def read(data: bytes, is_jwt: bool, about: KeyFacts) -> SigningRequest | KeydError:
    """Return what an input asks for, or why it is refused before any grant is looked at. One line end after it is dropped."""
    data = data.removesuffix(b"\n")
    try:
        return _token(data, about) if is_jwt else _base(data, about)
    except KeydError as error:
        return error


def _base(data: bytes, about: KeyFacts) -> SigningRequest:
    base = read_base(data, about.profile)
    directory = base.tag == signature_base.DIRECTORY_TAG
    purpose = Purpose.DIRECTORY if directory else Purpose.HTTP
    about.need(purpose)
    now = time.time() if base.created is None else float(base.created)
    check_base(base, about.profile, about.signing, now=now, not_after=inf, directory=directory)
    return SigningRequest(purpose, about.profile.name, now, base=base)


def _token(data: bytes, about: KeyFacts) -> SigningRequest:
    parsed = jws.parse(b".".join(data.split(b".")[:2]))
    about.need(Purpose.JWT)
    issued = parsed.claims.get("iat")
    now = time.time()
    if isinstance(issued, int | float) and not isinstance(issued, bool) and 0 <= issued < _FAR:
        now = float(issued)  # what is no time is for check_jws to refuse
    check_jws(parsed, about.profile, algorithm=about.signing.algorithm, now=now, not_after=inf)
    return SigningRequest(Purpose.JWT, about.profile.name, now, token=parsed)
