"""Mends what a crash or a lost answer left between two steps, as soon as the backend answers.

A version that was being made was never announced, so its orphan in the backend is removed. A version that was being destroyed
is destroyed again. Both acts can be repeated, and wait when a backend is out of reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isinf

import structlog

from backends.api import StoredKey
from keyd.core.errors import BackendUnavailableError, DestructionPendingError, KeydError
from keyd.core.model import KeyVersion
from keyd.core.runner import BackendRunner
from keyd.core.store import Intent, Records, SqlStore

_log = structlog.get_logger("keyd.repair")


async def mend(records: Records, store: SqlStore, runners: Mapping[str, BackendRunner]) -> list[KeyVersion]:
    """Mend all that these backends can mend now, and return the versions that changed."""
    backends = {key.name: key.backend for key in records.keys}
    changed: list[KeyVersion] = []
    unsettled = set()
    for intent in records.intents:
        if (not intent.backend or intent.backend in runners) and not await remove_orphan(
            intent, store, runners.get(intent.backend)
        ):
            unsettled.add(intent.backend)
    for name, runner in runners.items():
        held = [v for v in records.versions if v.handle is not None and backends[v.key] == name]
        try:
            stored = await stored_keys(runner)
            if runner.backend.capabilities.ordered_destruction:
                for key in {v.key for v in held if _condemned(v)}:
                    changed += await destroy_in_order(key, held, stored, store, runner)
            else:
                changed += [await finish_destruction(v, store, runner) for v in held if _condemned(v)]
        except KeydError as exc:
            _log.error("not mended, the next attempt goes on", backend=name, error=str(exc))
            continue
        runner.mend_wanted = name in unsettled
        _report_missing(runner, (v for v in held if not _condemned(v)), {key.handle for key in stored})
    return changed


async def stored_keys(runner: BackendRunner) -> list[StoredKey]:
    """Return what a backend holds. Raises KeydError."""
    return await runner.call(lambda: list(runner.backend.list()))


async def remove_orphan(intent: Intent, store: SqlStore, runner: BackendRunner | None) -> bool:
    """Remove whatever the backend holds for a version that was never recorded.

    Returns whether nothing is left to do. Logs, and does not raise, when it cannot.
    """
    log = _log.bind(key=intent.key, version=intent.version, backend=intent.backend)
    try:
        if intent.backend:
            if runner is None:
                raise BackendUnavailableError(f"backend {intent.backend!r} is not configured")
            for stored in await stored_keys(runner):
                if (stored.name, stored.version) == (intent.key, intent.version):
                    await runner.call(runner.backend.destroy, stored.handle)
                    log.warning("orphan removed")
        await asyncio.to_thread(store.abandon_version, intent)
    except DestructionPendingError:
        log.warning("orphan left in the store, which destroys in order; it goes with the versions before it")
        await asyncio.to_thread(store.abandon_version, intent)
    except KeydError as exc:
        log.error("orphan not removed, the next attempt goes on", error=str(exc))  # noqa: TRY400 - foreseen; a traceback tells nothing
        return False
    return True


async def finish_destruction(record: KeyVersion, store: SqlStore, runner: BackendRunner) -> KeyVersion:
    """Have the backend destroy a version that is on record as destroyed, and record that it did. Raises KeydError."""
    if record.handle is not None:
        await runner.call(runner.backend.destroy, record.handle)
    done = replace(record, handle=None)
    await asyncio.to_thread(store.update_versions, [done])
    return done


async def destroy_in_order(
    key: str, versions: Iterable[KeyVersion], stored: Iterable[StoredKey], store: SqlStore, runner: BackendRunner
) -> Sequence[KeyVersion]:
    """Destroy the oldest versions of a key that are on record as destroyed, or not on record at all, up to the first that is needed.

    Returns the records of those that are gone now. Raises KeydError.
    """
    on_record = {v.handle: v for v in versions if v.key == key and v.handle is not None}
    named = {s.handle: s for s in stored if s.name == key}
    gone = []
    for handle in sorted(named, key=lambda handle: named[handle].version or 0):
        record = on_record.get(handle)
        if record is None:
            await runner.call(runner.backend.destroy, handle)
        elif _condemned(record):
            gone.append(await finish_destruction(record, store, runner))
        else:
            break
    gone += [await finish_destruction(v, store, runner) for h, v in on_record.items() if _condemned(v) and h not in named]
    return gone


def _condemned(record: KeyVersion) -> bool:
    return not isinf(record.timeline.destroyed_at)


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
