"""Mends what a crash or a lost answer left between two steps, as soon as the backend answers.

A version that was being made was never announced, so its orphan in the backend is removed. A version that was being destroyed is
destroyed again. Nothing else is ever destroyed: not what is on record, not what was there before an intent was noted. Every act can
be repeated, and waits when a backend is out of reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isinf

import structlog

from backends.api import StoredKey
from keyd.core import jwk
from keyd.core.errors import DestructionPendingError, KeydError
from keyd.core.model import KeyVersion
from keyd.core.runner import BackendRunner
from keyd.core.store import Intent, Records, SqlStore

_log = structlog.get_logger("keyd.repair")


@dataclass(frozen=True)
class Holdings:
    """What is on record of one backend."""

    #: Versions whose private keys it holds, by handle; of all keys, because any handle can have been adopted.
    versions: dict[str, KeyVersion]
    #: What was about to be made there, and was not recorded.
    intents: tuple[Intent, ...]
    #: All versions of all keys that were ever recorded, wherever.
    recorded: tuple[KeyVersion, ...]

    @classmethod
    def of(cls, records: Records, backend: str) -> Holdings:
        """Pick what concerns one backend."""
        backends = {key.name: key.backend for key in records.keys}
        held = {v.handle: v for v in records.versions if v.handle is not None and backends[v.key] == backend}
        intents = tuple(intent for intent in records.intents if intent.backend == backend)
        return cls(held, intents, records.versions)

    @cached_property
    def thumbprints(self) -> frozenset[str]:
        """Of all versions of all keys that were ever recorded."""
        return frozenset(version.thumbprint for version in self.recorded)

    @property
    def condemned(self) -> list[KeyVersion]:
        """Versions that are on record as destroyed, and whose destruction the backend has not confirmed."""
        return [version for version in self.versions.values() if not isinf(version.timeline.destroyed_at)]


async def mend(
    records: Records, store: SqlStore, runner: BackendRunner, under_way: Collection[Intent], gone: Callable[[KeyVersion], None]
) -> None:
    """Mend all that one backend can mend now. What fails is logged, and wanted again.

    Args:
        records: everything that is stored.
        store: where they are.
        runner: the way to the backend.
        under_way: what threads that were given up are perhaps still making.
        gone: called for each version whose private key is destroyed for certain.
    """
    holdings = Holdings.of(records, runner.name)
    settled = True
    for intent in holdings.intents:
        settled &= intent not in under_way and await remove_orphan(intent, store, runner, holdings)
    for version in sorted(holdings.condemned, key=lambda version: version.handle or ""):
        try:
            await destroy(version, holdings, store, runner, gone)
        except DestructionPendingError:
            continue  # its turn comes with the destruction of the versions before it
        except KeydError as exc:
            settled = False
            _log.error("destruction not finished, the next attempt goes on", kid=version.kid, error=str(exc))
    needed = [version for version in holdings.versions.values() if isinf(version.timeline.destroyed_at)]
    try:
        _report_missing(runner, needed, {key.handle for key in await stored_keys(runner)} if needed else set())
    except KeydError as exc:
        settled = False
        _log.error("backend cannot list its keys", backend=runner.name, error=str(exc))
    runner.mend_wanted = not settled


async def stored_keys(runner: BackendRunner) -> list[StoredKey]:
    """Return what a backend holds. Raises KeydError."""
    return await runner.call(lambda: list(runner.backend.list()))


async def remove_orphan(intent: Intent, store: SqlStore, runner: BackendRunner, holdings: Holdings) -> bool:
    """Remove what the backend holds for a version that was never recorded. What is on record, by whatever handle, stays.

    Returns whether nothing is left to do now. Logs, and does not raise, when it cannot.
    """
    log = _log.bind(key=intent.key, version=intent.version, backend=intent.backend)
    try:
        handle = await runner.call(runner.backend.find, intent.key, intent.version)
        if handle is not None and not await _on_record(handle, runner, holdings):
            await runner.call(runner.backend.destroy, handle)
            log.warning("orphan removed")
        await asyncio.to_thread(store.abandon_version, intent)
    except DestructionPendingError:
        log.warning("orphan left in the store, which destroys in order; it goes with the versions before it")
    except KeydError as exc:
        log.error("orphan not removed, the next attempt goes on", error=str(exc))  # noqa: TRY400 - foreseen; a traceback tells nothing
        return False
    return True


async def _on_record(handle: str, runner: BackendRunner, holdings: Holdings) -> bool:
    """Say whether this very key pair is on record: a store may know it by more than one handle. Raises KeydError."""
    if handle in holdings.versions or runner.backend.capabilities.in_process:
        return handle in holdings.versions  # inside of the process there is one handle for each, and there can be copies
    public_key = await runner.call(runner.backend.public_key, handle)
    return jwk.from_public_key(public_key)[1] in holdings.thumbprints


async def destroy(
    version: KeyVersion, holdings: Holdings, store: SqlStore, runner: BackendRunner, gone: Callable[[KeyVersion], None]
) -> None:
    """Have the backend destroy a version that is on record as destroyed, and record that it did.

    Where the store destroys oldest first, the condemned versions and orphans of the key before this one, and those right after
    it, go as well.

    Raises:
        DestructionPendingError: an older version is needed, or belongs to somebody else.
        KeydError: the backend or the store failed.
    """
    if runner.backend.capabilities.ordered_destruction:
        await _destroy_in_order(version.key, holdings, store, runner, gone)
    if version.handle in holdings.versions:
        await _finish(version, holdings, store, runner, gone)


async def _destroy_in_order(
    key: str, holdings: Holdings, store: SqlStore, runner: BackendRunner, gone: Callable[[KeyVersion], None]
) -> None:
    ours = {intent.version: intent for intent in holdings.intents if intent.key == key}
    stored = sorted(
        (stored for stored in await stored_keys(runner) if stored.name == key), key=lambda stored: stored.version or 0
    )
    for pair in stored:
        record = holdings.versions.get(pair.handle)
        if record is not None and not isinf(record.timeline.destroyed_at):
            await _finish(record, holdings, store, runner, gone)
        elif record is None and pair.version in ours and not await _on_record(pair.handle, runner, holdings):
            await runner.call(runner.backend.destroy, pair.handle)
        else:
            break
        for number in [number for number in ours if number <= (pair.version or 0)]:
            await asyncio.to_thread(store.abandon_version, ours.pop(number))


async def _finish(
    version: KeyVersion, holdings: Holdings, store: SqlStore, runner: BackendRunner, gone: Callable[[KeyVersion], None]
) -> None:
    assert version.handle is not None
    await runner.call(runner.backend.destroy, version.handle)
    await asyncio.to_thread(store.forget_handle, version)
    del holdings.versions[version.handle]
    gone(version)


def _report_missing(runner: BackendRunner, recorded: Iterable[KeyVersion], held: set[str]) -> None:
    """Say which recorded private keys the backend does not hold. They stay on record: an empty store may be a store away."""
    for record in recorded:
        if record.handle not in held:
            _log.error(
                "the backend does not hold this private key",
                backend=runner.name,
                key=record.key,
                kid=record.kid,
                handle=record.handle,
            )
