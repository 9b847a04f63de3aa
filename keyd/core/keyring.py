"""The keys of this daemon and every change to them.

Changes to the keys of one backend come one at a time, so that a slow one holds up only its own. Each is written to the store
first and then becomes visible at once, by swapping the snapshot.
Making a version is the only act of several steps: note the intent, create in the backend, read the public key back, sign and
verify a probe, record the version. :mod:`keyd.core.repair` mends what a crash leaves between any two of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from backends.api import Importer, PrivateKey
from keyd.core import jwk, repair
from keyd.core.clock import Clock
from keyd.core.errors import (
    AlreadyExistsError,
    BackendUnavailableError,
    DestructionPendingError,
    InvalidArgumentError,
    KeydError,
    KeyStateError,
)
from keyd.core.model import Key, KeyVersion, KidFormat, check_new_key
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.store import Intent, SqlStore
from keyd.core.timeline import KeyState, Timeline, first, successor

R = TypeVar("R")
#: Where a version comes from: a function that has the backend make it, or the handle of what the backend holds already.
_Source = Callable[[int], str] | str
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
        self._locks = {name: asyncio.Lock() for name in runners}
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Load every key, and mend what an earlier process left half done inside of this one. Waits for no backend outside."""
        records = await asyncio.to_thread(self._store.load)
        self._swap(Snapshot.of(records.keys, records.versions))
        for name, runner in self._runners.items():
            if runner.backend.capabilities.in_process:
                await self.mend(name)

    async def mend(self, backend: str) -> None:
        """Mend what was left half done in this backend, as far as it answers."""
        await self._exclusively(backend, self._mend(backend))

    async def _mend(self, backend: str) -> None:
        records = await asyncio.to_thread(self._store.load)
        for record in await repair.mend(records, self._store, {backend: self._runners[backend]}):
            self._show(self.snapshot.get(record.key), [record])

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
        return await self._exclusively(self.runner(key).name, self._create(key, self._creation(KeyView(key, ()))))

    async def import_key(self, key: Key, material: PrivateKey, kid: str | None) -> Change:
        """Make a key whose first version is ``material``. ``kid`` overrides how its kid is made. Raises as :meth:`create`."""
        backend = self.runner(key).backend
        if not isinstance(backend, Importer):
            raise InvalidArgumentError(f"backend {key.backend!r} does not take keys from elsewhere")

        def make(version: int) -> str:
            return backend.import_key(key.name, version, key.algorithm, material)

        return await self._exclusively(self.runner(key).name, self._create(key, make, kid))

    async def adopt(self, key: Key, handle: str, kid: str | None) -> Change:
        """Make a key whose first version is the key pair that its backend holds under ``handle``. Raises as :meth:`create`."""
        return await self._exclusively(self.runner(key).name, self._create(key, handle, kid))

    async def _create(self, key: Key, source: _Source, kid: str | None = None) -> Change:
        check_new_key(key, served_max_age=self.served_max_age, profiles=self.profiles)
        if key.name in self.snapshot.keys:
            raise AlreadyExistsError(f"key {key.name!r} exists already; `keyd key rotate {key.name}` makes its next version")
        if kid is not None and self.snapshot.has_kid(kid):
            raise AlreadyExistsError(f"kid {kid!r} is on record already; a kid is never reused")
        runner = self.runner(key)
        if key.algorithm not in runner.backend.capabilities.algorithms:
            raise InvalidArgumentError(f"backend {key.backend!r} does not do {key.algorithm.value}")
        view = KeyView(key, ())
        record = await self._add_version(view, source, lambda now: (first(now), ()), kid=kid)
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
        return await self._exclusively(self._backend_of(name), self._rotate(name, at_once))

    async def _rotate(self, name: str, at_once: bool) -> Change:
        view, now = self.snapshot.get(name), self.clock.now()
        if view.key.disabled_at is not None:
            raise KeyStateError(f"key {name!r} is disabled; enable it before it is rotated")
        active, pending = view.active(now), view.pending(now)
        warning = f"verifiers that cached the JWK Set may not know this version for up to {self.served_max_age:g} s, or their own cache time"
        if pending is not None:
            if not at_once:
                raise KeyStateError(
                    f"version {pending.record.version} of key {name!r} is waiting already; "
                    f"`keyd key rotate --now {name}` activates it at once"
                )
            changed = _activated(view, pending.record, now)
            await self._update_versions(view, changed)
            return Change(self.snapshot.get(name), changed[0], (warning,))

        def timelines(now: float) -> tuple[Timeline, Sequence[KeyVersion]]:
            timeline = successor(now, view.key.lifecycle, at_once=at_once or active is None)
            return timeline, [_replaced(view, active.record, timeline.activate_at)] if active else []

        record = await self._add_version(view, self._creation(view), timelines)
        return Change(self.snapshot.get(name), record, (warning,) if at_once or active is None else ())

    async def set_enabled(self, name: str, enabled: bool) -> KeyView:
        """Let a key sign, or stop it. What is published stays so. Raises NotFoundError."""
        return await self._exclusively(self._backend_of(name), self._set_enabled(name, enabled))

    async def _set_enabled(self, name: str, enabled: bool) -> KeyView:
        view = self.snapshot.get(name)
        if enabled != (view.key.disabled_at is None):
            key = replace(view.key, disabled_at=None if enabled else self.clock.now())
            await asyncio.to_thread(self._store.update_key, key)
            self._swap(self.snapshot.with_key(KeyView(key, view.versions)))
        return self.snapshot.get(name)

    async def compromise(self, name: str, number: int, reason: str) -> Change:
        """Stop a version for good, at once; where it was active, a successor takes over.

        Raises:
            NotFoundError: there is no such key or version.
            KeyStateError: the version is compromised or destroyed already.
            InvalidArgumentError: no reason is given.
        """
        return await self._exclusively(self._backend_of(name), self._compromise(name, number, reason))

    async def _compromise(self, name: str, number: int, reason: str) -> Change:
        if not reason.strip():
            raise InvalidArgumentError("a reason is required; it stays on record")
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
        await self._update_versions(view, changed)
        warnings = [
            f"verifiers trust kid {record.kid!r} until they fetch the JWK Set again: {self.served_max_age:g} s, or their own cache time"
        ]
        if state is KeyState.ACTIVE and pending is None and view.key.disabled_at is None:
            try:
                view = self.snapshot.get(name)
                await self._add_version(
                    view, self._creation(view), lambda now: (successor(now, view.key.lifecycle, at_once=True), ())
                )
            except KeydError as exc:  # the version is stopped in any case; that must not look undone
                warnings.append(f"no successor could be made ({exc}); `keyd key rotate --now {name}` tries again")
        return Change(self.snapshot.get(name), stopped, tuple(warnings))

    async def destroy(self, name: str, number: int, *, force: bool = False) -> Change:
        """Destroy the private key of a version that is out of use; with ``force`` also of one that is still published.

        Raises:
            NotFoundError: there is no such key or version.
            KeyStateError: the version is still needed, or gone already.
        """
        return await self._exclusively(self._backend_of(name), self._destroy(name, number, force))

    async def _destroy(self, name: str, number: int, force: bool) -> Change:
        view, now = self.snapshot.get(name), self.clock.now()
        record, state = _state(view, number, now)
        label = f"version {number} of key {name!r}"
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
            await self._update_versions(view, [record])
        warnings: tuple[str, ...] = ()
        try:
            gone = await self._destroy_in_backend(name, record)
        except DestructionPendingError as exc:
            gone, warnings = (
                [],
                (f"{label} never signs again; its private key is destroyed after the versions before it ({exc})",),
            )
        except KeydError as exc:
            self.runner(view.key).mend_wanted = True
            gone, warnings = [], (f"{label} never signs again, but the backend did not confirm ({exc}); keyd tries again",)
        self._show(self.snapshot.get(name), gone)
        return Change(self.snapshot.get(name), self.snapshot.get(name).version(number).record, warnings)

    async def _destroy_in_backend(self, name: str, record: KeyVersion) -> Sequence[KeyVersion]:
        """Return the versions whose private keys are gone now: this one, and those that had to wait for it. Raises KeydError."""
        view = self.snapshot.get(name)
        runner = self.runner(view.key)
        if not runner.backend.capabilities.ordered_destruction:
            return [await repair.finish_destruction(record, self._store, runner)]
        stored = await repair.stored_keys(runner)
        gone = await repair.destroy_in_order(name, [v.record for v in view.versions], stored, self._store, runner)
        if record.version not in {v.version for v in gone}:
            gone = [*gone, await repair.finish_destruction(record, self._store, runner)]
        return gone

    async def _add_version(
        self,
        view: KeyView,
        source: _Source,
        timelines: Callable[[float], tuple[Timeline, Sequence[KeyVersion]]],
        *,
        kid: str | None = None,
    ) -> KeyVersion:
        """Get the next version of ``view`` from its ``source``, and record it with the ``timelines`` of that moment."""
        key, runner = view.key, self.runner(view.key)
        # What is adopted was there before and outlives a failure: its intent names no backend in which to look for an orphan.
        backend = "" if isinstance(source, str) else key.backend
        intent = await asyncio.to_thread(self._store.begin_version, key.name, backend)
        handle = source if isinstance(source, str) else await self._made(runner, source, intent)
        try:
            public_key = await runner.call(runner.backend.public_key, handle)
            public_jwk, thumbprint = jwk.from_public_key(public_key)
            default_kid = thumbprint if key.kid_format is KidFormat.THUMBPRINT else f"{key.name}-{intent.version}"
            timeline, changed = timelines(self.clock.now())
            record = KeyVersion(key.name, intent.version, kid or default_kid, thumbprint, public_jwk, handle, timeline)
            await runner.prove(VersionView(record), key.algorithm)
            await asyncio.to_thread(
                self._store.finish_version, intent, record, key=None if view.versions else key, changed=changed
            )
        except BaseException:
            await repair.remove_orphan(intent, self._store, runner)
            raise
        self._show(view, [*changed, record])
        _log.info("version made", key=key.name, version=record.version, kid=record.kid, backend=key.backend)
        return record

    async def _made(self, runner: BackendRunner, make: Callable[[int], str], intent: Intent) -> str:
        """Have the backend make a key pair and return its handle. Nothing is left of it on failure, sooner or later."""
        given_up = threading.Event()

        def make_or_undo() -> str:
            handle = make(intent.version)
            if given_up.is_set():  # too late: nobody waits for it any more
                runner.backend.destroy(handle)
            return handle

        try:
            return await runner.call(make_or_undo)
        except AlreadyExistsError as exc:
            # Not made by this attempt, so not an orphan: perhaps of a keyd whose database was lost.
            await asyncio.to_thread(self._store.abandon_version, intent)
            raise AlreadyExistsError(
                f"{exc}; nothing was changed; `keyd key adopt` takes over what is there, another name leaves it alone"
            ) from exc
        except BackendUnavailableError:
            given_up.set()
            runner.mend_wanted = True  # it may have been made all the same; looking now would only wait again
            if runner.backend.capabilities.in_process:
                await repair.remove_orphan(intent, self._store, runner)
            raise
        except BaseException:
            given_up.set()
            await repair.remove_orphan(intent, self._store, runner)
            raise

    def _creation(self, view: KeyView) -> Callable[[int], str]:
        backend, key = self.runner(view.key).backend, view.key
        return lambda version: backend.create(key.name, version, key.algorithm)

    async def _update_versions(self, view: KeyView, changed: Sequence[KeyVersion]) -> None:
        await asyncio.to_thread(self._store.update_versions, changed)
        self._show(view, changed)

    def _show(self, view: KeyView, changed: Sequence[KeyVersion]) -> None:
        versions = {v.record.version: v for v in view.versions} | {record.version: VersionView(record) for record in changed}
        self._swap(self.snapshot.with_key(KeyView(view.key, tuple(versions[number] for number in sorted(versions)))))

    def _swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._changed.set()
        self._changed = asyncio.Event()

    def _backend_of(self, name: str) -> str:
        return self.runner(self.snapshot.get(name).key).name

    async def _exclusively(self, backend: str, work: Coroutine[Any, Any, R]) -> R:
        """Run ``work`` alone on a backend and to its end, even if the caller goes away: half a change helps nobody."""

        async def alone() -> R:
            async with self._locks[backend]:
                return await work

        task: Awaitable[R] = asyncio.ensure_future(alone())
        return await asyncio.shield(task)


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
