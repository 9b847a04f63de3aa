"""The keys of this daemon and every change to them.

Each change is written to the store first and then becomes visible at once, by swapping the snapshot; one at a time, and never
while a backend is waited for. What needs a backend comes one at a time for each backend, so that a slow one holds up only its own.
Making a version is the only act of several steps: :mod:`keyd.core.maker` has the backend make it, then it proves itself and is
recorded. :mod:`keyd.core.repair` mends what a crash leaves between any two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from backends.api import Importer, PrivateKey
from keyd.core import jwk, repair
from keyd.core.clock import Clock
from keyd.core.errors import (
    AlreadyExistsError,
    DestructionPendingError,
    InvalidArgumentError,
    KeydError,
    KeyStateError,
)
from keyd.core.maker import Maker, Source
from keyd.core.model import Key, KeyVersion, KidFormat, check_new_key
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.store import Intent, Records, SqlStore
from keyd.core.timeline import KeyState, Timeline, first, successor

R = TypeVar("R")
#: From the key as it is now and the time to the timeline of its new version, and the older versions that change with it.
_Timelines = Callable[[KeyView, float], tuple[Timeline, Sequence[KeyVersion]]]
_log = structlog.get_logger("keyd.keyring")


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator's call did: the key as it is now, the version it was about, and what the operator should know."""

    key: KeyView
    version: KeyVersion
    warnings: tuple[str, ...] = ()


class Keyring:
    """All keys. ``snapshot`` is what signing and publication read; it never waits for the store."""

    def __init__(self, store: SqlStore, runners: Mapping[str, BackendRunner], clock: Clock, *, served_max_age: float) -> None:
        self.snapshot = Snapshot()
        self.clock = clock
        self.served_max_age = served_max_age
        self.profiles: frozenset[str] = frozenset()
        self._store = store
        self._runners = runners
        self._recording = asyncio.Lock()
        self._working = {name: asyncio.Lock() for name in runners}
        self._maker = Maker(store, lambda: self.snapshot)
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Load every key, and mend what an earlier process left half done inside of this one. Waits for no backend outside."""
        records = await asyncio.to_thread(self._store.load)
        self._swap(Snapshot.of(records.keys, records.versions))
        for name, runner in self._runners.items():
            if runner.backend.capabilities.in_process:
                await self._mend_by(records, name)

    async def mend(self, backend: str) -> None:
        """Mend what was left half done in this backend, as far as it answers."""
        await _to_the_end(self._mend(backend))

    async def _mend(self, backend: str) -> None:
        async with self._working[backend]:
            await self._mend_by(await asyncio.to_thread(self._store.load), backend)

    async def _mend_by(self, records: Records, backend: str) -> None:
        await repair.mend(records, self._store, self._runners[backend], self._maker.under_way, self._show_gone)

    def runner(self, key: Key) -> BackendRunner:
        """Return the way to the backend of a key. Raises InvalidArgumentError when it is not configured."""
        return self.backend(key.backend)

    def backend(self, name: str) -> BackendRunner:
        """Return the way to a backend. Raises InvalidArgumentError when it is not configured."""
        runner = self._runners.get(name)
        if runner is None:
            known = ", ".join(sorted(self._runners)) or "none"
            raise InvalidArgumentError(f"backend {name!r} is not configured (there are: {known})")
        return runner

    @property
    def backends(self) -> Mapping[str, BackendRunner]:
        """The ways to all configured backends, by name."""
        return self._runners

    async def changed(self, within: float | None) -> None:
        """Return at the next change of any key, or after ``within`` seconds."""
        event = self._changed
        try:
            async with asyncio.timeout(within):
                await event.wait()
        except TimeoutError:
            pass

    async def create(self, key: Key) -> Change:
        """Make a key and its first version.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgumentError: the key cannot be as asked for.
            KeydError: the backend or the store failed; nothing is left of the attempt.
        """
        return await _to_the_end(self._create(key, self._creation(key)))

    async def import_key(self, key: Key, material: PrivateKey, kid: str | None) -> Change:
        """Make a key whose first version is ``material``. ``kid`` overrides how its kid is made. Raises as :meth:`create`."""
        backend = self.runner(key).backend
        if not isinstance(backend, Importer):
            raise InvalidArgumentError(f"backend {key.backend!r} does not take keys from elsewhere")

        def make(version: int) -> str:
            return backend.import_key(key.name, version, key.algorithm, material)

        return await _to_the_end(self._create(key, make, kid))

    async def adopt(self, key: Key, handle: str, kid: str | None) -> Change:
        """Make a key whose first version is the key pair that its backend holds under ``handle``. Raises as :meth:`create`."""
        return await _to_the_end(self._create(key, handle, kid))

    async def _create(self, key: Key, source: Source, kid: str | None = None) -> Change:
        check_new_key(key, served_max_age=self.served_max_age, profiles=self.profiles)
        if kid is not None and (self.snapshot.has_kid(kid) or self._will_be_anothers(kid, key.name)):
            raise AlreadyExistsError(f"kid {kid!r} is on record already, or kept for another key; a kid is never reused")
        runner = self.runner(key)
        if key.algorithm not in runner.backend.capabilities.algorithms:
            raise InvalidArgumentError(f"backend {key.backend!r} does not do {key.algorithm.value}")

        def timelines(view: KeyView, now: float) -> tuple[Timeline, Sequence[KeyVersion]]:
            if view.versions:  # made meanwhile, in another backend
                raise _exists(key)
            return first(now), ()

        async with self._working[runner.name]:
            if key.name in self.snapshot.keys:
                raise _exists(key)
            record = await self._add_version(key, source, timelines, kid=kid)
        warnings = (
            "the first version is active at once; a verifier that cached the JWK Set before now fails until it fetches again",
        )
        return Change(self.snapshot.get(key.name), record, warnings if key.publish and len(self.snapshot.keys) > 1 else ())

    async def rotate(self, name: str, *, at_once: bool = False) -> Change:
        """Make the next version; with ``at_once`` the next version, new or waiting, is active when this returns.

        Raises:
            NotFoundError: there is no such key.
            KeyStateError: the key is disabled, or its next version is waiting already.
        """
        return await _to_the_end(self._rotate(name, at_once))

    async def _rotate(self, name: str, at_once: bool) -> Change:
        warning = f"verifiers that cached the JWK Set may not know this version for up to {self.served_max_age:g} s, or their own cache time"
        if at_once and (activated := await self._activate_pending(name)) is not None:
            return Change(self.snapshot.get(name), activated, (warning,))
        key = self.snapshot.get(name).key
        async with self._working[self.runner(key).name]:
            view, now = self.snapshot.get(name), self.clock.now()
            if view.key.disabled_at is not None:
                raise KeyStateError(f"key {name!r} is disabled; enable it before it is rotated")
            pending = view.pending(now)
            if pending is not None:
                raise KeyStateError(
                    f"version {pending.record.version} of key {name!r} is waiting already; "
                    f"`keyd key rotate --now {name}` activates it at once"
                )
            unannounced = at_once or view.active(now) is None

            def timelines(view: KeyView, now: float) -> tuple[Timeline, Sequence[KeyVersion]]:
                active = view.active(now)
                timeline = successor(now, view.key.lifecycle, at_once=at_once or active is None)
                return timeline, [_replaced(view, active.record, timeline.activate_at)] if active else []

            record = await self._add_version(key, self._creation(key), timelines)
        return Change(self.snapshot.get(name), record, (warning,) if unannounced else ())

    async def _activate_pending(self, name: str) -> KeyVersion | None:
        """Make the waiting version active now; None if there is none."""
        async with self._recording:
            view, now = self.snapshot.get(name), self.clock.now()
            pending = view.pending(now)
            if pending is None or view.key.disabled_at is not None:
                return None
            changed = _activated(view, pending.record, now)
            await self._update(view.key, changed)
            return changed[0]

    async def set_enabled(self, name: str, enabled: bool) -> KeyView:
        """Let a key sign, or stop it. What is published stays so. Raises NotFoundError."""
        return await _to_the_end(self._set_enabled(name, enabled))

    async def _set_enabled(self, name: str, enabled: bool) -> KeyView:
        async with self._recording:
            view = self.snapshot.get(name)
            if enabled != (view.key.disabled_at is None):
                key = replace(view.key, disabled_at=None if enabled else self.clock.now())
                await asyncio.to_thread(self._store.update_key, key)
                self._swap(self.snapshot.with_key(KeyView(key, view.versions)))
            return self.snapshot.get(name)

    async def compromise(self, name: str, number: int, reason: str) -> Change:
        """Stop a version for good, at once; where it was active, a successor takes over. To stop it needs no backend.

        Raises:
            NotFoundError: there is no such key or version.
            KeyStateError: the version is compromised or destroyed already.
            InvalidArgumentError: no reason is given.
        """
        if not reason.strip():
            raise InvalidArgumentError("a reason is required; it stays on record")
        return await _to_the_end(self._compromise(name, number, reason))

    async def _compromise(self, name: str, number: int, reason: str) -> Change:
        async with self._recording:
            view, now = self.snapshot.get(name), self.clock.now()
            record, state = _state(view, number, now)
            if state in (KeyState.COMPROMISED, KeyState.DESTROYED):
                raise KeyStateError(f"version {number} of key {name!r} is {state.value} already")
            stopped = replace(record, timeline=replace(record.timeline, compromised_at=now), compromise_reason=reason)
            changed, pending, active = [stopped], view.pending(now), view.active(now)
            if state is KeyState.ACTIVE and pending is not None:
                changed += _activated(view, pending.record, now)[:1]
            elif state is KeyState.PRE_ACTIVATION and active is not None:
                changed.append(replace(active.record, timeline=active.record.timeline.not_replaced()))
            await self._update(view.key, changed)
        warnings = [
            f"verifiers trust kid {record.kid!r} until they fetch the JWK Set again: {self.served_max_age:g} s, or their own cache time"
        ]
        if state is KeyState.ACTIVE and self._lacks_active(name):
            try:
                await self._ensure_active(view.key)
            except KeydError as exc:  # the version is stopped in any case; that must not look undone
                warnings.append(f"no successor could be made ({exc}); `keyd key rotate --now {name}` tries again")
        return Change(self.snapshot.get(name), stopped, tuple(warnings))

    async def _ensure_active(self, key: Key) -> None:
        """Make a version that is active at once, unless one became active meanwhile."""
        async with self._working[self.runner(key).name]:
            if self._lacks_active(key.name):
                await self._add_version(
                    key, self._creation(key), lambda view, now: (successor(now, view.key.lifecycle, at_once=True), ())
                )

    def _lacks_active(self, name: str) -> bool:
        view = self.snapshot.get(name)
        return view.key.disabled_at is None and view.active(self.clock.now()) is None

    async def destroy(self, name: str, number: int, *, force: bool = False) -> Change:
        """Destroy the private key of a version that is out of use; with ``force`` also of one that is still published.

        Raises:
            NotFoundError: there is no such key or version.
            KeyStateError: the version is still needed, or gone already.
        """
        return await _to_the_end(self._destroy(name, number, force))

    async def _destroy(self, name: str, number: int, force: bool) -> Change:
        label = f"version {number} of key {name!r}"
        async with self._recording:
            view, now = self.snapshot.get(name), self.clock.now()
            record, state = _state(view, number, now)
            if state is KeyState.DESTROYED and record.handle is None:
                raise KeyStateError(f"{label} is destroyed already")
            if state in (KeyState.ACTIVE, KeyState.PRE_ACTIVATION):
                raise KeyStateError(
                    f"{label} is {state.value}; replace it first with `keyd key rotate --now {name}`, or mark it compromised"
                )
            if state is KeyState.DEACTIVATED and record.timeline.published(now) and not force:
                raise KeyStateError(f"{label} is still published, so that what it signed can be verified; wait, or use force")
            if state is not KeyState.DESTROYED:
                record = replace(record, timeline=replace(record.timeline, destroyed_at=now))
                await self._update(view.key, [record])
        warnings: tuple[str, ...] = ()
        runner = self.runner(view.key)
        try:
            async with self._working[runner.name]:
                holdings = repair.Holdings.of(await asyncio.to_thread(self._store.load), runner.name)
                await repair.destroy(record, holdings, self._store, runner, self._show_gone)
                runner.mend_wanted |= bool(holdings.condemned)  # it may have been in the way of others
        except DestructionPendingError as exc:
            warnings = (f"{label} never signs again; its private key is destroyed after the versions before it ({exc})",)
        except KeydError as exc:
            runner.mend_wanted = True
            warnings = (f"{label} never signs again, but the backend did not confirm ({exc}); keyd tries again",)
        view = self.snapshot.get(name)
        return Change(view, view.version(number).record, warnings)

    async def _add_version(self, key: Key, source: Source, timelines: _Timelines, *, kid: str | None = None) -> KeyVersion:
        """Get the next version of a key from its ``source``, and record it with the ``timelines`` of that moment.

        The caller holds the lock of the backend, and nobody the one for recording.
        """
        runner = self.runner(key)
        intent, handle = await self._maker.get(key, runner, source)
        try:
            public_key = await runner.call(runner.backend.public_key, handle)
            public_jwk, thumbprint = jwk.from_public_key(public_key)
            default_kid = thumbprint if key.kid_format is KidFormat.THUMBPRINT else f"{key.name}-{intent.version}"
            draft = KeyVersion(
                key.name, intent.version, kid or default_kid, thumbprint, public_jwk, handle, first(self.clock.now())
            )
            await runner.prove(VersionView(draft), key.algorithm)
            record = await self._record(key, intent, draft, timelines)
        except Exception:  # not when this process ends: then the next start finds out what was recorded
            if await self._maker.undo(intent, runner):
                await self._reload()
            raise
        _log.info("version made", key=key.name, version=record.version, kid=record.kid, backend=key.backend)
        return record

    async def _record(self, key: Key, intent: Intent, draft: KeyVersion, timelines: _Timelines) -> KeyVersion:
        async with self._recording:
            view = self.snapshot.keys.get(key.name)
            timeline, changed = timelines(view or KeyView(key, ()), self.clock.now())
            record = replace(draft, timeline=timeline)
            await asyncio.to_thread(
                self._store.finish_version, intent, record, key=None if view is not None else key, changed=changed
            )
            self._show(key, [*changed, record])
        return record

    async def _reload(self) -> None:
        """Show what is on record: a change was recorded, and its answer was lost."""
        async with self._recording:
            records = await asyncio.to_thread(self._store.load)
            self._swap(Snapshot.of(records.keys, records.versions))

    def _will_be_anothers(self, kid: str, name: str) -> bool:
        """Say whether a version of another key will have this kid: who takes it keeps that key from rotating."""
        other, _, number = kid.rpartition("-")
        view = self.snapshot.keys.get(other)
        return other != name and view is not None and view.key.kid_format is KidFormat.NAME_VERSION and number.isdecimal()

    def _creation(self, key: Key) -> Callable[[int], str]:
        backend = self.runner(key).backend
        return lambda version: backend.create(key.name, version, key.algorithm)

    async def _update(self, key: Key, changed: Sequence[KeyVersion]) -> None:
        await asyncio.to_thread(self._store.update_versions, changed)
        self._show(key, changed)

    def _show(self, key: Key, changed: Sequence[KeyVersion]) -> None:
        view = self.snapshot.keys.get(key.name) or KeyView(key, ())
        versions = {v.record.version: v for v in view.versions} | {record.version: VersionView(record) for record in changed}
        self._swap(self.snapshot.with_key(KeyView(view.key, tuple(versions[number] for number in sorted(versions)))))

    def _show_gone(self, version: KeyVersion) -> None:
        """Show a version without its handle; whatever else changed of it since it was read stays."""
        view = self.snapshot.get(version.key)
        self._show(view.key, [replace(view.version(version.version).record, handle=None)])

    def wake(self) -> None:
        """Let those who wait for a change look again, for something else has changed that they depend on."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.wake()


async def _to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` to its end even if the caller goes away: half a change helps nobody."""
    task: Awaitable[R] = asyncio.ensure_future(work)
    return await asyncio.shield(task)


def _exists(key: Key) -> AlreadyExistsError:
    return AlreadyExistsError(f"key {key.name!r} exists already; `keyd key rotate {key.name}` makes its next version")


def _state(view: KeyView, number: int, now: float) -> tuple[KeyVersion, KeyState]:
    record = view.version(number).record
    return record, record.timeline.state(now)


def _replaced(view: KeyView, record: KeyVersion, at: float) -> KeyVersion:
    return replace(record, timeline=record.timeline.replaced(at, view.key.lifecycle))


def _activated(view: KeyView, waiting: KeyVersion, now: float) -> list[KeyVersion]:
    """Return the waiting version made active now, then the version that it replaces."""
    promoted = replace(waiting, timeline=replace(waiting.timeline, activate_at=now))
    active = view.active(now)
    return [promoted] if active is None else [promoted, _replaced(view, active.record, now)]
