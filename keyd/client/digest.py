"""The Content-Digest field (RFC 9530)."""

from __future__ import annotations

import base64
import hashlib

_HASHES = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


def content_digest(body: bytes, algorithm: str = "sha-256") -> str:
    """Return the value of Content-Digest for a body, RFC 9530 section 2.

    Args:
        body: the content as it is sent, after any content coding.
        algorithm: ``sha-256`` or ``sha-512``.

    Raises:
        ValueError: another algorithm.
    """
    if algorithm not in _HASHES:
        raise ValueError(f"content digest algorithm {algorithm!r} is not one of {', '.join(_HASHES)}")
    return f"{algorithm}=:{base64.b64encode(_HASHES[algorithm](body).digest()).decode()}:"
