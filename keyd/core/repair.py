"""Mends what a crash left between two steps, at the next start.

A version that was being made was never announced, so its orphan in the backend is removed. A version that was being destroyed
is destroyed again. Both acts can be repeated, and wait for the next start when a backend is out of reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from math import isinf

import structlog

from keyd.core.errors import BackendUnavailableError, KeydError
from keyd.core.model import KeyVersion
from keyd.core.runner import BackendRunner
from keyd.core.store import Intent, Records, SqlStore

_log = structlog.get_logger("keyd.repair")


async def mend(records: Records, store: SqlStore, runners: Mapping[str, BackendRunner]) -> Records:
    """Mend everything that can be mended now and return the records as they are then."""
    for intent in records.intents:
        await remove_orphan(intent, store, runners.get(intent.backend))
    backends = {key.name: key.backend for key in records.keys}
    versions = []
    for record in records.versions:
        if record.handle is not None and not isinf(record.timeline.destroyed_at):
            versions.append(await _destroy_again(record, store, runners.get(backends[record.key])))
        else:
            versions.append(record)
    for name, runner in runners.items():
        await _report_missing(runner, {v.handle: v for v in versions if v.handle and backends[v.key] == name})
    return replace(records, versions=tuple(versions))


async def remove_orphan(intent: Intent, store: SqlStore, runner: BackendRunner | None) -> None:
    """Remove whatever the backend holds for a version that was never recorded. Logs, and does not raise, when it cannot."""
    log = _log.bind(key=intent.key, version=intent.version, backend=intent.backend)
    try:
        if runner is None:
            raise BackendUnavailableError(f"backend {intent.backend!r} is not configured")
        for stored in await runner.call(lambda: list(runner.backend.list())):
            if (stored.name, stored.version) == (intent.key, intent.version):
                await runner.call(runner.backend.destroy, stored.handle)
                log.warning("orphan removed")
        await asyncio.to_thread(store.abandon_version, intent)
    except KeydError as exc:
        log.error("orphan not removed, the next start tries again", error=str(exc))  # noqa: TRY400 - foreseen; a traceback tells nothing


async def finish_destruction(record: KeyVersion, store: SqlStore, runner: BackendRunner) -> KeyVersion:
    """Have the backend destroy a version that is on record as destroyed, and record that it did. Raises KeydError."""
    if record.handle is not None:
        await runner.call(runner.backend.destroy, record.handle)
    done = replace(record, handle=None)
    await asyncio.to_thread(store.update_versions, [done])
    return done


async def _destroy_again(record: KeyVersion, store: SqlStore, runner: BackendRunner | None) -> KeyVersion:
    try:
        if runner is None:
            raise BackendUnavailableError("its backend is not configured")
        return await finish_destruction(record, store, runner)
    except KeydError as exc:
        _log.error("destruction not finished, the next start tries again", kid=record.kid, error=str(exc))
        return record


async def _report_missing(runner: BackendRunner, recorded: Mapping[str | None, KeyVersion]) -> None:
    """Say which recorded private keys the backend does not hold. They stay on record: an empty store may be a store away."""
    try:
        held = {stored.handle for stored in await runner.call(lambda: list(runner.backend.list()))}
    except KeydError as exc:
        _log.error("backend cannot list its keys", backend=runner.name, error=str(exc))
        return
    for handle, record in recorded.items():
        if handle not in held:
            _log.error(
                "the backend does not hold this private key", backend=runner.name, key=record.key, kid=record.kid, handle=handle
            )
