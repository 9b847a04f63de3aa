"""Checkpoints: the head of the trail, signed by a key of purpose ``audit`` and recorded in the trail and in the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import structlog
from cryptography.exceptions import InvalidSignature

from backends.api import Algorithm, PublicKey
from backends.encoding import verify_raw
from keyd.core import jwk
from keyd.core.audit.record import Record, event, timestamp
from keyd.core.audit.trail import AuditTrail, Head
from keyd.core.clock import Clock
from keyd.core.errors import KeydError
from keyd.core.jws import b64url, from_b64url
from keyd.core.store import CheckpointRow

#: ``typ`` of the JWS. No key of another purpose signs it, and a key of purpose ``audit`` signs nothing else.
TYPE = "keyd-audit+jwt"
#: A signature that took so long that this many records came after what it signs is made anew, so that a reader who remembers
#: as many digests can check every one.
MAX_BEHIND = 20_000

_ATTEMPTS = 3
_log = structlog.get_logger("keyd.audit")


class HeadSigner(Protocol):
    """The dedicated key."""

    async def sign(self, payload: bytes) -> str:
        """Return the compact JWS (RFC 7515) of a payload. Raises KeydError."""
        ...


class CheckpointStore(Protocol):
    """Where checkpoints are kept beside the trail. It blocks, and raises KeydError."""

    def add_checkpoint(self, checkpoint: CheckpointRow) -> None:
        """Keep one, and forget the oldest."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint signs: the record that was the last one, when, and which files keyd is about to remove.

    Attributes:
        kid: of the key that signed.
        kept_from: keyd removes files that end before this record; None: it removes none.
    """

    seq: int
    head: str
    time: str
    kid: str
    kept_from: int | None = None


class Checkpointer:
    """Makes checkpoints: from time to time, after many records, before a rotation and at the stop. Rotates the trail, too."""

    def __init__(self, trail: AuditTrail, signer: HeadSigner, store: CheckpointStore, clock: Clock, interval: float) -> None:
        """``interval`` is in seconds, and may be set later."""
        self.interval = interval
        self._trail = trail
        self._signer = signer
        self._store = store
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._failing: str | None = None
        self._rotated = True  # at the last attempt

    def start(self) -> None:
        """Begin to make them."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, within: float) -> None:
        """Record that the daemon stops, sign that, and end. A key that does not answer ``within`` seconds is not waited for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            self._trail.add("stop", {})
            async with asyncio.timeout(within):
                await self.make()
        except (KeydError, OSError, TimeoutError) as exc:
            _log.warning("audit trail ends without a checkpoint", error=str(exc) or "the key did not answer in time")

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.interval):
                    await self._trail.due.wait()
            except TimeoutError:
                pass
            try:
                await self._turn()
            except Exception:  # noqa: BLE001 - a defect must not end the checkpoints
                _log.exception("audit checkpoint not made")
                await asyncio.sleep(self.interval)

    async def _turn(self) -> None:
        self._trail.due.clear()
        self._trail.look()
        rotation = self._trail.rotation_due
        wanted = self._trail.unsigned or rotation
        made = wanted and await self.make(rotate=rotation)
        # Else many records, the checkpoint itself among them, would have it try again and again.
        if (wanted and not made and not rotation) or not self._rotated:
            await asyncio.sleep(self.interval)

    async def make(self, *, rotate: bool = False) -> bool:
        """Make one now, and begin the next file right behind it if asked to; returns whether one was made.

        Signing for callers goes on in any case: each has its record.
        """
        if self._trail.failure is not None:
            return False
        kept_from = self._trail.kept_from() if rotate else None
        try:
            head = await self._signed(kept_from)
        except (KeydError, OSError) as exc:
            if self._failing is None:
                _log.warning("audit checkpoint not made, it is tried again; records are written all the same", error=str(exc))
            self._failing = str(exc)
            self._rotated = not rotate or self._trail.rotate()
            return False
        self._rotated = not rotate or self._trail.rotate()  # nothing was recorded in between: a file ends with a signature
        if self._failing is not None:
            _log.info("audit checkpoints are made again")
            self._failing = None
        await self._trail.sync()
        # The database never knows a record that a crash could take from the trail.
        if self._trail.directory is not None and self._trail.synced >= head.seq:
            if kept_from is not None and self._rotated:
                self._remove_before(kept_from)  # not sooner, because the signature is what excuses it
            await self._keep(head)
        return True

    def _remove_before(self, seq: int) -> None:
        try:
            self._trail.remove_before(seq)
        except OSError as exc:
            _log.error("old files of the audit trail not removed", error=str(exc))

    async def _signed(self, kept_from: int | None) -> Head:
        more = {} if kept_from is None else {"kept_from": kept_from}
        for _ in range(_ATTEMPTS):
            head, at, before = self._trail.head, timestamp(self._clock.now()), self._trail.unsigned
            payload = orjson.dumps({"seq": head.seq, "head": head.digest, "time": at, **more})
            jws = await self._signer.sign(payload)
            if self._trail.head.seq - head.seq <= MAX_BEHIND:
                break
        signed = self._trail.add("checkpoint", {"jws": jws}, at=at)
        self._trail.unsigned = max(0, self._trail.unsigned - before - 1)
        return signed

    async def _keep(self, head: Head) -> None:
        try:
            row = CheckpointRow(head.seq, head.digest, str(self._trail.directory), self._clock.now())
            await asyncio.to_thread(self._store.add_checkpoint, row)
        except KeydError as exc:
            _log.warning("audit checkpoint not in the database", error=str(exc))


class CheckpointError(Exception):
    """A checkpoint is not what it must be; the message says in which way."""


class UnknownKeyError(CheckpointError):
    """It names a key that is not known here."""


def check(record: Record, line: bytes, keys: Mapping[str, tuple[PublicKey, Algorithm]] | None) -> Checkpoint:
    """Return what the checkpoint in a record signs. ``line`` is the record's, without its newline; with None for ``keys`` the signature is not checked.

    Raises:
        CheckpointError: it is not whole, or its signature is wrong.
        UnknownKeyError: the key that made it is not among ``keys``, which are by kid.
    """
    jws = record.text("jws")
    parts = jws.split(".")
    try:
        header_part, payload_part, signature_part = parts
        header, payload = json.loads(from_b64url(header_part.encode())), json.loads(from_b64url(payload_part.encode()))
        kid, alg = str(header["kid"]), str(header["alg"])
        kept_from = int(payload["kept_from"]) if "kept_from" in payload else None
        found = Checkpoint(int(payload["seq"]), str(payload["head"]), str(payload["time"]), kid, kept_from)
        signature = from_b64url(signature_part.encode())
        if header["typ"] != TYPE:
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise CheckpointError("its checkpoint is no such JWS") from None
    # The last line of a trail has none behind it that would show a change, so it is held to its one form.
    if line != event(record.seq, record.prev, found.time, "checkpoint", {"jws": jws}):
        raise CheckpointError("it does not say what its signature says")
    if keys is None:
        return found
    if kid not in keys:
        raise UnknownKeyError(f"its checkpoint is signed by kid {kid[:64]!r}, which is none of the keys given")
    public_key, algorithm = keys[kid]
    try:
        if alg != algorithm.value:
            raise InvalidSignature
        verify_raw(public_key, algorithm, signature, f"{header_part}.{payload_part}".encode())
    except (InvalidSignature, ValueError):
        raise CheckpointError("the signature of its checkpoint is wrong") from None
    return found


def keys_of(document: Any) -> dict[str, tuple[PublicKey, Algorithm]]:
    """Return the keys of a JWK or JWK Set (RFC 7517) by kid. Each needs ``kid`` and ``alg``.

    Raises:
        ValueError: it is neither, or a key lacks one of these.
    """
    members = document.get("keys", [document]) if isinstance(document, dict) else None
    if not isinstance(members, list) or not members:
        raise ValueError("neither a JWK nor a JWK Set with keys")
    found = {}
    for member in members:
        try:
            public = {name: member[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in member}
            found[str(member["kid"])] = jwk.to_public_key(json.dumps(public)), Algorithm(member["alg"])
        except Exception as exc:
            raise ValueError("a key of the set is no public JWK with kid and alg") from exc
    return found


def compromised_of(document: Mapping[str, Any]) -> frozenset[str]:
    """Return the kids of a JWK Set whose private keys somebody else may have, as keyd marks them."""
    return frozenset(str(member["kid"]) for member in document.get("keys", []) if member.get("compromised") is True)


def compact(header: Mapping[str, str], payload: bytes) -> bytes:
    """Return the JWS signing input (RFC 7515 section 5.1)."""
    return f"{b64url(orjson.dumps(header))}.{b64url(payload)}".encode("ascii")
