"""Requests to Vault over pooled connections, HTTP, HTTPS or a Unix socket, each bounded by the deadline of the call under way.

urllib3 alone, because ``requests``, under hvac, costs more per call than the server's signature.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection

from backends import deadline
from backends._files import UnsafeFileError, read_private
from backends._vault_config import VaultConfig
from backends.errors import (
    BackendAccessError,
    BackendConfigError,
    BackendError,
    BackendThrottledError,
    BackendUnavailableError,
)

_CONNECTIONS = 64  # kept open; further calls wait for one, within their deadline
_QUOTED = 200  # characters of a server's words in a message
_UNAVAILABLE = {
    412: "is behind its leader",
    472: "is a disaster-recovery standby",
    473: "is a performance standby",
    501: "is not initialised",
    502: "is not reached by the proxy in front of it",
    503: "is sealed or not initialised; unseal it",
    504: "does not answer the proxy in front of it",
}


@dataclass(frozen=True, slots=True, repr=False)  # some replies hold tokens
class Reply:
    """An answer of the server that is about the request, and not about the state of the server."""

    status: int
    body: Mapping[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        """The payload, empty where there is none."""
        data = self.body.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def words(self) -> str:
        """What the server says is wrong, in one line."""
        errors = self.body.get("errors")
        text = " ".join(" ".join(str(error).split()) for error in errors) if isinstance(errors, list) else ""
        return "".join(character for character in text if character.isprintable())[:_QUOTED]

    @property
    def says_absent(self) -> bool:
        """True when the engine answers that it has no such thing. A missing mount or namespace answers in words."""
        return self.status == 404 and self.body.get("errors") == []


class Vault:
    """The server, as one address with its connections."""

    def __init__(self, config: VaultConfig) -> None:
        """Check the TLS files; contacts nobody. Raises BackendConfigError."""
        self._config = config
        self._headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if config.namespace is not None:
            self._headers["X-Vault-Namespace"] = config.namespace
        self._pool = self._connections()

    @property
    def address(self) -> str:
        """The configured address, for messages."""
        return self._config.address

    def send(self, method: str, path: str, body: object, token: str | None, *, repeatable: bool) -> Reply:
        """Send one request and return the answer.

        Args:
            method: an HTTP method, or ``LIST``.
            path: below ``/v1/``.
            body: anything that JSON has; None for no body.
            token: goes into ``X-Vault-Token``.
            repeatable: a request that may be sent again when a kept connection turns out to be dead.

        Raises:
            BackendUnavailableError: out of reach, sealed, or no answer in time.
            BackendThrottledError: a rate limit of the server.
            BackendAccessError: the server's certificate is not to be trusted.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = self._headers if token is None else {**self._headers, "X-Vault-Token": token}
        try:
            try:
                response = self._attempt(method, path, content, headers)
            except (exceptions.ProtocolError, exceptions.ClosedPoolError):
                if not repeatable:
                    raise
                response = self._attempt(method, path, content, headers)
        except exceptions.HTTPError as error:
            raise self._failure(error) from error
        return self._reply(response)

    def reconnect(self) -> None:
        """Read the TLS files again and go on over new connections; requests under way end on the old ones.

        Raises:
            BackendConfigError: a file is missing, damaged or too open.
        """
        old, self._pool = self._pool, self._connections()
        old.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _attempt(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        left = deadline.remaining(self._config.read_timeout)
        timeout = urllib3.Timeout(total=left, connect=min(left, self._config.connect_timeout), read=left)
        return self._pool.urlopen(
            method,
            f"/v1/{path}",
            body=content,
            headers=headers,
            retries=False,
            redirect=False,  # a token is not sent where a reply says
            assert_same_host=False,
            timeout=timeout,
            pool_timeout=left,  # type: ignore[arg-type]  # goes to Queue.get, which takes any number
        )

    def _reply(self, response: urllib3.BaseHTTPResponse) -> Reply:
        status = response.status
        try:
            body = json.loads(response.data) if response.data else {}
        except ValueError:
            body = {}
        if status == 429:
            raise BackendThrottledError(f"vault at {self.address} limits the rate of requests; raise its quota or sign less")
        if 300 <= status < 400:
            raise BackendUnavailableError(
                f"vault at {self.address} is a standby that redirects; give the address of the active node"
            )
        if status in _UNAVAILABLE:
            raise BackendUnavailableError(f"vault at {self.address} {_UNAVAILABLE[status]}")
        reply = Reply(status, body if isinstance(body, dict) else {})
        if status == 500 and "store is stopped" in reply.words:  # the rate limiter's, while a quota is changed or removed
            raise BackendThrottledError(f"vault at {self.address} is changing its rate limits")
        return reply

    def _failure(self, error: exceptions.HTTPError) -> BackendError:
        where = f"vault at {self.address}"
        if isinstance(error, exceptions.SSLError):
            if isinstance(error.__cause__ or error.args[0], ssl.SSLCertVerificationError):
                return BackendAccessError(f"{where} shows a certificate that does not check out; set ca_file to its issuer's")
            return BackendUnavailableError(
                f"{where} breaks off the TLS handshake; check that it serves TLS and takes the certificate"
            )
        if isinstance(error, exceptions.EmptyPoolError):
            return BackendUnavailableError(f"all {_CONNECTIONS} connections to {where} are waiting for answers")
        if isinstance(error, exceptions.NewConnectionError):  # a ConnectTimeoutError too, so it comes first
            return BackendUnavailableError(f"{where} cannot be reached; start it, or check the address")
        if isinstance(error, exceptions.TimeoutError):
            return BackendUnavailableError(f"{where} did not answer in time")
        if isinstance(error, exceptions.ProtocolError):
            return BackendUnavailableError(f"{where} broke the connection off before it answered")
        return BackendUnavailableError(f"{where} cannot be talked to ({type(error).__name__}); check the address")

    def _connections(self) -> urllib3.HTTPConnectionPool:
        parts = urlsplit(self._config.address)
        if parts.scheme == "unix":
            return _UnixPool(parts.path)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return urllib3.HTTPConnectionPool(host, parts.port or 80, maxsize=_CONNECTIONS, block=True)
        context = _tls(self._config.ca_file, self._config.client_certificate, self._config.client_key)
        return urllib3.HTTPSConnectionPool(host, parts.port or 443, maxsize=_CONNECTIONS, block=True, ssl_context=context)


def _tls(ca_file: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    except (OSError, ssl.SSLError) as error:
        raise BackendConfigError(
            f"cannot read certificates from {ca_file}; check that it is a PEM file that keyd may read"
        ) from error
    if certificate is None or key is None:
        return context
    try:
        read_private(key, max_size=64 * 1024)
        # An encrypted key would ask for its passphrase on the terminal.
        context.load_cert_chain(str(certificate), str(key), password=lambda: "")
    except UnsafeFileError as error:
        raise BackendConfigError(str(error)) from error
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BackendConfigError(
            f"cannot use {certificate} with {key}; check that they are PEM, belong together, and that the key is not encrypted"
        ) from error
    return context


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__("localhost", **options)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except TimeoutError as error:
            raise exceptions.ConnectTimeoutError(self, "no room in the socket's backlog") from error
        except OSError as error:
            raise exceptions.NewConnectionError(self, "cannot connect to the socket") from error


class _UnixPool(urllib3.HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=_CONNECTIONS, block=True)
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        self.num_connections += 1
        return _UnixConnection(self._path, timeout=self.timeout.connect_timeout)
