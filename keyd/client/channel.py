"""Opening channels to keyd, and the plain blocking call that the sync clients share."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc

from keyd.client.address import default_address, grpc_target
from keyd.client.calls import MAX_MESSAGE_BYTES
from keyd.client.retry import Attempts
from keyd.client.tls import RenewedChannel, TlsFiles, choose

Request = TypeVar("Request")
Response = TypeVar("Response")

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_retries", 0),  # the clients retry themselves, within one deadline
    ("grpc.enable_http_proxy", 0),  # a proxy named by the environment must not see what agents sign
    ("grpc.service_config_disable_resolution", 1),  # nor may DNS configure the client
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


class SyncChannel:
    """A channel to keyd for blocking calls, and a context manager that closes it.

    Args:
        address: ``unix:/path``, ``/path`` or ``host:port``; :func:`keyd.client.address.default_address` when None.
        timeout: seconds for one call, its retries included.
        retries: how often a call is tried again when keyd is UNAVAILABLE.
        tls: files for mutual TLS, which any address that is not on this machine needs; for TCP, those that the environment names
            by default (:meth:`keyd.client.TlsFiles.from_environment`).
        credentials: instead of ``tls``, what gRPC offers otherwise.

    Raises:
        ValueError: the address cannot be used, or not without TLS; or the files cannot.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        tls: TlsFiles | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._address = default_address() if address is None else address
        self._timeout = timeout
        self._retries = retries
        tls = choose(self._address, tls, credentials)
        target = grpc_target(self._address, secure=tls is not None or credentials is not None)
        self._channel: grpc.Channel
        if tls is not None:
            renewed = RenewedChannel(
                tls, lambda new: grpc.secure_channel(target, new, options=OPTIONS), lambda channel: channel.close()
            )
            self._channel = cast("grpc.Channel", renewed)
        elif credentials is not None:
            self._channel = grpc.secure_channel(target, credentials, options=OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, options=OPTIONS)

    def close(self) -> None:
        """Close the channel. Calls that are under way fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    def _call(self, method: Callable[..., Response], request: object, *, retries: int | None = None) -> Response:
        attempts = Attempts(self._timeout, self._retries if retries is None else retries, self._address)
        while True:
            try:
                return method(request, timeout=attempts.remaining())
            except grpc.RpcError as exc:
                time.sleep(attempts.pause_after(exc))
