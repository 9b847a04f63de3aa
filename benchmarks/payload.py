"""What is signed: the signature base of an ordinary request, and how gRPC frames it."""

from __future__ import annotations

import struct
import time

from google.protobuf.message import Message

from keyd.v1 import signing_service_pb2 as pb

SIGN = "http://localhost/keyd.v1.SigningService/Sign"
SIGN_BATCH = "http://localhost/keyd.v1.SigningService/SignBatch"


def base() -> bytes:
    """Return a signature base that is fresh now. Profiles take it for 30 seconds."""
    covered = '("@method" "@authority" "@path" "content-digest")'
    return (
        f'"@method": POST\n"@authority": api.example.com\n"@path": /v1/orders\n'
        f'"content-digest": sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:\n'
        f'"@signature-params": {covered};created={int(time.time())};expires={int(time.time()) + 60};nonce="bHVtb2F1dGg="'
    ).encode()


def frame(request: Message) -> bytes:
    """Return a gRPC message: not compressed, length, bytes."""
    data = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(data)) + data


def sign_request(key: str) -> pb.SignRequest:
    """Return a request to sign a fresh base."""
    return pb.SignRequest(key=key, signature_base=base())


def batch_request(key: str, size: int) -> pb.SignBatchRequest:
    """Return a request to sign it so many times."""
    return pb.SignBatchRequest(requests=[sign_request(key)] * size)
