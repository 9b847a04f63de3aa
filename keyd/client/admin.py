"""The blocking client for operators. It returns the messages of the API (``protos/keyd/v1``), which document themselves, and values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypedDict, Unpack

import grpc

from keyd.client import agent_tokens
from keyd.client.calls import duration
from keyd.client.channel import SyncChannel
from keyd.client.model import ListedSession, RevokedToken
from keyd.client.tls import TlsFiles
from keyd.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    backend_service_pb2,
    backend_service_pb2_grpc,
    key_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    types_pb2,
)
from keyd.v1 import key_service_pb2 as pb


class Periods(TypedDict, total=False):
    """The periods of a lifecycle, in seconds.

    Attributes:
        publish_lead: that a version is published before it signs.
        sign_grace: that a replaced version still signs what names it.
        retention: that it stays published after that.
        rotation_period: that a version is active before keyd replaces it by itself; 0: only when an operator says so.
        destroy_after: after a version left the JWK Set until keyd destroys its private key by itself; 0: never.
    """

    publish_lead: float
    sign_grace: float
    retention: float
    rotation_period: float
    destroy_after: float


class KeySpecFields(Periods, total=False):
    """What a new key shall be, with its periods. What is left out takes the configured default.

    Attributes:
        algorithm: ``Ed25519``, ``ES256``, ``ES384``, ``PS512`` or ``RS256``.
        backend: name of a configured backend.
        purposes: of ``http``, ``jwt``, ``directory`` and ``raw``.
        profile: name of the profile that what it signs must meet.
        kid_format: ``thumbprint`` or ``name-version``.
        keyid_aliases: further accepted values of ``keyid``.
        unpublished: True keeps it out of every JWK Set.
    """

    algorithm: str
    backend: str
    purposes: Iterable[str]
    profile: str
    kid_format: str
    keyid_aliases: Iterable[str]
    unpublished: bool


class AdminClient(SyncChannel):
    """Makes keys and moves them through their lifecycle.

    Every method raises :class:`keyd.client.errors.KeydClientError` or one of its subclasses. Only calls that read are tried
    again: one that changes something may have done so although its answer was lost.

    Args:
        address: as for :class:`keyd.client.Client`.
        timeout: seconds for one call; HSMs can take long to make an RSA key.
        retries: how often a call that reads is tried again when keyd is UNAVAILABLE.
        tls: as for :class:`keyd.client.Client`.
        credentials: as for :class:`keyd.client.Client`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 2,
        tls: TlsFiles | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(address, timeout=timeout, retries=retries, tls=tls, credentials=credentials)
        self._stub = key_service_pb2_grpc.KeyServiceStub(self._channel)
        self._audit = audit_service_pb2_grpc.AuditServiceStub(self._channel)
        self._backends = backend_service_pb2_grpc.BackendServiceStub(self._channel)
        self._sessions = session_service_pb2_grpc.SessionAdminServiceStub(self._channel)

    def create_key(self, name: str, **fields: Unpack[KeySpecFields]) -> pb.CreateKeyResponse:
        """Make a key and its first version, published and active at once."""
        return self._call(self._stub.CreateKey, pb.CreateKeyRequest(spec=_spec(name, fields)), retries=0)

    def import_key(
        self,
        name: str,
        *,
        pkcs8_pem: bytes | None = None,
        private_jwk: bytes | None = None,
        kid: str | None = None,
        **fields: Unpack[KeySpecFields],
    ) -> pb.ImportKeyResponse:
        """Make a key from private material that was made elsewhere.

        Args:
            name: of the new key.
            pkcs8_pem: unencrypted PKCS#8 private key, PEM (RFC 7468). Either this or ``private_jwk``.
            private_jwk: private JWK, JSON (RFC 7517).
            kid: under which verifiers know it already.
            fields: RSA material needs ``algorithm``.

        Raises:
            ValueError: not exactly one of ``pkcs8_pem`` and ``private_jwk``.
        """
        if (pkcs8_pem is None) == (private_jwk is None):
            raise ValueError(f"key {name!r}: pass exactly one of pkcs8_pem and private_jwk")
        request = pb.ImportKeyRequest(spec=_spec(name, fields), kid=kid or "")
        if pkcs8_pem is not None:
            request.pkcs8_pem = pkcs8_pem
        if private_jwk is not None:
            request.private_jwk = private_jwk
        return self._call(self._stub.ImportKey, request, retries=0)

    def adopt_key(
        self, name: str, handle: str, *, kid: str | None = None, **fields: Unpack[KeySpecFields]
    ) -> pb.AdoptKeyResponse:
        """Make a key from a key pair that its backend holds already.

        Args:
            name: of the new key.
            handle: the backend's reference to the key pair, as :meth:`list_stored_keys` shows it.
            kid: under which verifiers know it already.
            fields: RSA key pairs need ``algorithm``.
        """
        request = pb.AdoptKeyRequest(spec=_spec(name, fields), handle=handle, kid=kid or "")
        return self._call(self._stub.AdoptKey, request, retries=0)

    def list_backends(self) -> list[backend_service_pb2.Backend]:
        """Return the configured backends by name, and what is wrong with each."""
        return list(self._call(self._backends.ListBackends, backend_service_pb2.ListBackendsRequest()).backends)

    def audit_head(self) -> audit_service_pb2.GetHeadResponse:
        """Return the newest record of the audit trail, and what verifies the trail."""
        return self._call(self._audit.GetHead, audit_service_pb2.GetHeadRequest())

    def list_stored_keys(self, backend: str) -> list[backend_service_pb2.StoredKey]:
        """Return the key pairs that a backend holds, whether or not they are on record."""
        request = backend_service_pb2.ListStoredKeysRequest(backend=backend)
        return list(self._call(self._backends.ListStoredKeys, request).keys)

    def list_keys(self) -> Iterator[types_pb2.Key]:
        """Return all keys with all their versions, by name; fetches page after page."""
        request = pb.ListKeysRequest()
        while True:
            response = self._call(self._stub.ListKeys, request)
            yield from response.keys
            if not response.next_page_token:
                return
            request = pb.ListKeysRequest(page_token=response.next_page_token)

    def get_key(self, name: str) -> types_pb2.Key:
        """Return one key with all its versions."""
        return self._call(self._stub.GetKey, pb.KeyServiceGetKeyRequest(name=name)).key

    def rotate_key(self, name: str, now: bool = False) -> pb.RotateKeyResponse:
        """Make the next version of a key; ``now`` activates it at once, without the publish lead, for emergencies."""
        return self._call(self._stub.RotateKey, pb.RotateKeyRequest(name=name, now=now), retries=0)

    def update_key(self, name: str, **periods: Unpack[Periods]) -> pb.UpdateKeyResponse:
        """Change lifecycle periods of a key, in seconds. What is planned already stays so."""
        return self._call(self._stub.UpdateKey, pb.UpdateKeyRequest(name=name, lifecycle=_lifecycle(periods)), retries=0)

    def rollback_key(self, name: str) -> pb.RollbackKeyResponse:
        """Make the version before the active one active again, while it may still sign."""
        return self._call(self._stub.RollbackKey, pb.RollbackKeyRequest(name=name), retries=0)

    def pause_key(self, name: str) -> types_pb2.Key:
        """Hold the rotation of a key: a version that waits does not become active, and keyd makes none by itself."""
        return self._call(self._stub.PauseKey, pb.PauseKeyRequest(name=name), retries=0).key

    def resume_key(self, name: str) -> types_pb2.Key:
        """Undo :meth:`pause_key`."""
        return self._call(self._stub.ResumeKey, pb.ResumeKeyRequest(name=name), retries=0).key

    def plan_rotations(self, name: str = "", *, horizon: float = 30 * 86400.0, limit: int = 1000) -> pb.PlanRotationsResponse:
        """Return what keyd and the clock will do with a key, or with all, in the order of time.

        Args:
            name: of a key; empty for all.
            horizon: seconds from now.
            limit: at most this many steps, up to 1000.
        """
        request = pb.PlanRotationsRequest(name=name, horizon=duration(horizon), limit=limit)
        return self._call(self._stub.PlanRotations, request)

    def disable_key(self, name: str) -> types_pb2.Key:
        """Stop a key from signing. Its public keys stay published."""
        return self._call(self._stub.DisableKey, pb.DisableKeyRequest(name=name), retries=0).key

    def enable_key(self, name: str) -> types_pb2.Key:
        """Undo :meth:`disable_key`."""
        return self._call(self._stub.EnableKey, pb.EnableKeyRequest(name=name), retries=0).key

    def compromise_version(self, name: str, version: int, reason: str) -> pb.CompromiseVersionResponse:
        """Take a version out of the JWK Set and stop it from signing, for ever. ``reason`` is recorded and required."""
        request = pb.CompromiseVersionRequest(name=name, version=version, reason=reason)
        return self._call(self._stub.CompromiseVersion, request, retries=0)

    def destroy_version(self, name: str, version: int, force: bool = False) -> pb.DestroyVersionResponse:
        """Destroy the private key of a version, which cannot be undone; ``force`` also one that is still published."""
        request = pb.DestroyVersionRequest(name=name, version=version, force=force)
        return self._call(self._stub.DestroyVersion, request, retries=0)

    def list_sessions(self, issuer_key: str = "") -> list[ListedSession]:
        """Return the open sessions of this keyd, oldest first; with ``issuer_key``, only those of that key."""
        request = session_service_pb2.ListSessionsRequest(issuer_key=issuer_key)
        return [agent_tokens.listed_session(each) for each in self._call(self._sessions.ListSessions, request).sessions]

    def revoke_session(self, name: str) -> list[RevokedToken]:
        """End a session by its ``name``, with its sub-agents', and return its tokens, which are on the list of those revoked now."""
        request = session_service_pb2.RevokeSessionRequest(session=name)
        return [agent_tokens.revoked_token(each) for each in self._call(self._sessions.RevokeSession, request, retries=0).tokens]

    def revoke_token(self, issuer: str, token_id: str, expires: float) -> RevokedToken:
        """Put a token on the list of those revoked, until it is over. Of one that is there the later end counts; so it can be repeated.

        Args:
            issuer: its ``iss``.
            token_id: its ``jti``.
            expires: its ``exp``, in seconds since the epoch; at most 24 hours and a minute ahead.

        Raises:
            ValueError: ``expires`` is no such time.
        """
        request = agent_tokens.revoke_request(issuer, token_id, expires)
        response = self._call(self._sessions.RevokeToken, request)
        return agent_tokens.revoked_token(response.token, response.warnings)

    def revoked_tokens(self, issuer: str = "") -> list[RevokedToken]:
        """Return the revoked tokens that are not over, in the order in which they end; with ``issuer``, only those with this ``iss``."""
        request = session_service_pb2.ListRevokedTokensRequest(issuer=issuer)
        return [agent_tokens.revoked_token(each) for each in self._call(self._sessions.ListRevokedTokens, request).tokens]


def _spec(name: str, fields: KeySpecFields) -> pb.KeySpec:
    spec = pb.KeySpec(
        name=name,
        backend=fields.get("backend", ""),
        profile=fields.get("profile", ""),
        keyid_aliases=fields.get("keyid_aliases", ()),
        unpublished=fields.get("unpublished", False),
        purposes=[types_pb2.Purpose.Value(_enum_name("purpose", purpose)) for purpose in fields.get("purposes", ())],
    )
    if "algorithm" in fields:
        spec.algorithm = types_pb2.Algorithm.Value(_enum_name("algorithm", fields["algorithm"]))
    if "kid_format" in fields:
        spec.kid_format = types_pb2.KidFormat.Value(_enum_name("kid_format", fields["kid_format"]))
    if Periods.__annotations__.keys() & fields.keys():
        spec.lifecycle.CopyFrom(_lifecycle(fields))
    return spec


def _lifecycle(fields: Periods) -> types_pb2.LifecyclePolicy:
    periods: dict[str, Any] = {name: value for name, value in fields.items() if name in Periods.__annotations__}
    return types_pb2.LifecyclePolicy(**{name: duration(value) for name, value in periods.items()})


def _enum_name(kind: str, word: str) -> str:
    return f"{kind}_{word.replace('-', '_')}".upper()
