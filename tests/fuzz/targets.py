"""The targets: each takes any bytes, and raises when something does not hold."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping

from backends.api import Algorithm
from fuzz import agreement
from keyd.core import binding, jws, signature_base, signature_key, unsigned_base
from keyd.core.binding import Signing
from keyd.core.errors import BindingError, KeydError
from keyd.core.profile import BUILT_IN, Profile, check_base, check_jws

Target = Callable[[bytes], None]
NOW = 1_800_000_000.5
SIGNING = Signing(Algorithm.ED25519, "key-1", "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U")
LENIENT = Profile(
    "lenient",
    allow_empty_coverage=True,
    allow_response_components=True,
    required_parameters=frozenset(),
    max_created_age=None,
    max_created_ahead=1e12,
    max_expires_in=1e12,
    max_jwt_lifetime=1e12,
)
LEGACY = Profile(
    "legacy",
    exact_components=("@method @target-uri", "@method @target-uri authorization"),
    required_parameters=frozenset(),
    unsigned_parameters=True,
)
RULES = binding.Rules(frozenset({"jwt", "jwks_uri", "hwk", "jkt-jwt"}), frozenset({"aa-agent+jwt"}), None, None)


def base(data: bytes) -> None:
    """Signature bases, and what every profile says of them."""
    try:
        parsed = signature_base.parse(data)
    except KeydError:
        return
    agreement.check_base(parsed, data)
    assert data.startswith(b'"') and b'"@signature-params": (' in data
    for profile in (*BUILT_IN.values(), LENIENT):
        _passes(lambda profile=profile: check_base(parsed, profile, SIGNING, now=NOW, not_after=math.inf))  # type: ignore[misc]
    _passes(lambda: check_base(parsed, LENIENT, SIGNING, now=NOW, not_after=math.inf, directory=True))
    assert "@" not in (parsed.authority or "") and (parsed.authority or "") == (parsed.authority or "").lower()
    for reader in (unsigned_base.parse, jws.parse):
        assert not _passes(lambda reader=reader: reader(data)), "two kinds of input in one"  # type: ignore[misc]


def unsigned(data: bytes) -> None:
    """Bases without signed parameters."""
    try:
        parsed = unsigned_base.parse(data)
    except KeydError:
        return
    assert parsed.serialise() == data
    assert not parsed.parameters
    _passes(lambda: check_base(parsed, LEGACY, SIGNING, now=NOW, not_after=math.inf))
    for reader in (signature_base.parse, jws.parse):
        assert not _passes(lambda reader=reader: reader(data)), "two kinds of input in one"  # type: ignore[misc]


def token(data: bytes) -> None:
    """JWS signing inputs: as they come; or, after a zero, the JSON of header and claims with a zero between them."""
    if data.startswith(b"\0"):
        header, _, claims = data[1:].partition(b"\0")
        data = b".".join(base64.urlsafe_b64encode(text).rstrip(b"=") for text in (header, claims))
    try:
        parsed = jws.parse(data)
    except KeydError:
        return
    read = [json.loads(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))) for text in data.split(b".")]
    assert read == [
        {k: v for k, v in (("alg", parsed.alg), ("typ", parsed.typ), ("kid", parsed.kid)) if v is not None},
        parsed.claims,
    ]
    assert b'"' not in data and b"\n" not in data
    for profile in (*BUILT_IN.values(), LENIENT):
        for algorithm in (Algorithm.ED25519, Algorithm.PS512):
            arguments = {"algorithm": algorithm, "now": NOW, "not_after": math.inf}
            if _passes(lambda profile=profile, arguments=arguments: check_jws(parsed, profile, **arguments)):  # type: ignore[misc]
                assert parsed.alg in (algorithm.value, "EdDSA")


def key_field(data: bytes) -> None:
    """Values of Signature-Key: as they come; or, after a zero, the JSON of a token's header and claims with a zero between them."""
    if data.startswith(b"\0"):
        header, _, claims = data[1:].partition(b"\0")
        parts = [base64.urlsafe_b64encode(text).rstrip(b"=").decode() for text in (header, claims)]
        value = f'sig={"jkt-jwt" if b"jkt" in header else "jwt"};jwt="{parts[0]}.{parts[1]}.c2ln"'
    else:
        value = data.decode("latin-1")
    try:
        member = signature_key.parse(value)
    except BindingError:
        pass
    else:
        agreement.check_signature_key(member, value)
    other = replace_thumbprint(SIGNING)
    binds = [_passes(lambda signing=signing: binding.check(value, RULES, signing, NOW)) for signing in (SIGNING, other)]  # type: ignore[misc]
    assert not all(binds), "it binds two keys"


def replace_thumbprint(signing: Signing) -> Signing:
    """Return another key version."""
    return signing._replace(kid="key-2", thumbprint="kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")


def _passes(check: Callable[[], object]) -> bool:
    """Say whether a check passes; nothing but the errors that it is to raise may come of it."""
    try:
        check()
    except KeydError:
        return False
    return True


def _handlers(data: bytes) -> None:
    from fuzz import handlers

    handlers.one_input(data)


TARGETS: Mapping[str, Target] = {
    "base": base,
    "unsigned-base": unsigned,
    "token": token,
    "signature-key": key_field,
    "handlers": _handlers,
}
