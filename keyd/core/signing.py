"""The signing path: from bytes that somebody sent to a signature, or a reason why not."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from keyd.core import jws, signature_base
from keyd.core.errors import KeyIdError, KeyStateError, PurposeError, SizeError
from keyd.core.keyring import Keyring
from keyd.core.model import Key, KeyVersion, Purpose
from keyd.core.profile import Profile, check_base, check_jws
from keyd.core.snapshot import KeyView, VersionView

MAX_MESSAGE_BYTES = 65536


class InputKind(enum.Enum):
    """What the caller says that the bytes are. The three are disjoint by grammar, and each is parsed."""

    SIGNATURE_BASE = "signature base"
    JWS_SIGNING_INPUT = "JWS signing input"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature in raw octets, and the version that made it."""

    signature: bytes
    key: Key
    version: KeyVersion


class Signer:
    """Signs by the rules of each key's profile."""

    def __init__(self, keyring: Keyring, profiles: Mapping[str, Profile]) -> None:
        self._keyring = keyring
        self.profiles = profiles

    async def sign(
        self, name: str, kind: InputKind, data: bytes, kid: str | None = None, *, within: float | None = None
    ) -> Signed:
        """Sign ``data`` with the version that ``kid`` or the input itself names, else with the active one.

        ``within`` is how long the caller waits, in seconds; the backend's own limit holds where it is shorter.

        Raises:
            KeydError: a subclass says why the input is not signed.
        """
        view, now = self._keyring.snapshot.get(name), self._keyring.clock.now()
        if kind is InputKind.SIGNATURE_BASE:
            version = self._check_base(view, data, kid, now)
        elif kind is InputKind.JWS_SIGNING_INPUT:
            version = self._check_jws(view, data, kid, now)
        else:
            _need(view.key, Purpose.RAW, kind)
            if len(data) > MAX_MESSAGE_BYTES:
                raise SizeError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}")
            version = view.signer(kid, now)
        return await self._signed(view, version, data, within)

    async def sign_jwt(
        self,
        name: str,
        claims: str,
        *,
        typ: str,
        kid: str | None = None,
        lifetime: float | None = None,
        within: float | None = None,
    ) -> tuple[str, Signed]:
        """Build the header for ``claims`` (a JSON object), sign, and return the compact JWT. Raises as :meth:`sign`."""
        view, now = self._keyring.snapshot.get(name), self._keyring.clock.now()
        _need(view.key, Purpose.JWT, InputKind.JWS_SIGNING_INPUT)
        version = view.signer(kid, now)
        data = jws.build(claims, typ=typ, kid=version.record.kid, algorithm=view.key.algorithm, now=now, lifetime=lifetime)
        version = self._check_jws(view, data, version.record.kid, now)
        signed = await self._signed(view, version, data, within)
        return f"{data.decode()}.{jws.b64url(signed.signature)}", signed

    async def _signed(self, view: KeyView, version: VersionView, data: bytes, within: float | None) -> Signed:
        signature = await self._keyring.runner(view.key).sign(version, view.key.algorithm, data, within)
        return Signed(signature, view.key, version.record)

    def _check_base(self, view: KeyView, data: bytes, kid: str | None, now: float) -> VersionView:
        base = signature_base.parse(data)
        directory = base.tag == signature_base.DIRECTORY_TAG
        _need(view.key, Purpose.DIRECTORY if directory else Purpose.HTTP, InputKind.SIGNATURE_BASE)
        version = self._version(view, base.keyid, kid, now)
        check_base(
            base,
            self._profile(view.key),
            algorithm=view.key.algorithm,
            now=now,
            not_after=version.record.timeline.publication_ends(now, view.key.lifecycle),
            directory=directory,
        )
        return version

    def _check_jws(self, view: KeyView, data: bytes, kid: str | None, now: float) -> VersionView:
        parsed = jws.parse(data)
        _need(view.key, Purpose.JWT, InputKind.JWS_SIGNING_INPUT)
        version = self._version(view, parsed.kid, kid, now)
        check_jws(
            parsed,
            self._profile(view.key),
            algorithm=view.key.algorithm,
            now=now,
            not_after=version.record.timeline.publication_ends(now, view.key.lifecycle),
        )
        return version

    def _version(self, view: KeyView, named: str | None, kid: str | None, now: float) -> VersionView:
        """Return the version that shall sign an input which names ``named``, asked for as ``kid``."""
        if named is None or named in view.key.keyid_aliases:
            return view.signer(kid, now)
        version = view.by_kid(named)
        if version is None:
            active = view.active(now)
            hint = {"active_kid": active.record.kid} if active else {}
            raise KeyIdError(f"the input names a kid that is not of key {view.key.name!r}", **hint)
        if kid is not None and view.by_kid(kid) is not version:
            raise KeyIdError(f"the request asks for kid {kid!r}, and the input names another")
        return view.signer(named, now)

    def _profile(self, key: Key) -> Profile:
        profile = self.profiles.get(key.profile)
        if profile is None:
            raise KeyStateError(
                f"the profile {key.profile!r} of key {key.name!r} is not configured any more; nothing is signed without it"
            )
        return profile


def _need(key: Key, purpose: Purpose, kind: InputKind) -> None:
    if purpose not in key.purposes:
        has = ", ".join(sorted(p.value for p in key.purposes))
        raise PurposeError(f"key {key.name!r} does not sign a {kind.value} (needs purpose {purpose.value}, has {has})")
