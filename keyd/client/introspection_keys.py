"""A signing key for introspection-aauth: ``httpsig.sign(KeydSigningKey(client.private_key("agent")), ...)``."""

from __future__ import annotations

from introspection_aauth.protocol.keys import Jwk, SigningKey

from keyd.client.keys import PrivateKey


class KeydSigningKey(SigningKey):  # type: ignore[misc]  # not installed where the types are checked
    """An introspection-aauth key that signs in keyd, pinned to one version. Unlike the library's own it can be ES256 as well.

    ``introspection_aauth.protocol.jwt.encode`` knows Ed25519 only; have other tokens signed by ``Client.sign_jwt``.

    Args:
        private: of :meth:`keyd.client.Client.private_key`, Ed25519 or ES256.

    Raises:
        ValueError: the key has another algorithm.
    """

    def __init__(self, private: PrivateKey) -> None:
        if private.jose_algorithm not in ("Ed25519", "ES256"):
            raise ValueError(
                f"key {private.name!r} signs {private.jose_algorithm}; introspection-aauth verifies Ed25519 and ES256 only"
            )
        self._private = private
        self.kid = private.kid
        self.public_jwk = Jwk.model_validate(private.jwk)

    def sign(self, data: bytes) -> bytes:
        """Return 64 raw octets. Raises KeydClientError when keyd does not sign."""
        return self._private.sign_raw(data)
