"""Whom a client certificate names. That it was issued by a trusted authority, and is valid today, TLS has checked before."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyd.core.principal import Principal
from keyd.core.spiffe import trust_domain_of

#: Returns whom a leaf certificate names, or raises CertificateError.
Identify = Callable[[x509.Certificate], Principal]

_T = TypeVar("_T", bound=x509.ExtensionType)

_MAX_DNS_NAMES = 64
_LABEL = r"(?!-)[a-z0-9-]{1,63}+(?<!-)"
# No top-level domain is a number, and what ends in one is an address.
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}", re.ASCII)


class CertificateError(Exception):
    """The certificate names nobody. The message quotes nothing of it but what has passed a grammar."""


def parse(der: bytes) -> x509.Certificate:
    """Parse a certificate, with all of its extensions.

    Raises:
        CertificateError: it is not X.509 version 3, or an extension is malformed or there twice.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        len(certificate.extensions)  # they are parsed on first use
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateError("the certificate is malformed") from None
    if certificate.version is not x509.Version.v3:
        raise CertificateError("the certificate is not X.509 version 3")
    return certificate


def by_spiffe_id(trust_domain: str) -> Identify:
    """Return what takes X509-SVIDs of one trust domain (X509-SVID specification, sections 2 to 5)."""

    def identify(certificate: x509.Certificate) -> Principal:
        _check_leaf(certificate, usage_required=True)
        uris = _names(certificate, x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise CertificateError(f"the certificate has {len(uris)} URI names and an X509-SVID has exactly one")
        found = trust_domain_of(uris[0])
        if found is None:
            raise CertificateError("the URI name is not the SPIFFE ID of a workload")
        if found != trust_domain:
            raise CertificateError(f"the SPIFFE ID is of the trust domain {found}, and this listener takes {trust_domain}")
        return Principal(spiffe_id=uris[0])

    return identify


def by_dns_names(certificate: x509.Certificate) -> Principal:
    """Return who has these DNS names. The common name and addresses are not looked at."""
    _check_leaf(certificate, usage_required=False)
    uris = _names(certificate, x509.UniformResourceIdentifier)
    if len(uris) > 1:
        raise CertificateError("the certificate has several URI names")
    if any(uri.lower().startswith("spiffe:") for uri in uris):
        raise CertificateError("the certificate is an X509-SVID, and this listener has no trust_domain")
    names = tuple(name.lower() for name in _names(certificate, x509.DNSName))
    if not names:
        raise CertificateError("the certificate has no DNS name")
    if any("*" in name for name in names):
        raise CertificateError("the certificate has a wildcard for a DNS name, which names nobody")
    if len(names) > _MAX_DNS_NAMES or not all(len(name) <= 253 and _DNS_NAME.fullmatch(name) for name in names):
        raise CertificateError("the certificate has something that is no DNS name for one, or too many")
    return Principal(dns_names=names)


def _check_leaf(certificate: x509.Certificate, *, usage_required: bool) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateError("the certificate is an authority's, not a caller's")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None:
        if usage_required:
            raise CertificateError("the certificate does not say what its key is for (keyUsage)")
    elif not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise CertificateError("the certificate's key is not for signatures alone (keyUsage)")
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if extended is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in extended:
        raise CertificateError("the certificate is not for clients (extendedKeyUsage)")


def _extension(certificate: x509.Certificate, kind: type[_T]) -> _T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _names(certificate: x509.Certificate, kind: type[x509.DNSName | x509.UniformResourceIdentifier]) -> list[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    return names.get_values_for_type(kind) if names is not None else []
