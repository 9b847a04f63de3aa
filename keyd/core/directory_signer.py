"""Signs responses of a key directory for keyd itself, by the rules that a caller's base is held to, and on record."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from keyd.core import directory, signature_base
from keyd.core.binding import Signing
from keyd.core.directory import Entry
from keyd.core.errors import KeyStateError
from keyd.core.guard import Guard, finish
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.principal import Principal
from keyd.core.profile import DIRECTORY, check_base

#: Seconds that a signature is valid, where its key stays published for so long.
VALIDITY = int(DIRECTORY.max_expires_in)
# ``created`` lies so far back, in seconds, that it is the past for every replica and verifier whose clock is about right.
_BACK = 10


@dataclass(frozen=True, slots=True)
class Request:
    """What a version is to sign. ``content_digest`` is None where it is not covered."""

    issuer: str
    entry: Entry
    authority: str
    content_digest: str | None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature in raw octets, and its parameters as they stand in Signature-Input. Times in seconds since the epoch."""

    octets: bytes
    parameters: str
    created: int
    expires: int


class DirectorySigner:
    """Signs by the keyring's backends. Who has it done is the daemon: its uid and process."""

    def __init__(self, keyring: Keyring, guard: Guard, check_clock: Callable[[], None]) -> None:
        """``check_clock`` raises ClockError while nothing may be signed."""
        self._keyring = keyring
        self._guard = guard
        self._check_clock = check_clock
        self._self = Principal(uid=os.geteuid(), gid=os.getegid(), pid=os.getpid())

    def expires(self, request: Request, now: float) -> int:
        """Return until when a signature that is made now is valid: never past the end of publication of its key."""
        key, timeline = request.entry.key.key, request.entry.version.record.timeline
        return int(min(int(now) - _BACK + VALIDITY, timeline.publication_ends(now, key.lifecycle)))

    async def sign(self, request: Request) -> Signature:
        """Sign the base of a response, verified like every signature. It is on record when this returns.

        Raises:
            KeydError: it is not signed, or cannot be recorded.
        """
        now, key, version = self._keyring.clock.now(), request.entry.key.key, request.entry.version
        created, expires = int(now) - _BACK, self.expires(request, now)
        data, parameters = directory.signature_base(
            request.authority,
            version.record.thumbprint,
            key.algorithm,
            created=created,
            expires=expires,
            content_digest=request.content_digest,
        )
        decision = self._guard.decision(self._self, "sign", key.name)
        decision.kid, decision.version, decision.created = version.record.kid, version.record.version, created
        decision.purpose, decision.authority, decision.digest = (
            Purpose.DIRECTORY.value,
            request.authority,
            hashlib.sha256(data).digest(),
        )
        try:
            self._check_clock()
            check_base(
                signature_base.parse(data),
                DIRECTORY,
                Signing(key.algorithm, version.record.kid, version.record.thumbprint),
                now=now,
                not_after=version.record.timeline.publication_ends(now, key.lifecycle),
                directory=True,
            )
            octets = await self._keyring.runner(key).sign(version, key.algorithm, data)
            self._check_unchanged(request)
        except BaseException as exc:
            await self._guard.refuse(decision, exc)
            raise
        decision.detail = f"for the key directory of issuer {request.issuer}, by keyd itself"
        await finish(self._guard.record(decision))
        return Signature(octets, parameters, created, expires)

    def _check_unchanged(self, request: Request) -> None:
        """Withhold a signature whose key was stopped while it was made. Raises KeyStateError and NotFoundError."""
        name, number = request.entry.key.key.name, request.entry.version.record.version
        view = self._keyring.snapshot.get(name)
        version = view.version(number)
        at = max(self._keyring.clock.now(), version.record.timeline.publish_at)
        if not directory.may_sign(view, version, at):
            raise KeyStateError(f"version {number} of key {name!r} does not sign a key directory any more")
