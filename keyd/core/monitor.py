"""Looks after the backends: whether each answers, whether it holds the recorded keys, and what repair waits for it.

A look costs one public key, or the list of keys where there is none. When a backend answers for the first time, and again
whenever it is back, every version that signs or will sign proves itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import inf

import structlog

from keyd.core import jwk, repair
from keyd.core.errors import (
    BackendFailedError,
    BackendRefusedError,
    BackendUnavailableError,
    KeydError,
    OverloadedError,
    StoreUnavailableError,
)
from keyd.core.keyring import Keyring
from keyd.core.model import Key
from keyd.core.outlook import Outlook, others_turn
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.timeline import KeyState

INTERVAL = 30.0  # seconds between two looks at a backend that answers
RETRY = 2.0  # at one that does not
_log = structlog.get_logger("keyd.monitor")


@dataclass
class _Watched:
    """What is known of one backend."""

    #: Why it does not answer; None: it does.
    outage: str | None = "not looked at yet"
    #: What is wrong with single versions, by thumbprint.
    bad: dict[str, str] = field(default_factory=dict)
    #: Which versions have proved themselves, by thumbprint, and by name which keys have others, or some that are no good.
    proven: set[str] = field(default_factory=set)
    unproven: dict[str, KeyView] = field(default_factory=dict)
    looks: int = 0
    reported: bool | None = None


class Monitor:
    """The health of every backend, by name."""

    def __init__(self, keyring: Keyring, on_change: Callable[[], Awaitable[None]]) -> None:
        """``on_change`` is awaited when :meth:`answers` answers otherwise than before for any backend."""
        self._keyring = keyring
        self._on_change = on_change
        self._watched = {name: _Watched() for name in keyring.backends}
        #: Which keys have versions that sign or will sign.
        self._outlooks = {name: Outlook(partial(self._find, name)) for name in keyring.backends}
        self._withdrawn = False

    def answers(self, name: str) -> bool:
        """Say whether a backend can be used. One that answers may have single keys that are no good: see :meth:`failure`."""
        return not self._withdrawn and self._outage(name) is None

    def failure(self, name: str) -> str | None:
        """Return what is wrong with a backend or its keys, for operators; None: nothing."""
        outage, bad = self._outage(name), self._watched[name].bad
        if outage is None and bad:
            return f"{len(bad)} of its versions are no good, see the log; the first: {next(iter(bad.values()))}"
        return outage

    def _outage(self, name: str) -> str | None:
        return self._keyring.backends[name].breaker.reason or self._watched[name].outage

    async def run(self) -> None:
        """Look at every backend for ever."""
        await asyncio.gather(*(self._watch(name) for name in self._keyring.backends))

    async def withdraw(self, withdrawn: bool = True) -> None:
        """Say that no backend answers, so that probes send nobody here; or look at them again."""
        self._withdrawn = withdrawn
        await self._report()

    async def _watch(self, name: str) -> None:
        runner = self._keyring.backends[name]
        while True:
            runner.troubled.clear()
            await self.look(name)
            try:
                async with asyncio.timeout(INTERVAL if self.answers(name) else RETRY):
                    await runner.troubled.wait()
            except TimeoutError:
                continue
            await self._report()

    async def look(self, name: str) -> bool:
        """Look at one backend now, mend and prove what waits for it, and return whether all is well."""
        runner, watched = self._keyring.backends[name], self._watched[name]
        before = watched.outage
        try:
            different = await self._compare(runner, watched)
            if runner.mend_wanted:
                await self._mend(name)
            await self._prove(runner, watched, different)
            watched.outage = None
        except OverloadedError as exc:  # too much to do is no news of the backend
            _log.info("backend not looked at", backend=name, error=str(exc))
        except Exception as exc:  # noqa: BLE001 - a defect must not end the watch
            watched.outage = str(exc) if isinstance(exc, KeydError) else f"unexpected {type(exc).__name__}"
            watched.proven.clear()
            self._outlooks[name].forget()
        if watched.outage is not None and watched.outage != before:
            _log.error("backend does not answer", backend=name, error=watched.outage)
        elif watched.outage is None and before is not None:
            _log.info("backend answers", backend=name)
        await self._report()
        return self.failure(name) is None

    async def _mend(self, name: str) -> None:
        try:
            await self._keyring.mend(name)
        except StoreUnavailableError as exc:  # signing goes on without the database
            _log.error("not mended, the next look tries again", backend=name, error=str(exc))

    async def _report(self) -> None:
        changed = False
        for name, watched in self._watched.items():
            answers = self.answers(name)
            changed |= answers is not watched.reported
            watched.reported = answers
        if changed:
            await self._on_change()

    async def _compare(self, runner: BackendRunner, watched: _Watched) -> set[str]:
        """Compare one public key with the record, another each time, and all that were no good.

        Returns the thumbprints of those that differ. Raises KeydError.
        """
        outlook = self._outlooks[runner.name]
        for count, _ in enumerate(outlook.catch_up(self._keyring.snapshot, self._keyring.clock.now()), 1):
            if outlook.found and not watched.looks and runner.backend.capabilities.in_process:
                break  # the start waits for this look; one key is enough to see whether the backend answers
            await others_turn(count)
        for name in [name for name in watched.unproven if name not in self._keyring.snapshot.keys]:
            del watched.unproven[name]  # the database lost it
        if not outlook.found:
            watched.bad.clear()
            await repair.stored_keys(runner)
            return set()
        watched.looks += 1
        turn = next(islice(outlook.found.values(), watched.looks % len(outlook.found), None))
        due = {version.record.thumbprint: (key, version) for key, version in self._needed(turn)}
        due |= self._bad(watched)
        different = set()
        for thumbprint, (key, version) in due.items():
            if not await self._judge(runner, watched, key, version, self._same(runner, version)):
                different.add(thumbprint)
        return different

    def _bad(self, watched: _Watched) -> dict[str, tuple[Key, VersionView]]:
        """Return the versions that were no good, by thumbprint, and forget those that are not needed any more."""
        needed = (pair for view in watched.unproven.values() for pair in self._needed(view)) if watched.bad else ()
        found = {version.record.thumbprint: (key, version) for key, version in needed if version.record.thumbprint in watched.bad}
        for thumbprint in watched.bad.keys() - found.keys():
            del watched.bad[thumbprint]
        return found

    async def _same(self, runner: BackendRunner, version: VersionView) -> None:
        assert version.record.handle is not None
        public_key = await runner.call(runner.backend.public_key, version.record.handle)
        if jwk.from_public_key(public_key)[1] != version.record.thumbprint:
            runner.distrust(version)
            raise BackendFailedError(
                f"backend {runner.name!r} holds another key than the recorded one for kid {version.record.kid!r}; "
                "restore the store, or compromise that version"
            )

    async def _prove(self, runner: BackendRunner, watched: _Watched, different: set[str]) -> None:
        """Have every version that has not yet, and is the recorded one, sign a probe. Raises KeydError.

        One after another, to leave room for callers.
        """
        in_process = runner.backend.capabilities.in_process
        for name, view in sorted(watched.unproven.items()):
            for key, version in self._needed(view):
                thumbprint = version.record.thumbprint
                if thumbprint in different or (thumbprint in watched.proven and thumbprint not in watched.bad):
                    continue
                # Inside of the process the first signature of each version is the proof, and is made when it is asked for.
                if in_process or await self._judge(runner, watched, key, version, runner.prove(version, key.algorithm)):
                    watched.bad.pop(thumbprint, None)
                    watched.proven.add(thumbprint)
            thumbprints = {version.record.thumbprint for _, version in self._needed(view)}
            if thumbprints <= watched.proven and thumbprints.isdisjoint(watched.bad) and watched.unproven.get(name) is view:
                del watched.unproven[name]

    async def _judge(
        self, runner: BackendRunner, watched: _Watched, key: Key, version: VersionView, test: Awaitable[None]
    ) -> bool:
        """Return whether a version stands a test, and note if not. Raises KeydError when it is the backend that does not."""
        thumbprint = version.record.thumbprint
        try:
            await test
        except KeydError as exc:
            if isinstance(exc, BackendRefusedError):
                await repair.stored_keys(runner)  # refused as well, it is not about this key
            elif isinstance(exc, BackendUnavailableError | OverloadedError):
                raise
            if watched.bad.get(thumbprint) != str(exc):
                _log.error("version no good", backend=runner.name, key=key.name, kid=version.record.kid, error=str(exc))
            watched.bad[thumbprint] = str(exc)
            view = self._keyring.snapshot.keys.get(key.name)
            if view is not None:  # else the database lost it meanwhile
                watched.unproven.setdefault(key.name, view)
            return False
        return True

    def _find(self, backend: str, view: KeyView, now: float) -> tuple[KeyView | None, float]:
        """Say whether a key has versions of this backend that sign or will sign, and until when these are the ones."""
        watched = self._watched[backend]
        watched.unproven.pop(view.key.name, None)
        if view.key.backend != backend:
            return None, inf
        needed = list(self._needed(view))
        if not needed:
            return None, view.next_change(now)
        in_process = self._keyring.backends[backend].backend.capabilities.in_process
        if not in_process or any(version.record.thumbprint in watched.bad for _, version in needed):
            watched.unproven[view.key.name] = view
        return view, view.next_change(now)

    def _needed(self, view: KeyView) -> Iterator[tuple[Key, VersionView]]:
        now = self._keyring.clock.now()
        for version in view.versions:
            state = version.record.timeline.state(now)
            if version.record.handle is not None and state in (KeyState.ACTIVE, KeyState.PRE_ACTIVATION):
                yield view.key, version
