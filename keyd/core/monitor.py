"""Looks after the backends: whether each answers, whether it holds the recorded keys, and what repair waits for it.

A look costs one public key, or the list of keys where there is none. When a backend answers for the first time, and again
whenever it is back, every version that signs or will sign proves itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import structlog

from keyd.core import jwk, repair
from keyd.core.errors import BackendFailedError, KeydError
from keyd.core.keyring import Keyring
from keyd.core.model import Key
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import VersionView
from keyd.core.timeline import KeyState

INTERVAL = 30.0  # seconds between two looks at a sound backend
RETRY = 2.0  # at one that fails
_log = structlog.get_logger("keyd.monitor")


class Monitor:
    """The health of every backend, by name."""

    def __init__(self, keyring: Keyring, on_change: Callable[[], Awaitable[None]]) -> None:
        """``on_change`` is awaited whenever the answer of :meth:`failure` may have changed for any backend."""
        self._keyring = keyring
        self._on_change = on_change
        self._failures: dict[str, str] = {}
        self._to_prove = set(keyring.backends)
        self._looks = 0

    def failure(self, name: str) -> str | None:
        """Return what is wrong with a backend, for operators; None: nothing."""
        return self._keyring.backends[name].breaker.reason or self._failures.get(name)

    async def run(self) -> None:
        """Look at every backend for ever."""
        await asyncio.gather(*(self._watch(name) for name in self._keyring.backends))

    async def _watch(self, name: str) -> None:
        runner = self._keyring.backends[name]
        while True:
            sound = await self.look(name)
            runner.troubled.clear()
            try:
                async with asyncio.timeout(INTERVAL if sound else RETRY):
                    await runner.troubled.wait()
            except TimeoutError:
                continue
            await self._on_change()

    async def look(self, name: str) -> bool:
        """Look at one backend now, mend and prove what waits for it, and return whether it is sound."""
        runner, before = self._keyring.backends[name], self._failures.get(name)
        try:
            await self._ask(runner)
            if runner.mend_wanted:
                await self._keyring.mend(name)
            if name in self._to_prove:
                await self._prove_all(runner)
                self._to_prove.discard(name)
        except Exception as exc:  # noqa: BLE001 - a defect of a third party's backend must not end the watch
            self._failures[name] = str(exc) if isinstance(exc, KeydError) else f"unexpected {type(exc).__name__}"
            self._to_prove.add(name)
            if before is None:
                _log.error("backend not sound", backend=name, error=self._failures[name])
        else:
            if self._failures.pop(name, None) is not None:
                _log.info("backend sound again", backend=name)
        if self._failures.get(name) != before:
            await self._on_change()
        return self.failure(name) is None

    async def _ask(self, runner: BackendRunner) -> None:
        """Compare one public key with the record, another each time. Raises KeydError."""
        versions = list(self._needed(runner))
        if not versions:
            await repair.stored_keys(runner)
            return
        self._looks += 1
        _, version = versions[self._looks % len(versions)]
        assert version.record.handle is not None
        public_key = await runner.call(runner.backend.public_key, version.record.handle)
        if jwk.from_public_key(public_key)[1] != version.record.thumbprint:
            raise BackendFailedError(
                f"backend {runner.name!r} holds another key than the recorded one for kid {version.record.kid!r}; "
                "restore the store, or compromise that version"
            )

    async def _prove_all(self, runner: BackendRunner) -> None:
        """Have every version that is needed sign a probe; one after another, to leave room for callers. Raises KeydError."""
        if runner.backend.capabilities.in_process:
            return  # there the first signature of each version is the proof
        failed: list[KeydError] = []
        for key, version in self._needed(runner):
            try:
                await runner.prove(version, key.algorithm)
            except BackendFailedError as exc:
                _log.error("self-test failed", backend=runner.name, key=key.name, kid=version.record.kid, error=str(exc))
                failed.append(exc)
        if failed:
            raise BackendFailedError(
                f"backend {runner.name!r}: {len(failed)} versions fail their self-test; the first: {failed[0]}"
            )

    def _needed(self, runner: BackendRunner) -> Iterator[tuple[Key, VersionView]]:
        now = self._keyring.clock.now()
        for view in self._keyring.snapshot.keys.values():
            if view.key.backend == runner.name:
                for version in view.versions:
                    state = version.record.timeline.state(now)
                    if version.record.handle is not None and state in (KeyState.ACTIVE, KeyState.PRE_ACTIVATION):
                        yield view.key, version
