"""Signs with the library http-message-signatures itself, from 2.0.1 on: ``sign_message(client, "agent", message)``.

The adapters for HTTP libraries are more convenient. This is for messages of other kinds, and for environments where another
library holds http-message-signatures at a version below 2.1.
"""

from __future__ import annotations

from typing import Any

from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

from keyd.client.keys import PrivateKey, PublicKey
from keyd.client.sync import Client

#: The library's algorithms by their names in the HTTP Signature Algorithms registry.
ALGORITHMS: dict[str, Any] = {
    item.algorithm_id: item for item in vars(algorithms).values() if isinstance(item, type) and hasattr(item, "algorithm_id")
}


class KeydKeyResolver(HTTPSignatureKeyResolver):
    """Gives signers the private key and verifiers the public key of the version that a ``keyid`` names.

    Args:
        client: asks keyd.
        key: name of the key.

    Raises:
        KeydClientError: by the signer or verifier, when there is no such version, or keyd does not sign.
    """

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key

    def resolve_private_key(self, key_id: str) -> PrivateKey:
        """Return an object that signs in keyd."""
        return self._client.private_key(self._key, key_id)

    def resolve_public_key(self, key_id: str) -> PublicKey:
        """Return the public key."""
        return self._client.private_key(self._key, key_id).public_key()


def sign_message(client: Client, key: str, message: Any, **options: Any) -> str:
    """Sign a message with the active version of a key (RFC 9421), and again with the new one when it was rotated in between.

    Args:
        client: asks keyd.
        key: its name.
        message: anything with ``method``, ``url`` and ``headers``, as ``HTTPMessageSigner.sign`` takes it; gets the fields
            Signature-Input and Signature.
        options: those of ``HTTPMessageSigner.sign``, such as ``covered_component_ids`` and ``expires``; not ``key_id``.

    Returns:
        The kid that signed.

    Raises:
        KeydClientError: keyd does not sign.
        ValueError: the library does not know the algorithm of the key.
    """
    algorithm = ALGORITHMS.get(client.key_info(key).http_algorithm)
    if algorithm is None:
        raise ValueError(f"key {key!r}: this http-message-signatures has no {client.key_info(key).http_algorithm!r}; update it")

    digested = "Content-Digest" in message.headers

    def use(private: PrivateKey) -> str:
        if not digested:
            message.headers.pop("Content-Digest", None)  # the library refuses the one of its own first attempt
        signer = HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=KeydKeyResolver(client, key))
        signer.sign(message, key_id=private.kid, **options)
        return private.kid

    return client.with_private_key(key, use)
