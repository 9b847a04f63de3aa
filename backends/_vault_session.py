"""Keeps a token that the server honours, and makes requests with it.

A thread renews the token at two thirds of its lease. It is a thread, and not the next caller, because a daemon may have nothing
to sign for longer than a lease, and a token that was handed to keyd cannot be got again once it has lapsed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from backends import deadline
from backends._vault_http import Reply, Vault
from backends._vault_login import Grant, Login, fingerprint, is_honoured, renewed
from backends.errors import BackendAccessError, BackendConfigError, BackendError, BackendUnavailableError
from backends.secrets import Secret

_log = logging.getLogger("keyd.backends.vault")

_RENEW_AT = 2 / 3  # of the lease
_CAPPED = 0.9  # of the lease; a renewal that grants less is held back by the token's greatest lifetime
_MIN_WAIT = 1.0  # seconds between two renewals
_LOOK_AGAIN = 30.0  # seconds after which a credential that something else may replace is looked at
_KNOWN_GOOD = 5.0  # seconds for which a token that was just seen to be good is not asked about again
_LOGIN_WAIT = 30.0  # seconds for which a call without a deadline waits for another's login
#: First and longest pause after a failed login, in seconds. A refused credential is not tried often: servers lock out who does.
_PAUSE_REFUSED = (1.0, 60.0)
_PAUSE_UNAVAILABLE = (0.1, 1.0)


class _Failure:
    """The last login, if it failed."""

    def __init__(self, error: BackendError, credential: bytes | None, before: _Failure | None) -> None:
        self.error = error
        self.credential = credential
        first, longest = _PAUSE_UNAVAILABLE if isinstance(error, BackendUnavailableError) else _PAUSE_REFUSED
        same = before is not None and type(before.error) is type(error) and before.credential == credential
        self.pause: float = min(longest, before.pause * 2) if same and before is not None else first
        self.until = time.monotonic() + self.pause


class Session:
    """Requests with a token, whatever it takes to have one."""

    def __init__(self, backend: str, vault: Vault, login: Login) -> None:
        """Start the thread that logs in and renews. Contacts nobody itself."""
        self._backend = backend
        self._vault = vault
        self._login = login
        self._grant: Grant | None = None
        self._renew_at: float | None = None
        self._failure: _Failure | None = None
        self._seen_good: tuple[str, float] = ("", 0.0)
        # Held while one thread logs in, or finds out whether that is needed; the others wait for what it gets.
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._keep, name="keyd-vault-token", daemon=True)
        self._thread.start()

    def call(self, method: str, path: str, body: object = None, *, repeatable: bool) -> Reply:
        """Send a request with the token; once again with another if the server knows the first no more.

        Raises:
            BackendAccessError: the server refuses the credential, or the token's policy denies the request.
            BackendUnavailableError: as :meth:`backends._vault_http.Vault.send`.
        """
        grant = self._grant or self._log_in(None)
        reply = self._vault.send(method, path, body, grant.token, repeatable=repeatable)
        if reply.status != 403:
            return reply
        grant = self._another(grant, f"{method} {path}")
        reply = self._vault.send(method, path, body, grant.token, repeatable=repeatable)
        if reply.status == 403:
            self._seen_good = (grant.token, time.monotonic() + _KNOWN_GOOD)
            raise _denied(f"{method} {path}")
        return reply

    def close(self) -> None:
        """End the thread and forget the token."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5)
        self._grant = None

    def _another(self, refused: Grant, request: str) -> Grant:
        """Return another token than the refused one, if that is what was wrong."""
        current = self._grant
        if current is not None and current is not refused and current.token != refused.token:
            return current
        self._raise_if_good(refused, request)
        with self._one_at_a_time():
            current = self._grant
            if current is not None and current.token != refused.token:
                return current
            self._raise_if_good(refused, request)
            if current is not None and self._is_current(refused) and is_honoured(self._vault, refused.token):
                self._seen_good = (refused.token, time.monotonic() + _KNOWN_GOOD)
                raise _denied(request)
            self._grant = None
            return self._exchange()

    def _raise_if_good(self, grant: Grant, request: str) -> None:
        token, until = self._seen_good
        if token == grant.token and time.monotonic() < until:
            raise _denied(request)

    def _is_current(self, grant: Grant) -> bool:
        """Say whether a token was got with the credential that there is now."""
        try:
            return fingerprint(self._read()) == grant.fingerprint
        except BackendError:
            return True  # there is no other

    def _log_in(self, replacing: Grant | None) -> Grant:
        with self._one_at_a_time():
            current = self._grant
            if current is not None and current is not replacing:
                return current
            return self._exchange()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=deadline.remaining(_LOGIN_WAIT)):
            raise BackendUnavailableError(f"vault at {self._vault.address} has not answered a login yet")
        try:
            yield
        finally:
            self._lock.release()

    def _exchange(self) -> Grant:
        """Log in. The caller holds the lock."""
        failure, credential = self._failure, None
        try:
            secret = self._read()
            credential = fingerprint(secret)
            if failure is not None and failure.credential == credential and time.monotonic() < failure.until:
                raise type(failure.error)(str(failure.error))
            grant = self._login.exchange(secret)
        except BackendError as error:
            if failure is None or time.monotonic() >= failure.until or failure.credential != credential:
                self._fail(error, credential)
            raise
        if failure is not None:
            _log.info("backend %s has a token again", self._backend)
        self._failure = None
        self._take(grant)
        return grant

    def _read(self) -> Secret:
        try:
            return self._login.read()
        except BackendConfigError as error:  # was there at the start
            raise BackendAccessError(str(error)) from error

    def _fail(self, error: BackendError, credential: bytes | None) -> None:
        if self._failure is None or type(self._failure.error) is not type(error):
            _log.warning("backend %s has no token: %s", self._backend, error)
        self._failure = _Failure(error, credential, self._failure)

    def _take(self, grant: Grant) -> None:
        wait = max(_MIN_WAIT, grant.lease * _RENEW_AT) if grant.lease > 0 else None
        with self._changed:
            self._grant = grant
            self._renew_at = time.monotonic() + wait if wait is not None else None
            self._changed.notify_all()

    def _keep(self) -> None:
        """Log in at once, since a wrapped secret_id does not keep, and again and again keep the token alive."""
        while True:
            try:
                self._tend()
            except BackendError as error:
                _log.debug("backend %s: token not renewed: %s", self._backend, error)
            except Exception as error:  # noqa: BLE001 - without this thread the token ends
                _log.error("backend %s: token not renewed, unexpected %s", self._backend, type(error).__name__)
            with self._changed:
                if not self._closed:
                    self._changed.wait(self._until_next())
                if self._closed:
                    return

    def _until_next(self) -> float:
        now = time.monotonic()
        if self._grant is None:
            failure = self._failure
            return max(_MIN_WAIT, failure.until - now) if failure is not None else _MIN_WAIT
        return _LOOK_AGAIN if self._renew_at is None else min(_LOOK_AGAIN, max(0.0, self._renew_at - now))

    def _tend(self) -> None:
        grant = self._grant
        if grant is None:
            self._log_in(None)
        elif not self._is_current(grant):
            self._log_in(grant)
        elif self._renew_at is not None and time.monotonic() >= self._renew_at:
            self._renew(grant)

    def _renew(self, grant: Grant) -> None:
        self._renew_at = time.monotonic() + _MIN_WAIT  # unless it works out
        longer = renewed(self._vault, grant) if grant.renewable else None
        if longer is not None and longer.lease >= grant.lease * _CAPPED:
            with self._one_at_a_time():
                if self._grant is grant:
                    self._take(replace(longer, lease=max(longer.lease, grant.lease)))
            return
        # Near its greatest lifetime a token is renewed for less and less: time for another, while this one still serves.
        if self._log_in(grant).token == grant.token:
            _log.warning("backend %s: the token ends soon and cannot be renewed; put another in its place", self._backend)


def _denied(request: str) -> BackendAccessError:
    return BackendAccessError(
        f"the policy of keyd's token denies {request}; install what `keyd backend policy` prints for this backend"
    )
