"""The files with which an agent on another machine proves who it is, and channels that follow when they are renewed."""

from __future__ import annotations

import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import grpc

from keyd.client.address import is_unix

_LOOK_INTERVAL = 1.0  # seconds
_KEPT = 5


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files for mutual TLS. They may be replaced at any time, as SPIFFE helpers and ACME clients do.

    Attributes:
        certificate: what keyd knows the caller by, then the certificates between it and its root.
        private_key: its key, unencrypted.
        ca: the authorities of keyd's own certificate, whose DNS name must be the address's; None for those that gRPC brings along.
    """

    certificate: str | os.PathLike[str]
    private_key: str | os.PathLike[str]
    ca: str | os.PathLike[str] | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> TlsFiles | None:
        """Return the files of ``$KEYD_CERTIFICATE``, ``$KEYD_PRIVATE_KEY`` and ``$KEYD_CA``; None when there is no certificate.

        Raises:
            ValueError: there is a certificate without a key, or the other way round, or authorities without both.
        """
        environ = os.environ if environ is None else environ
        return cls.from_options(environ.get("KEYD_CERTIFICATE"), environ.get("KEYD_PRIVATE_KEY"), environ.get("KEYD_CA"))

    @classmethod
    def from_options(cls, certificate: str | None, private_key: str | None, ca: str | None) -> TlsFiles | None:
        """Return the files; None when neither of the first two is there. Raises as :meth:`from_environment`."""
        if bool(certificate) != bool(private_key):
            raise ValueError("a certificate and its private key go together: KEYD_CERTIFICATE and KEYD_PRIVATE_KEY")
        if ca and not certificate:  # to loopback, it would be plaintext
            raise ValueError(
                "KEYD_CA is for TLS, which takes KEYD_CERTIFICATE and KEYD_PRIVATE_KEY too; set them, or leave it out"
            )
        return cls(certificate, private_key, ca or None) if certificate and private_key else None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what they are now.

        Raises:
            ValueError: they cannot be read, or do not fit each other. The message names the file.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_cert_chain(self.certificate, self.private_key, password=b"")
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            raise ValueError(
                f"certificate {os.fspath(self.certificate)} with private key {os.fspath(self.private_key)}: {_reason(exc)}"
            ) from exc
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ValueError) as exc:
            raise ValueError(f"authorities {os.fspath(self.ca or '')}: {_reason(exc)}") from exc
        root = None if self.ca is None else Path(self.ca).read_bytes()
        return grpc.ssl_channel_credentials(root, Path(self.private_key).read_bytes(), Path(self.certificate).read_bytes())

    def stamp(self) -> object:
        """Return something that differs when a file has been replaced."""
        return [_stamp(Path(path)) for path in (self.certificate, self.private_key, self.ca) if path is not None]


def choose(address: str, tls: TlsFiles | None, credentials: grpc.ChannelCredentials | None) -> TlsFiles | None:
    """Return the files for a connection: ``tls``, else for TCP those that the environment names, unless there are ``credentials``.

    Raises:
        ValueError: there are both, or the environment names half of them.
    """
    if tls is not None and credentials is not None:
        raise ValueError("pass tls or credentials, not both")
    if tls is not None or credentials is not None or is_unix(address):
        return tls
    return TlsFiles.from_environment()


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as exc:
        return exc.errno
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class _Methods(Protocol):
    """What a channel of grpc and one of grpc.aio have in common."""

    def unary_unary(self, *arguments: Any, **options: Any) -> Any: ...
    def unary_stream(self, *arguments: Any, **options: Any) -> Any: ...
    def stream_stream(self, *arguments: Any, **options: Any) -> Any: ...


C = TypeVar("C", bound=_Methods)
D = TypeVar("D")


class RenewedChannel(Generic[C, D]):
    """A channel whose new calls go out with the files of today. gRPC itself reads them once.

    Calls that are under way stay on the channel that they began on. A few replaced ones are kept for streams, which keyd ends after
    its ``max_connection_age`` anyway.

    Args:
        files: looked at once a second, when there is a call.
        open_channel: opens a channel with credentials.
        close_channel: closes one.
    """

    def __init__(
        self,
        files: TlsFiles,
        open_channel: Callable[[grpc.ChannelCredentials], C],
        close_channel: Callable[[C], D],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError when the files cannot be used."""
        self._files = files
        self._open = open_channel
        self._close = close_channel
        self._monotonic = monotonic
        self._closing: D | None = None
        self._looked = monotonic()
        self._stamp = files.stamp()
        self._channels: deque[C] = deque([open_channel(files.credentials())])

    def current(self) -> C:
        """Return the channel for a new call."""
        now = self._monotonic()
        if now - self._looked >= _LOOK_INTERVAL:
            self._looked = now
            stamp = self._files.stamp()
            if stamp != self._stamp:
                self._renew(stamp)
        return self._channels[-1]

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """As the channel's."""
        return _Method(self, lambda channel: channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """As the channel's."""
        return _Method(self, lambda channel: channel.unary_stream(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """As the channel's."""
        return _Method(self, lambda channel: channel.stream_stream(*arguments, **options))

    def close(self) -> list[D]:
        """Close all channels. Returns what closing each of them returned."""
        return [self._close(channel) for channel in self._channels]

    def _renew(self, stamp: object) -> None:
        try:
            channel = self._open(self._files.credentials())
        except (ValueError, OSError):
            return  # in the middle of a renewal; looked at again in a second
        self._stamp = stamp
        self._channels.append(channel)
        if len(self._channels) > _KEPT:
            self._closing = self._close(self._channels.popleft())  # where that is a task, it has to be held


class _Method(Generic[C]):
    """One method of a service, on the channel of today."""

    def __init__(self, channel: RenewedChannel[C, Any], method: Callable[[C], Any]) -> None:
        self._channel = channel
        self._make = method
        self._made_for: C | None = None
        self._method: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        channel = self._channel.current()
        if channel is not self._made_for:
            self._method, self._made_for = self._make(channel), channel
        return self._method(*arguments, **options)
