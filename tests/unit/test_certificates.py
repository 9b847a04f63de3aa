"""Whom a certificate names: what TLS itself would let pass, and bytes that are no certificate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from pki import CLIENT, SERVER, Authority, dns, uri, usage

from keyd.core.principal import Principal
from keyd.service.gate.certificates import CertificateError, by_dns_names, by_spiffe_id, parse

AGENT = "spiffe://example.org/agent"
AUTHORITY = Authority()
DER = AUTHORITY.issue(uri(AGENT), dns("agent.example.org")).certificate.public_bytes(Encoding.DER)

by_example = by_spiffe_id("example.org")


def certificate(*names: x509.GeneralName, **changes: object) -> x509.Certificate:
    return parse(AUTHORITY.issue(*names, **changes).certificate.public_bytes(Encoding.DER))  # type: ignore[arg-type]


def test_a_spiffe_id_is_the_whole_identity() -> None:
    found = by_example(certificate(uri(AGENT), dns("agent.example.org")))
    assert found == Principal(spiffe_id=AGENT)
    assert found.account == AGENT


def test_dns_names_are_in_lower_case() -> None:
    found = by_dns_names(certificate(dns("A.Example.ORG"), dns("b"), x509.RFC822Name("c@example.org")))
    assert found == Principal(dns_names=("a.example.org", "b"))


@pytest.mark.parametrize("identify", [by_example, by_dns_names])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extended": (SERVER,)}, "not for clients"),
        ({"extended": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, "not for clients"),
        ({"key_usage": usage("key_agreement")}, "not for signatures alone"),
        ({"key_usage": usage("digital_signature", "key_cert_sign")}, "not for signatures alone"),
        ({"key_usage": usage("digital_signature", "crl_sign")}, "not for signatures alone"),
        ({"ca": True}, "an authority's"),
    ],
    ids=["server", "any", "agreement", "cert sign", "crl sign", "ca"],
)
def test_leaves_that_are_refused(
    identify: Callable[[x509.Certificate], Principal], changes: dict[str, object], reason: str
) -> None:
    names = [uri(AGENT)] if identify is by_example else [dns("agent.example.org")]
    identify(certificate(*names, extended=(SERVER, CLIENT)))
    with pytest.raises(CertificateError, match=reason):
        identify(certificate(*names, **changes))


def test_a_dns_caller_needs_no_key_usage() -> None:
    assert by_dns_names(certificate(dns("agent.example.org"), key_usage=None)).dns_names == ("agent.example.org",)


def test_messages_quote_nothing_that_has_passed_no_grammar() -> None:
    for identify in (by_example, by_dns_names):
        for name in ("spiffe://ex\nample.org/x", "spiffe://example.org/\x1b[2J"):
            with pytest.raises(CertificateError) as caught:
                identify(certificate(uri(name)))
            assert name not in str(caught.value)
            assert str(caught.value).isprintable()


def test_what_is_parsed_is_what_was_issued() -> None:
    assert by_example(parse(DER)).spiffe_id == AGENT


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.binary())
def test_bytes_that_are_no_certificate(data: bytes) -> None:
    with pytest.raises(CertificateError):
        parse(data)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_a_damaged_certificate_is_refused_or_names_somebody(at: int, bits: int) -> None:
    """Nothing else comes out, whatever is in it; that its signature is no good is for TLS to see."""
    damaged = bytearray(DER)
    damaged[at] ^= bits
    for identify in (by_example, by_dns_names):
        try:
            assert isinstance(identify(parse(bytes(damaged))), Principal)
        except CertificateError as exc:
            assert str(exc).isprintable()
