"""Runs the blocking calls of a backend: in threads of its own, with a deadline, and never too many at once.

Every backend gets one runner, so that a hung HSM costs its own callers a timeout and nobody else anything.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import structlog
from cryptography.exceptions import InvalidSignature

from backends import deadline
from backends import errors as backend_errors
from backends.api import Algorithm, Backend
from backends.encoding import verify_raw
from keyd.core import errors
from keyd.core.breaker import Breaker
from keyd.core.mailbox import Mailbox
from keyd.core.snapshot import VersionView

P = ParamSpec("P")
R = TypeVar("R")
_log = structlog.get_logger("keyd.backend")
#: Names of the threads that run backends begin so.
THREAD_PREFIX = "keyd-backend-"
_PROBE = b'"keyd": a probe, to see that this key signs'

_TRANSLATION: tuple[tuple[type[backend_errors.BackendError], type[errors.KeydError]], ...] = (
    (backend_errors.BackendThrottledError, errors.OverloadedError),
    (backend_errors.BackendUnavailableError, errors.BackendUnavailableError),
    (backend_errors.BackendAccessError, errors.BackendRefusedError),
    (backend_errors.BackendFullError, errors.StorageFullError),
    (backend_errors.MessageSizeError, errors.SizeError),
    (backend_errors.UnsupportedAlgorithmError, errors.InvalidArgumentError),
    (backend_errors.InvalidKeyMaterialError, errors.InvalidArgumentError),
    (backend_errors.KeyNotFoundError, errors.NotFoundError),
    (backend_errors.KeyExistsError, errors.AlreadyExistsError),
    (backend_errors.DestructionPendingError, errors.DestructionPendingError),
    (backend_errors.BackendError, errors.BackendFailedError),
)
#: A call that was given this many seconds and failed tells something of the backend; a shorter one only of its caller.
_EVIDENCE = 1.0
#: What only an operator can mend, and so belongs in the log each time.
_FOR_OPERATORS = (backend_errors.BackendAccessError, backend_errors.BackendConfigError, backend_errors.BackendIntegrityError)


@dataclass(frozen=True)
class Limits:
    """How far one backend may hold up its callers. Periods in seconds."""

    #: For a signature; the caller's own deadline holds where it is shorter.
    timeout: float = 4.0
    #: For everything that operators ask for: HSMs can take long to make an RSA key.
    admin_timeout: float = 25.0
    #: Calls at one time.
    threads: int = 8
    #: Calls at one time and those that wait, beyond which further ones are refused.
    max_waiting: int = 256


class _ExpiredError(Exception):
    """Nobody waits any longer."""


def _expire(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_exception(_ExpiredError())


class BackendRunner:
    """The way to one configured backend."""

    def __init__(
        self, name: str, backend: Backend, limits: Limits | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.backend = backend
        self.limits = limits or Limits()
        self.breaker = Breaker(monotonic)
        self._pool = ThreadPoolExecutor(self.limits.threads, thread_name_prefix=THREAD_PREFIX + name)
        self._mailbox = Mailbox()
        self._under_way = 0
        self._answered = 0
        self._idle = threading.Condition()  # the count goes down in the pool's threads
        self._proved: set[str] = set()
        self._inline = 0  # signatures on the event loop, and those in threads
        self._threaded = 0
        self._counting = threading.Lock()
        #: True while repair has, or may have, something to do in the store: always before its first answer.
        self.mend_wanted = True
        #: Set when the breaker opens.
        self.troubled = asyncio.Event()

    @property
    def signatures(self) -> int:
        """Signatures that the backend was asked for, probes among them."""
        return self._inline + self._threaded

    @property
    def under_way(self) -> int:
        """How many calls are at work or wait for a thread, those that nobody waits for any more among them."""
        return self._under_way

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a method of the backend in a thread, for an operator, and return what it returns. Raises as :meth:`run`."""
        return await self.run(self.limits.admin_timeout, function, *args, **kwargs)

    async def run(self, within: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a method of the backend in a thread and return what it returns.

        When ``within`` seconds have passed, the caller is released; the thread is not, and keeps its place until it comes back.

        Raises:
            KeydError: what the backend raised, translated, with the backend's name in front.
            OverloadedError: too many calls are under way.
            BackendUnavailableError: no answer within the deadline, or none to the calls before.
        """
        if not self.breaker.admits(patient=self._is_evidence(within)):
            raise errors.BackendUnavailableError(
                f"backend {self.name!r} does not answer ({self.breaker.reason}); try again later"
            )
        if self._under_way >= self.limits.max_waiting:
            raise errors.OverloadedError(f"backend {self.name!r} has {self._under_way} calls under way; try again later")
        answered = self._answered
        try:
            result = await self._in_thread(within, lambda: function(*args, **kwargs))
        except _ExpiredError:
            if self._answered == answered:  # else it is not away, only slow for so many
                self._failed(f"no answer within {within:.3g} s", within)
            raise errors.BackendUnavailableError(f"backend {self.name!r} did not answer within {within:.3g} s") from None
        except (InvalidSignature, errors.KeydError):
            raise
        except Exception as exc:
            raise self._translated(exc, within) from exc
        self._answered += 1
        if self.breaker.succeeded():
            _log.info("backend answers again", backend=self.name)
        return result

    async def _in_thread(self, within: float, call: Callable[[], R]) -> R:
        """Run a call in a thread and return or raise as it does. Raises _ExpiredError after ``within`` seconds."""
        loop, end, given_up = asyncio.get_running_loop(), time.monotonic() + within, threading.Event()
        waiter: asyncio.Future[R] = loop.create_future()

        def work() -> None:
            if given_up.is_set():  # while it waited for a thread
                return
            try:
                with deadline.within(end - time.monotonic()):
                    result = call()
            except BaseException as exc:  # noqa: BLE001 - it is raised where it is waited for
                self._mailbox.post(waiter, None, exc)
            else:
                self._mailbox.post(waiter, result, None)

        self._submit(work)
        timer = loop.call_later(within, _expire, waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            given_up.set()

    def _submit(self, work: Callable[[], None]) -> None:
        """Hand ``work`` to a thread. It counts as under way until it is done, even if nobody waits for it any more."""
        try:
            future = self._pool.submit(work)
        except RuntimeError as exc:
            raise errors.BackendUnavailableError(f"backend {self.name!r} is being closed") from exc
        with self._idle:
            self._under_way += 1
        future.add_done_callback(self._done)

    def _is_evidence(self, within: float) -> bool:
        return within >= min(_EVIDENCE, self.limits.timeout)

    def _done(self, _: Future[None]) -> None:
        with self._idle:
            self._under_way -= 1
            self._idle.notify_all()

    def _failed(self, reason: str, within: float) -> None:
        if not self._is_evidence(within):
            return  # else callers in a hurry could shut everybody else out
        if self.breaker.failed(reason):
            self.troubled.set()
            _log.error("backend does not answer, calls are refused until it does", backend=self.name, error=reason)

    def _translated(self, exc: Exception, within: float) -> errors.KeydError:
        """Return what to raise for what a backend raised."""
        if not isinstance(exc, backend_errors.BackendError):  # a defect, and nobody has checked its message for secrets
            _log.error("backend raised what it must not", backend=self.name, error=type(exc).__name__, exc_info=exc)
            return errors.BackendFailedError(f"backend {self.name!r} failed unexpectedly ({type(exc).__name__})")
        target = next(target for source, target in _TRANSLATION if isinstance(exc, source))
        throttled = isinstance(exc, backend_errors.BackendThrottledError)
        if throttled or not isinstance(exc, backend_errors.BackendUnavailableError):  # that is an answer, too
            self._answered += 1
            self.breaker.succeeded()
        else:
            self._failed(str(exc), within)
        if target is errors.BackendFailedError or isinstance(exc, _FOR_OPERATORS):
            _log.error("backend failed", backend=self.name, error=str(exc))
        return target(f"backend {self.name!r}: {exc}", backend=self.name)

    def signs_inline(self, algorithm: Algorithm) -> bool:
        """Say whether :meth:`sign_inline` may be called: the backend signs with this algorithm without waiting for anything."""
        return algorithm in self.backend.capabilities.inline

    def sign_inline(self, version: VersionView, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign as :meth:`sign` does, at once and on the event loop. Raises as that."""
        handle = version.record.handle
        if handle is None:
            raise errors.KeyStateError(f"the private key of {version.record.kid!r} is destroyed")
        self._check_size(algorithm, len(message))
        try:
            return self._sign_inline(version, handle, algorithm, message)
        except (errors.NotFoundError, InvalidSignature) as exc:
            raise self._wrong(version, exc) from exc

    async def sign(self, version: VersionView, algorithm: Algorithm, message: bytes, within: float | None = None) -> bytes:
        """Return a raw signature of ``message`` by this version.

        It is checked against the recorded public key: always where it came from outside of this process, else the first time.
        ``within`` is what the caller has left, in seconds.

        Raises:
            KeydError: as :meth:`run`.
            BackendFailedError: the signature does not verify; it is not passed on.
        """
        if self.signs_inline(algorithm):
            return self.sign_inline(version, algorithm, message)
        handle = version.record.handle
        if handle is None:
            raise errors.KeyStateError(f"the private key of {version.record.kid!r} is destroyed")
        self._check_size(algorithm, len(message))
        try:
            seconds = self.limits.timeout if within is None else min(within, self.limits.timeout)
            return await self.run(seconds, self._sign_checked, version, handle, algorithm, message)
        except (errors.NotFoundError, InvalidSignature) as exc:
            raise self._wrong(version, exc) from exc

    async def prove(self, version: VersionView, algorithm: Algorithm) -> None:
        """Have the version sign a probe, and verify that. Raises KeydError as :meth:`sign`, in an operator's time."""
        handle = version.record.handle
        if handle is None:
            raise errors.KeyStateError(f"the private key of {version.record.kid!r} is destroyed")
        self.distrust(version)
        try:
            await self.call(self._sign_checked, version, handle, algorithm, _PROBE)
        except (errors.NotFoundError, InvalidSignature) as exc:
            raise self._wrong(version, exc) from exc

    def distrust(self, version: VersionView) -> None:
        """Verify the next signature of this version even where that is usually done once."""
        self._proved.discard(version.record.thumbprint)

    def _wrong(self, version: VersionView, exc: Exception) -> errors.BackendFailedError:
        """Return what to raise when the backend does not do what it did for the recorded version. It is no fault of the caller's."""
        kid = version.record.kid
        if isinstance(exc, errors.NotFoundError):
            return errors.BackendFailedError(f"{exc}; kid {kid!r} cannot sign until it is back")
        _log.error("signature does not verify", backend=self.name, kid=kid)
        return errors.BackendFailedError(
            f"backend {self.name!r} returned a signature that does not verify under kid {kid!r}; it was withheld"
        )

    def _check_size(self, algorithm: Algorithm, size: int) -> None:
        capabilities = self.backend.capabilities
        if not capabilities.min_message and not capabilities.max_message:
            return
        least = capabilities.min_message.get(algorithm, 0)
        most = capabilities.max_message.get(algorithm)
        if size < least or (most is not None and size > most):
            raise errors.SizeError(
                f"backend {self.name!r} signs {least} to {most if most is not None else 'any number of'} bytes with "
                f"{algorithm.value}, got {size}"
            )

    def _sign_inline(self, version: VersionView, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        self._inline += 1
        try:
            signature = self.backend.sign(handle, algorithm, message)
            if version.record.thumbprint not in self._proved or not self.backend.capabilities.in_process:
                self._check(version, algorithm, signature, message)
            return signature
        except InvalidSignature:
            raise
        except Exception as exc:
            raise self._translated(exc, self.limits.timeout) from exc

    def _sign_checked(self, version: VersionView, handle: str, algorithm: Algorithm, message: bytes) -> bytes:
        """Sign and verify in the same thread: a verification costs as much as a signature. Raises InvalidSignature."""
        with self._counting:
            self._threaded += 1
        signature = self.backend.sign(handle, algorithm, message)
        if not self.backend.capabilities.in_process or version.record.thumbprint not in self._proved:
            self._check(version, algorithm, signature, message)
        return signature

    def _check(self, version: VersionView, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
        verify_raw(version.public_key, algorithm, signature, message)
        self._proved.add(version.record.thumbprint)

    def close(self, grace: float = 2.0) -> bool:
        """Close the backend once its threads are done with it.

        Returns False when some are not after ``grace`` seconds: then it is left open, and the process must end without them.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._idle:
            if not self._idle.wait_for(lambda: self._under_way == 0, grace):
                _log.error("backend left open, its calls do not come back", backend=self.name, calls=self._under_way)
                return False
        self.backend.close()
        return True
