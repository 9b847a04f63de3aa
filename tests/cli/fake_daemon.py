"""A daemon in memory, as far as the command line needs one; the fixture in conftest.py serves it over gRPC."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import grpc
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from keyd.v1 import audit_service_pb2 as audit_pb
from keyd.v1 import (
    audit_service_pb2_grpc,
    backend_service_pb2_grpc,
    key_service_pb2_grpc,
    session_service_pb2_grpc,
    signing_service_pb2_grpc,
    types_pb2,
)
from keyd.v1 import backend_service_pb2 as backend_pb
from keyd.v1 import key_service_pb2 as admin_pb
from keyd.v1 import session_service_pb2 as session_pb
from keyd.v1 import signing_service_pb2 as pb

Run = Callable[..., Result]
CREATED = 1_700_000_000


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class FakeDaemon(
    key_service_pb2_grpc.KeyServiceServicer,
    signing_service_pb2_grpc.SigningServiceServicer,
    backend_service_pb2_grpc.BackendServiceServicer,
    audit_service_pb2_grpc.AuditServiceServicer,
    session_service_pb2_grpc.SessionServiceServicer,
    session_service_pb2_grpc.SessionAdminServiceServicer,
):
    """Keeps keys in memory, records what it was asked, and fails when told to."""

    def __init__(self) -> None:
        self.keys: dict[str, types_pb2.Key] = {}
        self.private: dict[str, Ed25519PrivateKey] = {}
        self.requests: list[Any] = []
        self.failure: status_pb2.Status | None = None
        self.warnings: list[str] = []
        self.head = audit_pb.GetHeadResponse()
        self.planned = admin_pb.PlanRotationsResponse()
        self.sessions: list[session_pb.SessionInfo] = []
        self.revoked: list[session_pb.RevokedToken] = []

    def fail(self, code: grpc.StatusCode, reason: str, message: str, **metadata: str) -> None:
        """Answer every call with this error from now on; without a reason, as something that is not keyd would."""
        details = []
        if reason:
            detail = any_pb2.Any()
            detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="keyd", metadata=metadata))
            details.append(detail)
        self.failure = status_pb2.Status(code=code.value[0], message=message, details=details)

    def add(self, name: str, **fields: Any) -> types_pb2.Key:
        """Put a key in, with one active version."""
        key = types_pb2.Key(
            name=name,
            algorithm=types_pb2.ALGORITHM_ED25519,
            backend="file",
            purposes=[types_pb2.PURPOSE_HTTP],
            profile="rfc9421",
            kid_format=types_pb2.KID_FORMAT_THUMBPRINT,
            publish=True,
            create_time=Timestamp(seconds=CREATED),
            lifecycle=types_pb2.LifecyclePolicy(
                publish_lead=Duration(seconds=600), sign_grace=Duration(seconds=60), retention=Duration(seconds=3600)
            ),
        )
        key.MergeFrom(types_pb2.Key(**fields))
        self.keys[name] = key
        self.private[name] = Ed25519PrivateKey.generate()
        self.add_version(key, types_pb2.KEY_STATE_ACTIVE, activate=CREATED)
        return key

    def add_version(self, key: types_pb2.Key, state: types_pb2.KeyState.ValueType, activate: int) -> types_pb2.KeyVersion:
        number = len(key.versions) + 1
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": _b64(self.private[key.name].public_key().public_bytes_raw())}
        return key.versions.add(
            key=key.name,
            version=number,
            kid=f"{key.name}-kid-{number}-" + "x" * 40,
            thumbprint="t" * 43,
            public_jwk=json.dumps(jwk),
            state=state,
            published=True,
            timeline=types_pb2.Timeline(
                create_time=Timestamp(seconds=CREATED),
                publish_time=Timestamp(seconds=CREATED),
                activate_time=Timestamp(seconds=activate),
            ),
        )

    def _take(self, request: Any, context: grpc.ServicerContext, name: str | None = None) -> types_pb2.Key:
        self.requests.append(request)
        if self.failure is None and name is not None and name not in self.keys:
            self.fail(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"there is no key {name!r}")
        if self.failure is not None:
            context.abort_with_status(rpc_status.to_status(self.failure))
        return self.keys[name] if name is not None else types_pb2.Key()

    def CreateKey(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return admin_pb.CreateKeyResponse(key=self.add(request.spec.name), warnings=self.warnings)

    def ImportKey(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return admin_pb.ImportKeyResponse(key=self.add(request.spec.name), warnings=self.warnings)

    def AdoptKey(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return admin_pb.AdoptKeyResponse(key=self.add(request.spec.name), warnings=self.warnings)

    def ListBackends(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        algorithms = [types_pb2.ALGORITHM_ED25519, types_pb2.ALGORITHM_ES256]
        sound = backend_pb.Backend(name="file", type="file", algorithms=algorithms, key_count=3)
        return backend_pb.ListBackendsResponse(
            backends=[sound, backend_pb.Backend(name="hsm", type="pkcs11", failure="token \x1b[2Jgone")]
        )

    def ListStoredKeys(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return backend_pb.ListStoredKeysResponse(
            keys=[
                backend_pb.StoredKey(handle="id=01", key="agent", version=2, kid="kid-2"),
                backend_pb.StoredKey(handle="id=02"),
            ]
        )

    def GetHead(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return self.head

    def ListKeys(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        names = sorted(name for name in self.keys if name > request.page_token)
        return admin_pb.ListKeysResponse(
            keys=[self.keys[name] for name in names[:1]], next_page_token=names[0] if len(names) > 1 else ""
        )

    def GetKey(self, request: Any, context: Any) -> Any:
        if isinstance(request, admin_pb.KeyServiceGetKeyRequest):
            return admin_pb.KeyServiceGetKeyResponse(key=self._take(request, context, request.name))
        key = self._take(request, context, request.key)
        return pb.GetKeyResponse(
            key=key.name,
            algorithm=key.algorithm,
            http_algorithm="ed25519",
            jose_algorithm="Ed25519",
            purposes=key.purposes,
            active=key.versions[0],
            versions=key.versions,
        )

    def RotateKey(self, request: Any, context: Any) -> Any:
        key = self._take(request, context, request.name)
        version = self.add_version(key, types_pb2.KEY_STATE_PRE_ACTIVATION, activate=4_000_000_000)
        return admin_pb.RotateKeyResponse(key=key, version=version.version, warnings=self.warnings)

    def PlanRotations(self, request: Any, context: Any) -> Any:
        self._take(request, context, request.name or None)
        return self.planned

    def RollbackKey(self, request: Any, context: Any) -> Any:
        key = self._take(request, context, request.name)
        return admin_pb.RollbackKeyResponse(key=key, version=1, warnings=self.warnings)

    def PauseKey(self, request: Any, context: Any) -> Any:
        return admin_pb.PauseKeyResponse(key=self._take(request, context, request.name))

    def ResumeKey(self, request: Any, context: Any) -> Any:
        return admin_pb.ResumeKeyResponse(key=self._take(request, context, request.name))

    def UpdateKey(self, request: Any, context: Any) -> Any:
        return admin_pb.UpdateKeyResponse(key=self._take(request, context, request.name), warnings=self.warnings)

    def DisableKey(self, request: Any, context: Any) -> Any:
        return admin_pb.DisableKeyResponse(key=self._take(request, context, request.name))

    def EnableKey(self, request: Any, context: Any) -> Any:
        return admin_pb.EnableKeyResponse(key=self._take(request, context, request.name))

    def CompromiseVersion(self, request: Any, context: Any) -> Any:
        return admin_pb.CompromiseVersionResponse(key=self._take(request, context, request.name), warnings=self.warnings)

    def DestroyVersion(self, request: Any, context: Any) -> Any:
        return admin_pb.DestroyVersionResponse(key=self._take(request, context, request.name), warnings=self.warnings)

    def Sign(self, request: Any, context: Any) -> Any:
        key = self._take(request, context, request.key)
        data = getattr(request, request.WhichOneof("input"))
        return pb.SignResponse(
            signature=self.private[key.name].sign(data),
            kid=request.kid or key.versions[0].kid,
            version=1,
            algorithm=key.algorithm,
            http_algorithm="ed25519",
            jose_algorithm="Ed25519",
        )

    def SignJWT(self, request: Any, context: Any) -> Any:
        key = self._take(request, context, request.key)
        header = {"alg": "Ed25519", "typ": request.typ, "kid": key.versions[0].kid}
        text = f"{_b64(json.dumps(header).encode())}.{_b64(request.claims.encode())}"
        return pb.SignJWTResponse(
            token=f"{text}.{_b64(self.private[key.name].sign(text.encode()))}", kid=key.versions[0].kid, version=1
        )

    def GetJWKS(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        document = {"keys": [json.loads(version.public_jwk) for key in self.keys.values() for version in key.versions]}
        return pb.GetJWKSResponse(document=json.dumps(document).encode(), etag='"1"', max_age=Duration(seconds=300))

    def ListSessions(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return session_pb.ListSessionsResponse(sessions=self.sessions)

    def RevokeSession(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return session_pb.RevokeSessionResponse(tokens=self.revoked)

    def RevokeToken(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        token = session_pb.RevokedToken(
            issuer=request.issuer,
            token_id=request.token_id,
            expire_time=request.expire_time,
            revoke_time=Timestamp(seconds=CREATED),
        )
        warnings = ["published nowhere"] if request.issuer.endswith("/") else []
        return session_pb.RevokeTokenResponse(token=token, warnings=warnings)

    def ListRevokedTokens(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return session_pb.ListRevokedTokensResponse(tokens=self.revoked)

    def IssueAgentToken(self, request: Any, context: Any) -> Any:
        self._take(request, context)
        return session_pb.IssueAgentTokenResponse(
            token="header.claims.signature",
            token_id="jti-1",
            kid="kid-1",
            expire_time=Timestamp(seconds=CREATED + 60),
            thumbprint="t" * 43,
            signature_key='sig=jwt;jwt="header.claims.signature"',
        )

    def SignBatch(self, request: Any, context: Any) -> Any:
        return pb.SignBatchResponse(results=[pb.SignResult(response=self.Sign(each, context)) for each in request.requests])

    def SignStream(self, request: Any, context: Any) -> Any:
        for each in request:
            yield pb.SignStreamResponse(id=each.id, result=pb.SignResult(response=self.Sign(each.request, context)))

    def WatchKeys(self, request: Any, context: Any) -> Any:
        raise NotImplementedError
