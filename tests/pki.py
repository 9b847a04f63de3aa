"""A certification authority of the tests: real X.509, made with ``cryptography``."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
HOUR = dt.timedelta(hours=1)


def uri(value: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(value)


def dns(value: str) -> x509.DNSName:
    return x509.DNSName(value)


def usage(*names: str) -> x509.KeyUsage:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: name in names for name in every})


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and the certificates between it and its root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    between: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.between))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Return the paths of the chain and the key."""
        chain, key = directory / f"{name}.pem", directory / f"{name}.key"
        put(chain, self.chain)
        put(key, self.key_pem)
        return chain, key


def put(path: Path, content: bytes) -> None:
    """Replace a file as renewals do: whole, and with another inode."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.write_bytes(content)
    new.chmod(0o400)
    new.rename(path)


class Authority:
    """A root, or an intermediate of one."""

    def __init__(self, name: str = "root", parent: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, signer = (parent.name, parent.key) if parent else (self.name, self.key)
        now = dt.datetime.now(dt.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 100 * 24 * HOUR)
            .not_valid_after(now + 100 * 24 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        self.between = (self.certificate, *parent.between) if parent else ()

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        *names: x509.GeneralName,
        begins: dt.timedelta = -HOUR,
        ends: dt.timedelta = HOUR,
        ca: bool | None = False,
        key_usage: x509.KeyUsage | None = usage("digital_signature"),  # noqa: B008
        extended: Iterable[x509.ObjectIdentifier] | None = (CLIENT,),
    ) -> Issued:
        """Issue a certificate; ``begins`` and ``ends`` are from now, and what is None is left out."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "common.example")]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if key_usage is not None:
            builder = builder.add_extension(key_usage, critical=True)
        if extended is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Issued(builder.sign(self.key, hashes.SHA256()), key, self.between)

    def server(self, **changes: object) -> Issued:
        """Issue a certificate for localhost."""
        return self.issue(dns("localhost"), extended=(SERVER,), **changes)  # type: ignore[arg-type]


def client_context(issued: Issued | None, authority: Authority, directory: Path, *, alpn: str = "h2") -> ssl.SSLContext:
    """Return what a client shows and trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.pem.decode())
    if issued is not None:
        context.load_cert_chain(*issued.write(directory, f"client-{issued.certificate.serial_number}"))
    context.set_alpn_protocols([alpn])
    return context
