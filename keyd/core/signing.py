"""The signing path: from bytes that somebody sent to a signature, or a reason why not."""

from __future__ import annotations

import enum
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from keyd.core import jws, signature_base, succession
from keyd.core.binding import Signing
from keyd.core.decision import Decision
from keyd.core.errors import KeyIdError, KeyStateError, PurposeError, SizeError
from keyd.core.guard import Guard, finish
from keyd.core.keyring import Keyring
from keyd.core.model import Key, KeyVersion, Purpose
from keyd.core.policy import Rule, decide
from keyd.core.principal import Principal
from keyd.core.profile import Profile, check_base, check_jws, read_base
from keyd.core.signature_base import SignatureBase
from keyd.core.signing_request import SigningRequest, audience_of, authority_of, issuer_of, path_of
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.standing import Standings

MAX_MESSAGE_BYTES = 65536
#: From a key, its version that is to sign, and the time in seconds since the epoch, to the JWS signing input that names it.
Build = Callable[[KeyView, VersionView, float], bytes]


class InputKind(enum.Enum):
    """What the caller says that the bytes are. The three are disjoint by grammar, and each is parsed."""

    SIGNATURE_BASE = "signature base"
    JWS_SIGNING_INPUT = "JWS signing input"
    MESSAGE = "message"


_BASE, _HTTP = InputKind.SIGNATURE_BASE, Purpose.HTTP


class Signed(NamedTuple):
    """A signature in raw octets, and the version that made it."""

    signature: bytes
    key: Key
    version: KeyVersion


class Signer:
    """Signs by the policy, and by the rules of each key's profile. Leaves one record of each request, signed or refused."""

    def __init__(self, keyring: Keyring, profiles: Mapping[str, Profile], guard: Guard) -> None:
        self._keyring = keyring
        self._guard = guard
        self._standings = Standings(keyring, guard)
        self.profiles = profiles
        #: Raises ClockError while nothing may be signed, because what the time is is in doubt.
        self.check_clock: Callable[[], None] = lambda: None

    def at_once(self, name: str) -> bool:
        """Say whether :meth:`sign` with this key waits neither for a backend nor for a successor: it signs, or refuses, at once."""
        view = self._keyring.snapshot.keys.get(name)
        if view is None:
            return True
        runner = self._keyring.backends.get(view.key.backend)
        return (runner is None or runner.signs_inline(view.key.algorithm)) and not view.succession(self._keyring.clock.now())

    async def sign(
        self,
        principal: Principal,
        name: str,
        kind: InputKind,
        data: bytes,
        kid: str | None = None,
        *,
        within: float | None = None,
    ) -> Signed:
        """Sign ``data`` with the version that ``kid`` or the input itself names, else with the active one.

        ``within`` is how long the caller waits, in seconds; the backend's own limit holds where it is shorter.

        Raises:
            KeydError: a subclass says why the input is not signed.
        """
        decision = self._guard.decision(principal, "sign", name)
        decision.digest = hashlib.sha256(data).digest()
        try:
            self.check_clock()
            signed = self._at_once(decision, name, data, kid) if kind is _BASE else None
            if signed is None:
                signed = await self._by_steps(decision, name, kind, data, kid, within)
        except BaseException as exc:
            await self._guard.refuse(decision, exc)
            raise
        writing = self._guard.record(decision)
        if writing is not None:
            await writing
        return signed

    def _at_once(self, decision: Decision, name: str, data: bytes, kid: str | None) -> Signed | None:
        """Sign a base in the usual case, in one go: what :meth:`_by_steps` asks is asked here in the same order.

        None: it is not the usual case, and nothing has been done.
        """
        now, guard = decision.at, self._guard
        standing = self._standings.get(decision.principal, name, self.profiles, now)
        if standing is None or not guard.turns.free(standing.share, guard.policy.allowance.max_signatures):
            return None
        view, version, profile = standing.view, standing.version, standing.profile
        key, record = view.key, version.record
        base = read_base(data, profile)
        if base.tag == signature_base.DIRECTORY_TAG or not (kid is None or kid in standing.names):
            return None
        if not (base.keyid is None or base.keyid in standing.names or base.keyid in key.keyid_aliases):
            return None
        request = SigningRequest(_HTTP, key.profile, now, base=base)
        note_base(decision, request, base)
        check_base(base, profile, standing.signing, now=now, not_after=record.timeline.publication_ends(now, key.lifecycle))
        decision.kid, decision.version = record.kid, record.version
        decision.grant = decide(standing.rules, request, standing.take).name
        return Signed(standing.runner.sign_inline(version, key.algorithm, data), key, record)

    async def _by_steps(
        self, decision: Decision, name: str, kind: InputKind, data: bytes, kid: str | None, within: float | None
    ) -> Signed:
        rules, within = await self._rules(decision, name, kid, within)
        view, now = self._keyring.snapshot.get(name), decision.at
        if kind is InputKind.SIGNATURE_BASE:
            version, request = self._check_base(decision, view, data, kid, now)
        elif kind is InputKind.JWS_SIGNING_INPUT:
            version, request = self._check_jws(decision, view, data, kid, now)
        else:
            version, request = self._check_message(decision, view, data, kid, now)
        return await self._signed(decision, rules, request, view, version, data, within)

    async def sign_jwt(
        self,
        principal: Principal,
        name: str,
        claims: str,
        *,
        typ: str,
        kid: str | None = None,
        lifetime: float | None = None,
        within: float | None = None,
    ) -> tuple[str, Signed]:
        """Build the header for ``claims`` (a JSON object), sign, and return the compact JWT. Raises as :meth:`sign`."""

        def build(view: KeyView, version: VersionView, now: float) -> bytes:
            return jws.build(claims, typ=typ, kid=version.record.kid, algorithm=view.key.algorithm, now=now, lifetime=lifetime)

        data, signed = await self.sign_built(principal, name, build, kid=kid, within=within)
        return f"{data.decode()}.{jws.b64url(signed.signature)}", signed

    async def sign_built(
        self,
        principal: Principal,
        name: str,
        build: Build,
        *,
        kid: str | None = None,
        within: float | None = None,
        recheck: Callable[[], None] = lambda: None,
    ) -> tuple[bytes, Signed]:
        """Have the JWS signing input built for the version that is to sign, sign it, and return both. Raises as :meth:`sign`.

        ``recheck`` raises KeydError when what ``build`` went by has changed while the backend signed; then the signature is withheld.
        """
        decision = self._guard.decision(principal, "sign", name)
        try:
            self.check_clock()
            rules, within = await self._rules(decision, name, kid, within)
            view, now = self._keyring.snapshot.get(name), decision.at
            _need(view.key, Purpose.JWT, InputKind.JWS_SIGNING_INPUT)
            version = view.signer(kid, now)
            data = build(view, version, now)
            decision.digest = hashlib.sha256(data).digest()
            version, request = self._check_jws(decision, view, data, version.record.kid, now)
            signed = await self._signed(decision, rules, request, view, version, data, within)
            recheck()
        except BaseException as exc:
            await self._guard.refuse(decision, exc)
            raise
        await finish(self._guard.record(decision))
        return data, signed

    async def _rules(
        self, decision: Decision, name: str, kid: str | None, within: float | None
    ) -> tuple[tuple[Rule, ...], float | None]:
        """Return the rules that have a key, and how long the caller still waits.

        Who names no version gets none at once while the successor of a compromised one is being made; that is waited for.
        """
        rules = self._guard.policy.rights(decision.principal).sign(name)
        began = time.monotonic()
        if kid is not None or not await succession.wait(self._keyring, name, within):
            return rules, within
        self.check_clock()
        decision.at = self._keyring.clock.now()
        left = None if within is None else max(0.001, within - (time.monotonic() - began))
        return self._guard.policy.rights(decision.principal).sign(name), left  # they may have been taken away meanwhile

    async def _signed(
        self,
        decision: Decision,
        rules: Iterable[Rule],
        request: SigningRequest,
        view: KeyView,
        version: VersionView,
        data: bytes,
        within: float | None,
    ) -> Signed:
        """Sign in turn. Withhold the signature when the key or the grants have changed so meanwhile.

        So none leaves once an operator was told that a version is compromised, or after a reload that took its grant away.
        """
        principal, turns = decision.principal, self._guard.turns
        policy, snapshot = self._guard.policy, self._keyring.snapshot
        share = self._guard.share(principal)
        decision.kid, decision.version = version.record.kid, version.record.version
        decision.grant = decide(rules, request, self._guard.taker(share)).name
        began = time.monotonic()
        await turns.take(share, policy.allowance.max_signatures, within)
        try:
            left = None if within is None else max(0.001, within - (time.monotonic() - began))
            signature = await self._keyring.runner(view.key).sign(version, view.key.algorithm, data, left)
        finally:
            turns.give_back(share)
        if self._keyring.snapshot is not snapshot:
            self._keyring.snapshot.get(view.key.name).signer(version.record.kid, self._keyring.clock.now())
        if self._guard.policy is not policy:
            decision.grant = None
            decision.grant = decide(self._guard.policy.rights(principal).sign(view.key.name), request).name
        return Signed(signature, view.key, version.record)

    def _check_message(
        self, decision: Decision, view: KeyView, data: bytes, kid: str | None, now: float
    ) -> tuple[VersionView, SigningRequest]:
        decision.purpose = Purpose.RAW.value
        _need(view.key, Purpose.RAW, InputKind.MESSAGE)
        if len(data) > MAX_MESSAGE_BYTES:
            raise SizeError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}")
        return view.signer(kid, now), SigningRequest(Purpose.RAW, view.key.profile, now)

    def _check_base(
        self, decision: Decision, view: KeyView, data: bytes, kid: str | None, now: float
    ) -> tuple[VersionView, SigningRequest]:
        profile = self._profile(view.key)
        base = read_base(data, profile)
        directory = base.tag == signature_base.DIRECTORY_TAG
        purpose = Purpose.DIRECTORY if directory else Purpose.HTTP
        request = SigningRequest(purpose, view.key.profile, now, base=base)
        note_base(decision, request, base)
        _need(view.key, purpose, InputKind.SIGNATURE_BASE)
        version = self._version(view, base.keyid, kid, now)
        check_base(
            base,
            profile,
            Signing(view.key.algorithm, version.record.kid, version.record.thumbprint),
            now=now,
            not_after=version.record.timeline.publication_ends(now, view.key.lifecycle),
            directory=directory,
        )
        return version, request

    def _check_jws(
        self, decision: Decision, view: KeyView, data: bytes, kid: str | None, now: float
    ) -> tuple[VersionView, SigningRequest]:
        decision.purpose = Purpose.JWT.value
        parsed = jws.parse(data)
        decision.typ, decision.issuer, decision.audience = parsed.typ, issuer_of(parsed), audience_of(parsed)
        _need(view.key, Purpose.JWT, InputKind.JWS_SIGNING_INPUT)
        version = self._version(view, parsed.kid, kid, now)
        check_jws(
            parsed,
            self._profile(view.key),
            algorithm=view.key.algorithm,
            now=now,
            not_after=version.record.timeline.publication_ends(now, view.key.lifecycle),
        )
        return version, SigningRequest(Purpose.JWT, view.key.profile, now, token=parsed)

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


def note_base(decision: Decision, request: SigningRequest, base: SignatureBase) -> None:
    """Put what a base is for into the record."""
    covered = request.covered
    decision.purpose, decision.created = request.purpose.value, base.created
    decision.method, decision.authority, decision.path = covered.get("@method"), authority_of(covered), path_of(covered)


def _need(key: Key, purpose: Purpose, kind: InputKind) -> None:
    if purpose not in key.purposes:
        has = ", ".join(sorted(p.value for p in key.purposes))
        raise PurposeError(f"key {key.name!r} does not sign a {kind.value} (needs purpose {purpose.value}, has {has})")
