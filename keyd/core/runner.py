"""Runs the blocking calls of a backend: in threads of its own, with a deadline, and never too many at once.

Every backend gets one runner, so that a hung HSM costs its own callers a timeout and nobody else anything.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog
from cryptography.exceptions import InvalidSignature

from backends import errors as backend_errors
from backends.api import Algorithm, Backend
from backends.encoding import verify_raw
from keyd.core import errors
from keyd.core.snapshot import VersionView

P = ParamSpec("P")
R = TypeVar("R")
_log = structlog.get_logger("keyd.backend")

_TRANSLATION: tuple[tuple[type[backend_errors.BackendError], type[errors.KeydError]], ...] = (
    (backend_errors.BackendThrottledError, errors.OverloadedError),
    (backend_errors.BackendUnavailableError, errors.BackendUnavailableError),
    (backend_errors.BackendFullError, errors.StorageFullError),
    (backend_errors.MessageTooLargeError, errors.SizeError),
    (backend_errors.UnsupportedAlgorithmError, errors.InvalidArgumentError),
    (backend_errors.InvalidKeyMaterialError, errors.InvalidArgumentError),
    (backend_errors.KeyNotFoundError, errors.NotFoundError),
    (backend_errors.KeyExistsError, errors.AlreadyExistsError),
    (backend_errors.BackendError, errors.BackendFailedError),
)


class BackendRunner:
    """The way to one configured backend."""

    def __init__(self, name: str, backend: Backend, *, threads: int = 8, max_waiting: int = 256, timeout: float = 10.0) -> None:
        self.name = name
        self.backend = backend
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"keyd-{name}")
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._under_way = 0
        self._lock = threading.Lock()  # the count goes down in the pool's threads

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a method of the backend in a thread and return what it returns.

        When the deadline passes, the caller is released; the thread is not, and keeps its place until it comes back.

        Raises:
            KeydError: what the backend raised, translated, with the backend's name in front.
            OverloadedError: too many calls are under way.
            BackendUnavailableError: no answer within the deadline.
        """
        if self._under_way >= self._max_waiting:
            raise errors.OverloadedError(f"backend {self.name!r} has {self._under_way} calls under way; try again later")
        with self._lock:
            self._under_way += 1
        future = self._pool.submit(function, *args, **kwargs)
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            future.cancel()
            raise errors.BackendUnavailableError(f"backend {self.name!r} did not answer within {self._timeout:g} s") from None
        except backend_errors.BackendError as exc:
            raise self._translated(exc) from exc

    def _done(self, _: Future[R]) -> None:
        with self._lock:
            self._under_way -= 1

    def _translated(self, exc: backend_errors.BackendError) -> errors.KeydError:
        target = next(target for source, target in _TRANSLATION if isinstance(exc, source))
        if target is errors.BackendFailedError:
            _log.error("backend failed", backend=self.name, error=str(exc))
        return target(f"backend {self.name!r}: {exc}", backend=self.name)

    async def sign(self, version: VersionView, algorithm: Algorithm, message: bytes) -> bytes:
        """Return a raw signature of ``message`` by this version, checked against the recorded public key where it came from outside.

        Raises:
            KeydError: as :meth:`call`.
            BackendFailedError: the signature does not verify; it is not passed on.
        """
        capabilities = self.backend.capabilities
        handle = version.record.handle
        if handle is None:
            raise errors.KeyStateError(f"the private key of {version.record.kid!r} is destroyed")
        limit = capabilities.max_message.get(algorithm)
        if limit is not None and len(message) > limit:
            raise errors.SizeError(
                f"backend {self.name!r} signs at most {limit} bytes with {algorithm.value}, got {len(message)}"
            )
        try:
            if algorithm in capabilities.inline:
                signature = self._inline(self.backend.sign, handle, algorithm, message)
            else:
                signature = await self.call(self.backend.sign, handle, algorithm, message)
        except errors.NotFoundError as exc:  # on record here, and not there: nothing that the caller could name right
            raise errors.BackendFailedError(f"{exc}; kid {version.record.kid!r} cannot sign until it is back") from exc
        if not capabilities.in_process:
            self.check(version, algorithm, message, signature)
        return signature

    def _inline(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except backend_errors.BackendError as exc:
            raise self._translated(exc) from exc

    def check(self, version: VersionView, algorithm: Algorithm, message: bytes, signature: bytes) -> None:
        """Verify a signature against the recorded public key. Raises BackendFailedError."""
        try:
            verify_raw(version.public_key, algorithm, signature, message)
        except InvalidSignature:
            _log.error("signature does not verify", backend=self.name, kid=version.record.kid)
            raise errors.BackendFailedError(
                f"backend {self.name!r} returned a signature that does not verify under kid {version.record.kid!r}; it was withheld"
            ) from None

    def close(self) -> None:
        """Close the backend once its threads are done with it."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.backend.close()
