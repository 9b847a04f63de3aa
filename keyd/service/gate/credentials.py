"""What a TLS listener shows, and whom it trusts: loaded whole or not at all, and replaced while the daemon runs."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from backends._files import UnsafeFileError, read_private
from keyd.process import ProcessError

_MAX_SIZE = 1024 * 1024
_LOOK_INTERVAL = 1.0  # seconds
#: The last week of a certificate, or the last quarter of one that does not live for a month.
_WARN_BEFORE, _WARN_PART = 7 * 86400.0, 0.25
_WARN_INTERVAL = 86400.0
_log = structlog.get_logger("keyd.tls")


class CredentialsError(ProcessError):
    """A certificate, private key or trust bundle cannot be used. The message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Material:
    """The parts, in PEM.

    Attributes:
        chain: the listener's certificate, then those that lead to its root.
        private_key: unencrypted.
        authorities: the trust bundle. Each is trusted for itself, whether or not it is signed by another.
    """

    chain: bytes
    private_key: bytes = field(repr=False)
    authorities: bytes


class Credentials:
    """The credentials of one listener. The base of those from files and from the Workload API.

    Args:
        listener: its name, for the log.
        clock: seconds since the epoch.
    """

    def __init__(self, listener: str, clock: Callable[[], float] = time.time) -> None:
        self.listener = listener
        self._clock = clock
        self._context: ssl.SSLContext | None = None
        self._expires = self._warn_from = 0.0
        self._warned = -_WARN_INTERVAL

    def context(self) -> ssl.SSLContext | None:
        """Return what the next handshake uses; None: there is nothing yet."""
        return self._context

    def refresh(self) -> None:
        """Look now whether there is something new, and warn, once a day, of what expires soon."""
        now = self._clock()
        if self._context is None or now < self._warn_from or now - self._warned < _WARN_INTERVAL:
            return
        self._warned = now
        left = self._expires - now
        if left > 0:
            _log.warning("the certificate expires soon", listener=self.listener, expires=_time(self._expires))
        else:
            _log.error("the certificate has expired, clients refuse it", listener=self.listener, expires=_time(self._expires))

    def close(self) -> None:
        """Forget the credentials."""
        self._context = None

    def replace(self, material: Material) -> None:
        """Take over these.

        Raises:
            CredentialsError: they cannot be used; then nothing has changed.
        """
        self._context, leaf = server_context(material, self._clock())
        self._expires = leaf.not_valid_after_utc.timestamp()
        lifetime = self._expires - leaf.not_valid_before_utc.timestamp()
        self._warn_from = self._expires - min(_WARN_BEFORE, lifetime * _WARN_PART)
        self._warned = -_WARN_INTERVAL
        _log.info("certificate taken over", listener=self.listener, expires=_time(self._expires))


class FileCredentials(Credentials):
    """From files, which are read again when one of them has changed.

    The three are looked at, at most once a second, when a client connects. A pair that does not fit is what one sees in the middle
    of a renewal, so the old credentials stay until the new ones are whole.
    """

    def __init__(
        self,
        listener: str,
        certificate: Path,
        private_key: Path,
        client_ca: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the files. Raises CredentialsError."""
        super().__init__(listener, clock)
        self._paths = (certificate, private_key, client_ca)
        self._monotonic = monotonic
        self._looked = monotonic()
        self._stamps = self._look()
        self.replace(self._read())

    def context(self) -> ssl.SSLContext | None:
        """Return what the next handshake uses, from new files if there are."""
        if self._monotonic() - self._looked >= _LOOK_INTERVAL:
            self._reload()
        return self._context

    def refresh(self) -> None:
        """Look now whether the files have changed."""
        self._reload()
        super().refresh()

    def _reload(self) -> None:
        self._looked = self._monotonic()
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps  # what cannot be loaded is said once
        try:
            self.replace(self._read())
        except CredentialsError as exc:
            _log.error("credentials not taken over, the old ones stay", listener=self.listener, error=str(exc))

    def _look(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in self._paths)

    def _read(self) -> Material:
        certificate, private_key, client_ca = self._paths
        # Who could write the bundle could be anybody, so that it has an owner as well.
        return Material(
            chain=_read(certificate, 0o022), private_key=_read(private_key, 0o077), authorities=_read(client_ca, 0o022)
        )


def server_context(material: Material, now: float) -> tuple[ssl.SSLContext, x509.Certificate]:
    """Return a context for TLS 1.3 with client certificates, and its own certificate.

    Args:
        material: what to load.
        now: seconds since the epoch.

    Raises:
        CredentialsError: a part is malformed, the key is another certificate's, or what is needed has expired.
    """
    chain = _certificates(material.chain, "the certificate")
    leaf = chain[0]
    expires = leaf.not_valid_after_utc.timestamp()
    if expires <= now:
        raise CredentialsError(f"the certificate has expired at {_time(expires)}; renew it")
    _check_key(leaf, material.private_key)
    authorities = _authorities(material.authorities, now)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # Each authority in the bundle is an anchor, self-signed or not, as Go and Envoy have it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # A resumed session would have the certificate of the first one, looked at neither for its end nor against today's bundle.
    context.num_tickets = 0
    context.set_alpn_protocols(["h2"])
    try:
        with _in_memory(material.chain) as chain_path, _in_memory(material.private_key) as key_path:
            context.load_cert_chain(chain_path, key_path, password=b"")
        context.load_verify_locations(cadata=b"".join(each.public_bytes(Encoding.DER) for each in authorities))
    except (ssl.SSLError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or "malformed"
        raise CredentialsError(f"OpenSSL does not take the certificate, its key or the bundle: {reason}") from None
    return context, leaf


def _check_key(leaf: x509.Certificate, pem: bytes) -> None:
    try:
        key = load_pem_private_key(pem, None)
        fits = _public(key.public_key()) == _public(leaf.public_key())
    except TypeError:
        raise CredentialsError("the private key is encrypted; decrypt it, and let only the daemon's user read it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(
            "the private key is not PEM, or it or the certificate's is of a kind that TLS does not take"
        ) from None
    if not fits:
        raise CredentialsError("the private key is not the certificate's; the first certificate in the file must be its own")


def _authorities(pem: bytes, now: float) -> list[x509.Certificate]:
    bundle = _certificates(pem, "the trust bundle")
    for number, authority in enumerate(bundle, 1):
        try:
            is_authority = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            is_authority = False
        if not is_authority:
            raise CredentialsError(f"certificate {number} of the trust bundle is not an authority's; take it out")
    if all(each.not_valid_after_utc.timestamp() <= now for each in bundle):
        raise CredentialsError("every certificate of the trust bundle has expired; nobody could connect")
    return bundle


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion):
        raise CredentialsError(f"{what} is not PEM, or is empty") from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give bytes a path, for the one function that takes nothing else. What was checked is then what is loaded."""
    descriptor = os.memfd_create("keyd", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _read(path: Path, forbidden_mode: int) -> bytes:
    """Read a file that nobody else can have written. Its name may be a link, as renewals leave it; what it leads to counts.

    A group may read what is root's, which is how Kubernetes (``fsGroup``) and Debian (``ssl-cert``) give keys to daemons.
    """
    try:
        return read_private(path.resolve(strict=True), max_size=_MAX_SIZE, forbidden_mode=forbidden_mode, group_of_root=True)
    except UnsafeFileError as exc:
        raise CredentialsError(str(exc)) from exc
    except (OSError, RuntimeError) as exc:  # the latter for links in a circle
        reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else "links that lead nowhere"
        raise CredentialsError(f"cannot read {path}: {reason}; check its path and owner") from exc


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as exc:
        return exc.errno
    return (found.st_ctime_ns, found.st_ino, found.st_dev)  # ctime: also of owner, mode and links, which may be what was wrong


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
