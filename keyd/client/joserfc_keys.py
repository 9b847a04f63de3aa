"""Signs with joserfc: ``jwt.encode({"alg": "Ed25519"}, claims, keyd_key(client, "agent"), algorithms=["Ed25519"])``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keyd.client.keys import PrivateKey
from keyd.client.sync import Client

JoserfcKey = OKPKey | ECKey | RSAKey


def joserfc_key(private: PrivateKey) -> JoserfcKey:
    """Return a joserfc key that signs in keyd, pinned to the version of ``private``. As a JWK it is its public key."""
    # given the JWK as well, joserfc does not take the private key apart to make one
    if isinstance(private, Ed25519PrivateKey):
        return OKPKey(private, private.jwk)
    if isinstance(private, EllipticCurvePrivateKey):
        return ECKey(private, private.jwk)
    return RSAKey(private, private.jwk)


def keyd_key(client: Client, key: str) -> Callable[[Any], JoserfcKey]:
    """Return what joserfc takes for a key when it signs, and asks for the version anew each time: it follows rotations.

    A header with a ``kid`` is signed by that version; else the active one signs, and its kid goes into the header.

    Args:
        client: asks keyd.
        key: its name.

    Raises:
        KeydClientError: by joserfc, when keyd does not sign. KeyStateError right after a rotation that nobody planned: try once more.
    """

    def choose(signing: Any) -> JoserfcKey:
        kid: str | None = signing.headers().get("kid")
        private = client.private_key(key, kid)
        if kid is None:
            signing.set_kid(private.kid)
        return joserfc_key(private)

    return choose
