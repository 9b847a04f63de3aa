"""The key directories of this daemon, and the signatures of their responses, made ahead and kept.

A request never has anything signed: whoever asks often costs no operation of a store, and a store that is away for hours is not
missed. What is kept is one signature for each published version and each configured authority, and in the draft's form for the
present document; its number depends on the configuration alone.

A signature is renewed when half of its time is over. One that cannot be had is tried again later and later. Its key stays in the
directory, unsigned: a verifier that fetches a directory without a key forgets that key, and one that wants signatures ignores it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

import structlog

from keyd.core import directory, jwks
from keyd.core.directory import Document, Entry
from keyd.core.directory_signer import VALIDITY, DirectorySigner, Request, Signature
from keyd.core.errors import KeydError, KeyStateError, NotFoundError
from keyd.core.keyring import Keyring
from keyd.core.model import Purpose
from keyd.core.publication import Issuer, Publication, Rules
from keyd.core.snapshot import Snapshot

_IDLE = 60.0  # seconds after which it looks again at the latest
_RETRY, _LONGEST_RETRY = 5.0, 300.0  # seconds after the first failure, doubled after each further one
_OUTAGE = 10.0  # seconds that a backend is left alone when it does not answer
_AHEAD = VALIDITY / 2  # seconds before its publication that a version signs, so that a store may be away just then
_UNSIGNED_AGE = 10.0  # seconds that a document may be cached of which a signature is missing
_log = structlog.get_logger("keyd.directory")

#: Authority, thumbprint, and the Content-Digest that is covered.
Slot = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A directory as it goes out.

    Attributes:
        fields: Signature-Input and Signature; none where nothing signs.
        content_digest: value of that field, where it is covered.
        max_age: seconds that it may be cached: never past the first end of a signature.
        pending: a signature is missing that has not been tried yet.
        until: when it is another, in seconds since the epoch, if nothing changes that :attr:`Directories.generation` counts.
    """

    body: bytes
    etag: str
    fields: tuple[tuple[str, str], ...]
    content_digest: str | None
    max_age: int
    pending: bool
    until: float


@dataclass(frozen=True, slots=True)
class Figures:
    """How the directory of an issuer is: versions that it lists, those that do not sign at each authority, and seconds until the
    first signature ends (``inf``: there is none)."""

    listed: int
    unsigned: int
    first_end: float


@dataclass(slots=True)
class _Failure:
    times: int
    retry_at: float


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A document, good from ``since`` on while ``snapshot`` and ``rules`` are what there is."""

    snapshot: Snapshot
    rules: Rules
    since: float
    document: Document


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer, good from ``since`` on while ``document`` is the present one and no signature was made or dropped."""

    document: Document
    generation: int
    since: float
    answer: Answer
    complete: bool


class Directories:
    """The key directories.

    Attributes:
        made: how many signatures were made for each issuer.
        failed: how many could not be.
    """

    def __init__(self, publication: Publication, keyring: Keyring, signer: DirectorySigner) -> None:
        self.made: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._publication = publication
        self._keyring = keyring
        self._signer = signer
        self._documents: dict[str, _Rendered] = {}
        self._signatures: dict[Slot, Signature] = {}
        self._failures: dict[Slot, _Failure] = {}
        self._answers: dict[tuple[str, str], _Kept] = {}
        #: Counts the signatures that were made, dropped or given up for now.
        self.generation = 0
        self._news = asyncio.Event()
        self._told: set[tuple[str, str]] = set()

    def answer(self, host: str, port: str) -> Answer:
        """Return the directory that is asked for at a host, which is in lower case.

        Raises:
            NotFoundError: there is none at this very authority.
            KeyStateError: it lists nothing, or nothing of it is signed that should be. Verifiers would forget the keys they know.
        """
        issuer, kept = self._look(host, port)
        if not kept.document.entries:
            raise KeyStateError(f"the key directory of issuer {issuer.name!r} lists no key")
        if not kept.complete and not kept.answer.fields:
            raise KeyStateError(f"no key of the key directory of issuer {issuer.name!r} could sign it yet")
        longest = issuer.max_age if kept.complete else min(issuer.max_age, _UNSIGNED_AGE)
        return replace(kept.answer, max_age=jwks.age(self._keyring.clock.now(), kept.answer.until, longest))

    def pending(self, host: str, port: str) -> bool:
        """Say whether a signature is missing at a host that was not tried yet. Raises NotFoundError."""
        return self._look(host, port)[1].answer.pending

    async def settled(self, host: str, port: str, within: float) -> None:
        """Return when no signature is missing at a host that was not tried, or after ``within`` seconds. Raises NotFoundError."""
        try:
            async with asyncio.timeout(within):
                while self.pending(host, port):
                    await self._news.wait()
        except TimeoutError:
            pass

    async def run(self) -> None:
        """Make signatures for ever, in each backend for itself."""
        await asyncio.gather(*(self._run(backend) for backend in self._keyring.backends))

    async def step(self, backend: str) -> float:
        """Make the signatures that are due in a backend, one at a time. Returns when to look again, in seconds since the epoch."""
        now = self._keyring.clock.now()
        wanted = {self._slot(request): request for request in self._wanted(now)}
        self._forget(wanted)
        ours = {slot: request for slot, request in wanted.items() if request.entry.key.key.backend == backend}
        if self._keyring.backend(backend).breaker.reason is not None:
            # Whoever waits for a first signature need not wait for that.
            for slot in ours.keys() - self._signatures.keys() - self._failures.keys():
                self._failures[slot] = _Failure(0, now)
                self._tell()
            return now + _OUTAGE
        due = [slot for slot, request in ours.items() if self._due(slot, request, now) <= now]
        planned = self._keyring.snapshot, self._publication.rules
        for slot in due:
            await self._sign(slot, ours[slot])
            await asyncio.sleep(0)  # a store in this process does not wait, and hundreds of signatures take long
            if self._keyring.snapshot is not planned[0] or self._publication.rules is not planned[1]:
                break  # what is still due may be stopped, or another's
        if due:
            return self._keyring.clock.now()
        ends = [rendered.document.until for rendered in self._documents.values()]
        return min([*ends, *(self._due(slot, request, now) for slot, request in ours.items())], default=inf)

    def figures(self) -> dict[str, Figures]:
        """Return how the directory of each issuer that has one is."""
        return {issuer.name: self._figures(issuer) for issuer in self._issuers()}

    def _figures(self, issuer: Issuer) -> Figures:
        now, document = self._keyring.clock.now(), self._document(issuer)
        unsigned, first_end = 0, inf
        for entry in document.entries:
            found = [self._signature(issuer, authority, document, entry, now) for authority in directory.authorities(issuer)]
            unsigned += None in found
            first_end = min([first_end, *(signature.expires - now for signature in found if signature is not None)])
        return Figures(len(document.entries), unsigned, first_end)

    async def _run(self, backend: str) -> None:
        while True:
            try:
                at = await self.step(backend)
            except Exception as exc:  # noqa: BLE001 - a defect must not end it
                _log.error("signing key directories failed unexpectedly", backend=backend, exc_info=exc)
                at = inf
            within = at - self._keyring.clock.now()
            await self._keyring.changed(min(max(within, 0.01), _IDLE))

    def _look(self, host: str, port: str) -> tuple[Issuer, _Kept]:
        issuer = self._publication.rules.at(host, port)
        authority = directory.authority_of(host, port)
        if issuer is None or issuer.directory == "off" or authority not in directory.authorities(issuer):
            raise NotFoundError("there is no key directory at this authority")
        now, document = self._keyring.clock.now(), self._document(issuer)
        kept = self._answers.get((issuer.name, authority))
        same = kept is not None and kept.document is document and kept.generation == self.generation
        if kept is None or not same or not kept.since <= now < kept.answer.until:
            kept = self._put_together(issuer, authority, document, now)
            self._answers[issuer.name, authority] = kept
        return issuer, kept

    def _issuers(self) -> Iterator[Issuer]:
        return (issuer for issuer in self._publication.rules.issuers.values() if issuer.directory != "off")

    def _document(self, issuer: Issuer) -> Document:
        now, snapshot, rules = self._keyring.clock.now(), self._keyring.snapshot, self._publication.rules
        known = self._documents.get(issuer.name)
        if (
            known is None
            or known.snapshot is not snapshot
            or known.rules is not rules
            or not known.since <= now < known.document.until
        ):
            document = directory.render(self._publication.members(issuer), now, issuer.directory)
            known = self._documents[issuer.name] = _Rendered(snapshot, rules, now, document)
        return known.document

    def _wanted(self, now: float) -> Iterator[Request]:
        """Go through what should be signed now."""
        for issuer in self._issuers():
            document = self._document(issuer)
            digest = document.content_digest if issuer.directory == "draft" else None
            entries = [entry for entry in document.entries if self._signs(issuer, entry, now)]
            if digest is None:
                entries += self._coming(issuer, now)
            for entry in entries:
                for authority in sorted(directory.authorities(issuer)):
                    yield Request(issuer.name, entry, authority, digest)

    def _signs(self, issuer: Issuer, entry: Entry, now: float) -> bool:
        key, new = entry.key.key, (issuer.name, entry.key.key.name) not in self._told
        if Purpose.DIRECTORY not in key.purposes and new:
            self._told.add((issuer.name, key.name))
            _log.warning(
                "a key in a key directory may not sign it, so verifiers that want signatures ignore the key",
                issuer=issuer.name,
                key=key.name,
                hint="make a key with the purposes http and directory; keys with the profile web-bot-auth have both",
            )
        elif key.backend not in self._keyring.backends:
            if new:
                self._told.add((issuer.name, key.name))
                _log.error(
                    "a key in a key directory cannot sign it, because its backend is not configured",
                    issuer=issuer.name,
                    key=key.name,
                    backend=key.backend,
                    hint="write [backends.NAME] into the configuration again, or take the key out of the issuer",
                )
            return False
        return directory.may_sign(entry.key, entry.version, now)

    def _coming(self, issuer: Issuer, now: float) -> Iterator[Entry]:
        """Go through versions that will be published soon."""
        for view in self._publication.members(issuer):
            for version in view.versions:
                at = version.record.timeline.publish_at
                if now < at <= now + _AHEAD and directory.may_sign(view, version, at):
                    yield Entry(view, version)

    def _slot(self, request: Request) -> Slot:
        return request.authority, request.entry.version.record.thumbprint, request.content_digest

    def _due(self, slot: Slot, request: Request, now: float) -> float:
        """Return when a signature is to be made."""
        failure, kept, expires = self._failures.get(slot), self._signatures.get(slot), self._signer.expires(request, now)
        if failure is not None and now < failure.retry_at <= now + _LONGEST_RETRY:
            return failure.retry_at
        if expires <= now + 1:
            return inf
        if kept is None or kept.created > now or kept.expires <= now:
            return now
        half = kept.created + (kept.expires - kept.created) / 2
        # That of a version which is soon unpublished has its end there, and a new one would have the same.
        return half if now < half or expires > kept.expires else inf

    async def _sign(self, slot: Slot, request: Request) -> None:
        try:
            signature = await self._signer.sign(request)
        except Exception as exc:  # noqa: BLE001 - a defect in one backend must not hold up the others
            self._note_failure(slot, request, exc)
        else:
            self._signatures[slot] = signature
            self.made[request.issuer] += 1
            failure = self._failures.pop(slot, None)
            if failure is not None and failure.times:
                _log.info("a key signs its key directory again", issuer=request.issuer, key=request.entry.key.key.name)
        self._tell()

    def _note_failure(self, slot: Slot, request: Request, exc: Exception) -> None:
        now, before, kept = self._keyring.clock.now(), self._failures.get(slot), self._signatures.get(slot)
        times = 1 if before is None else before.times + 1
        self._failures[slot] = _Failure(times, now + min(_RETRY * 2.0 ** min(times - 1, 10), _LONGEST_RETRY))
        self.failed[request.issuer] += 1
        left = 0 if kept is None else max(0, round(kept.expires - now))
        defect = not isinstance(exc, KeydError)
        if times == 1 or not left or defect:
            tell = _log.warning if left and not defect else _log.error
            tell(
                "a key could not sign its key directory",
                issuer=request.issuer,
                authority=request.authority,
                key=request.entry.key.key.name,
                version=request.entry.version.record.version,
                error=f"unexpected {type(exc).__name__}" if defect else str(exc),
                seconds_left=left,
                exc_info=exc if defect else None,
            )

    def _tell(self) -> None:
        self.generation += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _forget(self, wanted: dict[Slot, Request]) -> None:
        for slot in self._signatures.keys() - wanted.keys():
            del self._signatures[slot]
        for slot in self._failures.keys() - wanted.keys():
            del self._failures[slot]
        names = {issuer.name for issuer in self._issuers()}
        for name in self._documents.keys() - names:
            del self._documents[name]
        for where in [where for where in self._answers if where[0] not in names]:
            del self._answers[where]

    def _signature(self, issuer: Issuer, authority: str, document: Document, entry: Entry, now: float) -> Signature | None:
        """Return the signature of an entry that may be sent now."""
        digest = document.content_digest if issuer.directory == "draft" else None
        kept = self._signatures.get((authority, entry.version.record.thumbprint, digest))
        sound = kept is not None and kept.created <= now < kept.expires and directory.may_sign(entry.key, entry.version, now)
        return kept if sound else None

    def _put_together(self, issuer: Issuer, authority: str, document: Document, now: float) -> _Kept:
        found = [self._signature(issuer, authority, document, entry, now) for entry in document.entries]
        signatures = [signature for signature in found if signature is not None]
        missing = [
            entry
            for entry, signature in zip(document.entries, found, strict=True)
            if signature is None and directory.may_sign(entry.key, entry.version, now)
        ]
        digest = document.content_digest if issuer.directory == "draft" else None
        tried = [
            (authority, entry.version.record.thumbprint, digest) in self._failures
            or entry.key.key.backend not in self._keyring.backends
            for entry in missing
        ]
        fields = tuple(directory.fields((signature.parameters, signature.octets) for signature in signatures))
        until = min([document.until, *(signature.expires for signature in signatures)])
        answer = Answer(document.body, document.etag, fields, digest, 0, pending=not all(tried), until=until)
        return _Kept(document, self.generation, now, answer, complete=not missing)
