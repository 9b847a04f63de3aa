"""Signers for regent-httpsig: what its ``EgressSigner`` and ``ServerSigner`` do, without the seed of a private key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regent_httpsig import EgressSigner, ServerSigner, generate_seed

from keyd.client.keys import PrivateKey
from keyd.client.sync import Client

Headers = dict[str, str]


class KeydEgressSigner:
    """Signs requests as an agent, Web Bot Auth or AAuth. Follows rotations.

    Args:
        client: asks keyd.
        key: its name; Ed25519, for AAuth also ES256.
        signature_agent: origin that publishes the key directory, for Web Bot Auth.
        ttl_minutes: how long a Web Bot Auth signature is valid.

    Raises:
        KeydClientError: by each method, when keyd does not sign.
    """

    def __init__(self, client: Client, key: str, *, signature_agent: str = "", ttl_minutes: int = 5) -> None:
        self._client = client
        self._key = key
        self._options = {"signature_agent": signature_agent, "ttl_minutes": ttl_minutes}

    def sign(self, method: str, url: str, headers: Headers | None = None, **options: Any) -> Headers:
        """Return the headers with a Web Bot Auth signature. ``options`` are those of ``EgressSigner.sign``."""
        return self._client.with_private_key(
            self._key, lambda private: _Egress(private, self._options).sign(method, url, headers, **options)
        )

    def sign_aauth(
        self, method: str, url: str, headers: Headers | None = None, *, token: Callable[[PrivateKey], str], **options: Any
    ) -> Headers:
        """Return the headers with an AAuth signature.

        Args:
            method: of the request.
            url: of the request.
            headers: of the request.
            token: returns a token whose ``cnf.jwk`` is the ``jwk`` of the key that it is given.
            options: ``body`` and the others of ``EgressSigner.sign_aauth``.
        """
        return self._client.with_private_key(
            self._key,
            lambda private: _Egress(private, self._options).sign_aauth(method, url, headers, token=token(private), **options),
        )


class KeydServerSigner:
    """Signs requests as an AAuth server, scheme ``jwks_uri``. Follows rotations.

    Args:
        client: asks keyd.
        key: its name; Ed25519 or ES256, with the profile ``aauth-server`` or one of your own.
        server_id: of the server, an https origin.
        dwk: name of the metadata document that leads to the JWK Set, such as ``aauth-resource.json``.

    Raises:
        KeydClientError: by ``sign``, when keyd does not sign.
    """

    def __init__(self, client: Client, key: str, *, server_id: str, dwk: str) -> None:
        self._client = client
        self._key = key
        self._options = {"server_id": server_id, "dwk": dwk}

    def sign(self, method: str, url: str, headers: Headers | None = None, **options: Any) -> Headers:
        """Return the headers with a signature. ``options`` are those of ``ServerSigner.sign``."""
        return self._client.with_private_key(
            self._key, lambda private: _Server(private, self._options).sign(method, url, headers, **options)
        )


# regent's constructors take a seed and nothing else. What they make of it is replaced at once and signs nothing.


class _Egress(EgressSigner):  # type: ignore[misc]  # not installed where the types are checked
    def __init__(self, private: PrivateKey, options: dict[str, Any]) -> None:
        super().__init__(seed=generate_seed(), **options)
        self._key = private
        self.keyid = private.thumbprint


class _Server(ServerSigner):  # type: ignore[misc]  # as above
    def __init__(self, private: PrivateKey, options: dict[str, Any]) -> None:
        super().__init__(seed=generate_seed(), kid=private.kid, **options)
        self._key = private
