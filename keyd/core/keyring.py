"""The keys of this daemon and every change that operators and the planner make to them.

What a change does is decided by :mod:`keyd.core.moves`; :mod:`keyd.core.on_record` writes it down, and then shows it to all at once.
What needs a backend comes one at a time for each backend, so that a slow one holds up only its own.
Making a version is the only act of several steps: :mod:`keyd.core.maker` has the backend make it, then it proves itself and is
recorded. :mod:`keyd.core.repair` mends what a crash leaves between any two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog

from backends.api import Importer, PrivateKey
from keyd.core import jwk, moves, repair, succession, verifiers
from keyd.core.bells import Bell
from keyd.core.clock import Clock
from keyd.core.errors import (
    AlreadyExistsError,
    ConflictError,
    DestructionPendingError,
    InvalidArgumentError,
    KeydError,
)
from keyd.core.key_rules import check_key, check_kid
from keyd.core.maker import Maker, Source
from keyd.core.model import Key, KeyVersion, KidFormat
from keyd.core.on_record import KeysOnRecord
from keyd.core.profile import Profile
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.store import Records, SqlStore
from keyd.core.timeline import LifecyclePolicy, Timeline, first

R = TypeVar("R")
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
        self.clock = clock
        self.served_max_age = served_max_age
        self.profiles: Mapping[str, Profile] = {}
        #: Raises ClockError while the time is not one to write down. To stop a key or version is possible in any case.
        self.check_clock: Callable[[], None] = lambda: None
        #: Has the other workers of this daemon see what is on record, before whoever changed it is told that it is done. Raises nothing.
        self.spread: Callable[[], Awaitable[None]] = _alone
        self._store = store
        self._runners = runners
        self._on_record = KeysOnRecord(store, clock)
        self._working = {name: asyncio.Lock() for name in runners}
        self._maker = Maker(store, lambda: self.snapshot, self._on_record.records)

    @property
    def snapshot(self) -> Snapshot:
        """All keys as they are now; a change puts another snapshot in its place."""
        return self._on_record.snapshot

    @property
    def newest_change(self) -> int:
        """The number of the newest change of any replica that was read."""
        return self._on_record.newest_change

    async def start(self) -> None:
        """Load every key, and mend what an earlier process left half done inside of this one. Waits for no backend outside."""
        records = await self._on_record.load()
        for name, runner in self._runners.items():
            if runner.backend.capabilities.in_process:
                await self._mend_by(records, name)

    async def refresh(self) -> None:
        """See what other replicas changed. Raises StoreUnavailableError."""
        await self._on_record.refresh()

    async def reload(self) -> None:
        """See everything as the database has it, after it was away; what was stopped and is no longer is stopped again.

        Raises as :meth:`KeysOnRecord.reload`.
        """
        await self._on_record.reload()

    async def changed(self, within: float | None) -> None:
        """Return at the next change of any key, or after ``within`` seconds."""
        await self._on_record.changed(within)

    def bell(self, names: Collection[str]) -> Bell:
        """Return what rings when one of these keys changes, or all keys have to be looked at again; to be used in ``with``."""
        return self._on_record.bell(names)

    def wake(self) -> None:
        """Let those who wait for a change look again, for something else has changed that they depend on."""
        self._on_record.wake()

    async def mend(self, backend: str) -> None:
        """Mend what was left half done in this backend, as far as it answers."""
        await _to_the_end(self._mend(backend))

    async def _mend(self, backend: str) -> None:
        async with self._working[backend]:
            await self._mend_by(await self._on_record.records(), backend)

    async def _mend_by(self, records: Records, backend: str) -> None:
        others = await asyncio.to_thread(self._store.living) - {self._store.replica}
        ours = replace(records, intents=tuple(intent for intent in records.intents if intent.owner not in others))
        await repair.mend(ours, self._store, self._runners[backend], self._maker.under_way, self._on_record.show_gone)

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
        check_key(key, served_max_age=self.served_max_age, profiles=self.profiles)
        if kid is not None:
            check_kid(kid, key.name, self.snapshot)
        runner = self.runner(key)
        if key.algorithm not in runner.backend.capabilities.algorithms:
            raise InvalidArgumentError(f"backend {key.backend!r} does not do {key.algorithm.value}")

        def addition(view: KeyView, now: float) -> tuple[Timeline, tuple[KeyVersion, ...]]:
            if view.versions:  # made meanwhile, in another backend or by another replica
                raise _exists(key)
            return first(now), ()

        async with self._working[runner.name]:
            await self.refresh()
            if key.name in self.snapshot.keys:
                raise _exists(key)
            record = await self._add_version(key, source, addition, kid=kid)
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
        earlier = moves.activated if at_once else partial(moves.brought_forward, lead=self._lead(name))
        moved = await self._move(name, earlier)
        if moved.changed:
            record = moved.changed[0]
        else:
            record = await self._next(name, moves.at_once if at_once else partial(moves.planned, lead=self._lead(name)))
        return Change(self.snapshot.get(name), record, self._unannounced(record))

    def _unannounced(self, version: KeyVersion) -> tuple[str, ...]:
        """Return what to know of a version that signs before it was published for its lead; nothing where it does not."""
        published_for = version.timeline.activate_at - version.timeline.publish_at
        if published_for >= self._lead(version.key):
            return ()
        return (verifiers.not_yet_known(published_for, self.served_max_age),)

    async def prepare(self, name: str, activate_at: float, *, newest: int) -> Change:
        """Make the version after ``newest`` ahead of time. It is active ``activate_at``, or as soon as the publish lead allows.

        Raises:
            NotFoundError: there is no such key.
            KeyStateError: the key is disabled or its rotation held, its next version is waiting, or one was made meanwhile.
            KeydError: the backend or the store failed; nothing is left of the attempt.
        """
        addition = partial(moves.planned, lead=self._lead(name), activate_at=activate_at, newest=newest)
        record = await _to_the_end(self._next(name, addition))
        return Change(self.snapshot.get(name), record)

    async def _next(self, name: str, addition: moves.Addition) -> KeyVersion:
        key = self.snapshot.get(name).key
        async with self._working[self.runner(key).name]:
            addition(self.snapshot.get(name), self.clock.now())  # refused before anything is made
            return await self._add_version(key, self._creation(key), addition)

    def _lead(self, name: str) -> float:
        """Return how long a new version of a key is published before it signs, whatever is served now."""
        return max(self.snapshot.get(name).key.lifecycle.publish_lead, 2 * self.served_max_age)

    async def roll_back(self, name: str) -> Change:
        """Make the version that was active before active again, while it may still sign.

        Raises:
            NotFoundError: there is no such key.
            KeyStateError: the key is disabled, or no version was active before and may still sign.
        """
        moved = await _to_the_end(self._move(name, moves.rolled_back))
        return Change(self.snapshot.get(name), moved.changed[0])

    async def set_paused(self, name: str, paused: bool) -> KeyView:
        """Hold the rotation of a key, or let it go on. Raises NotFoundError."""
        await _to_the_end(self._move(name, moves.paused if paused else partial(moves.resumed, lead=self._lead(name))))
        return self.snapshot.get(name)

    async def set_lifecycle(self, name: str, lifecycle: LifecyclePolicy) -> KeyView:
        """Give a key other periods. What is planned already stays so.

        Raises:
            NotFoundError: there is no such key.
            InvalidArgumentError: the periods contradict what is served or signed.
        """

        def changed(view: KeyView, now: float) -> moves.Moved:
            wanted = replace(view.key, lifecycle=lifecycle)
            check_key(wanted, served_max_age=self.served_max_age, profiles=self.profiles)
            return moves.with_lifecycle(view, now, lifecycle)

        await _to_the_end(self._move(name, changed))
        return self.snapshot.get(name)

    async def set_enabled(self, name: str, enabled: bool) -> KeyView:
        """Let a key sign, or stop it. What is published stays so. Raises NotFoundError."""
        await _to_the_end(self._move(name, partial(moves.enabled, wanted=enabled), stops=not enabled))
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
        moved = await self._move(name, partial(moves.compromised, number=number, reason=reason), stops=True)
        stopped = moved.changed[0]
        warnings = [verifiers.still_trusted(stopped.kid, self.served_max_age)]
        if self._lacks_active(name):
            try:
                await self._ensure_active(self.snapshot.get(name).key)
            except ConflictError as exc:  # the replica that plans was faster
                await succession.wait(self, name)
                if self._lacks_active(name):
                    warnings.append(f"another replica is making the successor ({exc}); `keyd key get {name}` shows it")
            except KeydError as exc:  # the version is stopped in any case; that must not look undone
                warnings.append(f"no successor could be made ({exc}); `keyd key rotate --now {name}` tries again")
        view = self.snapshot.get(name)
        active = view.active(self.clock.now())
        if active is not None and active.record.timeline.activate_at >= stopped.timeline.compromised_at:
            warnings += self._unannounced(active.record)
        return Change(view, stopped, tuple(warnings))

    async def _ensure_active(self, key: Key) -> None:
        """Make a version that is active at once, unless one became active meanwhile."""
        async with self._working[self.runner(key).name]:
            if self._lacks_active(key.name):
                await self._add_version(key, self._creation(key), moves.at_once)

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
        await self._move(name, partial(moves.destroyed, number=number, force=force))
        view = self.snapshot.get(name)
        record = view.version(number).record
        warnings: tuple[str, ...] = ()
        runner = self.runner(view.key)
        try:
            async with self._working[runner.name]:
                # Where versions go in order, others can be in the way; else this key is enough, however many there are.
                ordered = runner.backend.capabilities.ordered_destruction
                records = (
                    await self._on_record.records()
                    if ordered
                    else Records((view.key,), tuple(v.record for v in view.versions), ())
                )
                holdings = repair.Holdings.of(records, runner.name)
                await repair.destroy(record, holdings, self._store, runner, self._on_record.show_gone)
                runner.mend_wanted |= bool(holdings.condemned)  # it may have been in the way of others
        except DestructionPendingError as exc:
            warnings = (f"{label} never signs again; its private key is destroyed after the versions before it ({exc})",)
        except KeydError as exc:
            runner.mend_wanted = True
            warnings = (f"{label} never signs again, but the backend did not confirm ({exc}); keyd tries again",)
        view = self.snapshot.get(name)
        return Change(view, view.version(number).record, warnings)

    async def _add_version(self, key: Key, source: Source, addition: moves.Addition, *, kid: str | None = None) -> KeyVersion:
        """Get the next version of a key from its ``source``, and record it with the timelines that ``addition`` gives at that moment.

        The caller holds the lock of the backend, and nobody the one for recording.
        """
        self.check_clock()
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
            record = await self._on_record.add(key, intent, draft, addition)
        except Exception:  # not when this process ends: then the next start finds out what was recorded
            if await self._maker.undo(intent, runner):
                await self.refresh()
            raise
        await self.spread()
        _log.info("version made", key=key.name, version=record.version, kid=record.kid, backend=key.backend)
        return record

    async def _move(self, name: str, move: moves.Move, *, stops: bool = False) -> moves.Moved:
        """Make a move on what is on record, and return what it changed. One that ``stops`` something needs no right clock."""
        if not stops:
            self.check_clock()
        moved = await self._on_record.move(name, move)
        # Without the lock for recording, which to see another worker's change needs. Also where nothing changed: another may just have.
        await self.spread()
        return moved

    def _creation(self, key: Key) -> Callable[[int], str]:
        backend = self.runner(key).backend
        return lambda version: backend.create(key.name, version, key.algorithm)


async def _alone() -> None:
    """There are no other workers."""


async def _to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` to its end even if the caller goes away: half a change helps nobody."""
    task: Awaitable[R] = asyncio.ensure_future(work)
    return await asyncio.shield(task)


def _exists(key: Key) -> AlreadyExistsError:
    return AlreadyExistsError(f"key {key.name!r} exists already; `keyd key rotate {key.name}` makes its next version")
