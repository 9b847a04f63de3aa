"""The Python client of keyd: what agents import. It needs grpcio, protobuf and cryptography, nothing else.

The adapters for other libraries are modules of their own, so that importing this package stays light. For HTTP libraries:
:mod:`keyd.client.httpx_auth`, :mod:`keyd.client.httpx2_auth`, :mod:`keyd.client.requests_auth`, :mod:`keyd.client.aiohttp_auth`,
:mod:`keyd.client.message_signatures`. For others: :mod:`keyd.client.joserfc_keys`, :mod:`keyd.client.wbauth_auth`,
:mod:`keyd.client.regent_signers`, :mod:`keyd.client.introspection_keys`, :mod:`keyd.client.lumoauth_client`. For bots, with the adapters for HTTP:
:mod:`keyd.client.web_bot_auth`.
"""

from keyd.client.admin import AdminClient
from keyd.client.aio import AsyncClient
from keyd.client.aio_session import AsyncSession
from keyd.client.errors import (
    AlreadyExists,
    ApprovalNeeded,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    KeydClientError,
    KeyStateError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from keyd.client.inputs import InputKind, SignInput
from keyd.client.keys import ECKey, Ed25519Key, RSAKey
from keyd.client.model import JwkSet, KeyInfo, SessionInfo, Signature, VersionInfo
from keyd.client.session import Session
from keyd.client.sync import Client
from keyd.client.tls import TlsFiles

__all__ = [
    "AdminClient",
    "AlreadyExists",
    "AsyncClient",
    "AsyncSession",
    "Client",
    "DeadlineExceeded",
    "ECKey",
    "Ed25519Key",
    "InputKind",
    "InternalError",
    "InvalidRequest",
    "JwkSet",
    "KeyInfo",
    "KeyStateError",
    "ApprovalNeeded",
    "KeydClientError",
    "NotFound",
    "PermissionDenied",
    "RSAKey",
    "ResourceExhausted",
    "Session",
    "SessionInfo",
    "SignInput",
    "Signature",
    "TlsFiles",
    "Unauthenticated",
    "Unavailable",
    "VersionInfo",
]
