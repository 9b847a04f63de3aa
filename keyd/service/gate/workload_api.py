"""Credentials from the SPIFFE Workload API: an agent on this machine issues the certificate, and says what to trust."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyd.service.gate.credentials import Credentials, CredentialsError, Material

if TYPE_CHECKING:
    from spiffe import WorkloadApiClient
    from spiffe.workloadapi.x509_context import X509Context

_PAUSE, _MAX_PAUSE = 1.0, 30.0  # seconds
_log = structlog.get_logger("keyd.tls")


class WorkloadApiCredentials(Credentials):
    """The default X509-SVID of this daemon, and the bundle of one trust domain.

    The bundle may be of the daemon's own trust domain or of one that it is federated with. Needs the package ``spiffe``, which waits
    in threads of its own; nothing of it runs in the event loop. An agent that is not there yet, or goes away, is waited for.

    Args:
        listener: its name, for the log.
        endpoint: of the agent, ``unix:/path``.
        trust_domain: whose bundle is used.
        clock: seconds since the epoch.

    Raises:
        CredentialsError: the package is not installed.
    """

    def __init__(self, listener: str, endpoint: str, trust_domain: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(listener, clock)
        try:
            import spiffe  # noqa: F401 - optional
        except ImportError:
            raise CredentialsError('workload_api needs the package spiffe; install "keyd[spiffe]"') from None
        self._endpoint = endpoint
        self._trust_domain = trust_domain
        self._said = ""
        self._updates = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect to the agent, and take over whatever it sends from then on."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        pause = _PAUSE
        while True:
            before = self._updates
            self._complain(await self._stream())
            pause = _PAUSE if self._updates > before else min(2 * pause, _MAX_PAUSE)
            await asyncio.sleep(pause)

    async def _stream(self) -> str:
        """Take over what the agent sends, until it ends. Returns why it ended."""
        from spiffe import WorkloadApiClient
        from spiffe.errors import PySpiffeError

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Exception] = loop.create_future()

        def post(function: Callable[..., object], *arguments: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed, the thread not yet
                loop.call_soon_threadsafe(function, *arguments)

        def end(error: Exception) -> None:
            if not ended.done():
                ended.set_result(error)

        try:
            client: WorkloadApiClient = await asyncio.to_thread(WorkloadApiClient, self._endpoint)
        except PySpiffeError as exc:
            return str(exc)
        # Its own retries are silent, and give up for good on an answer that it cannot parse.
        stream = client.stream_x509_contexts(
            lambda context: post(self._take, context), lambda error: post(end, error), retry_connect=False
        )
        try:
            return str(await ended)
        finally:
            stream.cancel()
            await asyncio.to_thread(client.close)

    def _take(self, context: X509Context) -> None:
        try:
            self.replace(self._material(context))
        except CredentialsError as exc:
            self._complain(str(exc))
        else:
            self._updates += 1
            self._said = ""

    def _material(self, context: X509Context) -> Material:
        from spiffe import TrustDomain

        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(self._trust_domain))
        if bundle is None:
            raise CredentialsError(
                f"the agent has no bundle of the trust domain {self._trust_domain}; federate with it, or correct trust_domain"
            )
        svid = context.default_svid
        return Material(
            chain=b"".join(each.public_bytes(Encoding.PEM) for each in svid.cert_chain),
            private_key=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            authorities=b"".join(each.public_bytes(Encoding.PEM) for each in bundle.x509_authorities),
        )

    def _complain(self, why: str) -> None:
        if why != self._said:
            self._said = why
            _log.error("no credentials from the Workload API", listener=self.listener, endpoint=self._endpoint, error=why)
