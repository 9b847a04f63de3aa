"""What other protocols have signed, sent as a signature base or a token: none of it may be."""

from __future__ import annotations

import base64
import hashlib
import json
import random

_DER = base64.b64decode(
    "MIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+oAXjyQ86"
)


def inputs(rng: random.Random) -> list[tuple[str, bytes]]:
    """Return one input of each protocol, by name."""
    noise = rng.randbytes(rng.randrange(16, 400))
    digest = hashlib.sha256(noise).digest()
    ssh = b"".join(
        len(field).to_bytes(4, "big") + field
        for field in (digest, b"\x32git", b"ssh-connection", b"publickey", b"\x01", b"ssh-ed25519", noise)
    )
    return [
        ("nothing", b""),
        ("noise", noise),
        ("a digest", digest),
        ("a digest in hexadecimal", digest.hex().encode()),
        ("zeros", bytes(64)),
        ("SSHSIG", b"SSHSIG" + b"\0\0\0\x04file\0\0\0\0\0\0\0\x06sha512\0\0\0@" + hashlib.sha512(noise).digest()),
        ("SSH user authentication", ssh),
        ("X.509 TBSCertificate", b"\x30\x82\x01\x0a\xa0\x03\x02\x01\x02\x02\x01\x01" + _DER),
        ("PKCS #10 request", b"\x30\x82\x01\x0a\x02\x01\x00" + _DER),
        ("OCSP response", b"\x30\x81\xb2\xa2\x16\x04\x14" + digest[:20] + noise),
        ("CMS signed attributes", b"\x31\x4a\x30\x18\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x03" + noise),
        ("TLS 1.3 CertificateVerify, server", b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + digest),
        ("TLS 1.3 CertificateVerify, client", b" " * 64 + b"TLS 1.3, client CertificateVerify\0" + digest),
        ("TLS 1.2 ServerKeyExchange", noise[:32].ljust(32, b"x") + digest + b"\x03\x00\x1d\x20" + digest),
        ("COSE Sig_structure", b"\x84\x6aSignature1\x43\xa1\x01\x27\x40\x58" + bytes([min(len(noise), 255)]) + noise),
        ("CWT claims", b"\xa3\x01\x65a.com\x04\x1a\x70\x00\x00\x00\x07\x41x"),
        ("SigV4 string to sign", b"AWS4-HMAC-SHA256\n20261124T000000Z\n20261124/us-east-1/s3/aws4_request\n" + digest.hex().encode()),
        ("SigV4A string to sign", b"AWS4-ECDSA-P256-SHA256\n20261124T000000Z\n20261124/s3/aws4_request\n" + digest.hex().encode()),
        ("DSSE", b"DSSEv1 28 application/vnd.in-toto+json " + str(len(noise)).encode() + b" " + noise),
        ("OpenPGP", noise + b"\x04\x00\x16\x08\x00\x06\x05\x02" + digest[:4] + b"\x04\xff\0\0\0\x0e"),
        ("git commit", b"tree " + digest.hex()[:40].encode() + b"\nauthor A <a@a.example> 1 +0000\n\nmessage\n"),
        ("git tag", b"object " + digest.hex()[:40].encode() + b"\ntype commit\ntag v1\n\nx\n"),
        ("Ethereum message", b"\x19Ethereum Signed Message:\n32" + digest),
        ("Ethereum typed data", b"\x19\x01" + digest + digest),
        ("Bitcoin transaction", b"\x01\0\0\0\x01" + digest + b"\0\0\0\0\0\xff\xff\xff\xff"),
        ("Nostr event", json.dumps([0, digest.hex(), 1, 1, [], "x"]).encode()),
        ("DNSSEC RRset", b"\x00\x01\x0f\x02" + noise),
        ("Noise and WireGuard", b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s" + digest),
        ("age or minisign", b"untrusted comment: x\n" + base64.b64encode(noise) + b"\n"),
        ("TUF metadata", b'{"_type":"root","expires":"2030-01-01T00:00:00Z","spec_version":"1.0.0","version":1}'),
        ("JSON", json.dumps({"iss": "https://a.example", "exp": 9999999999}).encode()),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("the draft of Cavage", b"(request-target): get /\nhost: a.example\ndate: Tue, 24 Nov 2026 00:00:00 GMT"),
        ("OAuth 1.0 base string", b"GET&https%3A%2F%2Fa.example%2F&oauth_nonce%3Dx%26oauth_timestamp%3D1"),
        ("an S/MIME part", b"Content-Type: text/plain\r\n\r\nhello\r\n"),
        ("DKIM", b"from:A <a@a.example>\r\ndkim-signature:v=1; a=ed25519-sha256; d=a.example; b="),
        ("a SAML assertion", b'<ds:SignedInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"></ds:SignedInfo>'),
        ("an SD-JWT", b"eyJhbGciOiJFZDI1NTE5In0.e30.c2ln~WyJhIiwiYiJd~"),
        ("a PASETO", b"v4.public." + base64.urlsafe_b64encode(noise).rstrip(b"=")),
        ("a macaroon", b"0024location https://a.example\n0010identifier x\n"),
        ("a DPoP proof, whole", b"eyJ0eXAiOiJkcG9wK2p3dCJ9.e30.c2ln"),
        ("PAE", b"\x02\0\0\0\0\0\0\0" + len(noise).to_bytes(8, "little") + noise),
        ("a quoted string", b'"' + base64.b64encode(noise) + b'"'),
        ("JSON with quotes first", b'"@method": "GET",\n"created": 1'),
        ("protobuf", b"\x0a\x05agent\x1a\x10" + noise),
        ("a Kubernetes token review", b'{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1"}'),
    ]  # fmt: skip
