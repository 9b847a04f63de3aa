"""A keyd in this process: the real API over a real Unix socket, with keys in memory and errors on demand."""

# ruff: noqa: N818 - gRPC and http.server choose the names of methods; Fault is short for tests

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keyd.client import AsyncClient, Client
from keyd.v1 import key_service_pb2, key_service_pb2_grpc, types_pb2
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc as pb_grpc

HTTP_NAMES = {
    "Ed25519": "ed25519",
    "ES256": "ecdsa-p256-sha256",
    "ES384": "ecdsa-p384-sha384",
    "PS512": "rsa-pss-sha512",
    "RS256": "rsa-v1_5-sha256",
}


def _generate(algorithm: str) -> Any:
    if algorithm == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in ("ES256", "ES384"):
        return ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())
    return rsa.generate_private_key(65537, 2048)


def _raw_signature(algorithm: str, private: Any, data: bytes) -> bytes:
    if algorithm == "Ed25519":
        return private.sign(data)
    if algorithm == "PS512":
        return private.sign(data, padding.PSS(padding.MGF1(hashes.SHA512()), 64), hashes.SHA512())
    if algorithm == "RS256":
        return private.sign(data, padding.PKCS1v15(), hashes.SHA256())
    size, digest = (32, hashes.SHA256()) if algorithm == "ES256" else (48, hashes.SHA384())
    r, s = utils.decode_dss_signature(private.sign(data, ec.ECDSA(digest)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


@dataclass
class Version:
    """One version; ``signs`` says whether keyd signs with it when it is named."""

    number: int
    kid: str
    private: Any
    signs: bool = True

    def jwk(self) -> dict[str, Any]:
        public = self.private.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        kinds = {ed25519.Ed25519PrivateKey: OKPKey, ec.EllipticCurvePrivateKey: ECKey, rsa.RSAPrivateKey: RSAKey}
        kind = next(jwk for private, jwk in kinds.items() if isinstance(self.private, private))
        return kind.import_key(pem).as_dict() | {"kid": self.kid}


class Fault(Exception):
    """What keyd says instead of a result."""

    def __init__(self, code: grpc.StatusCode, reason: str = "", domain: str = "keyd", **metadata: str) -> None:
        super().__init__(f"{reason or code.name} on purpose")
        self.code, self.reason, self.domain, self.metadata = code, reason, domain, metadata

    def status(self) -> Any:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain=self.domain, metadata=self.metadata))
        return rpc_status.to_status(
            status_pb2.Status(code=self.code.value[0], message=str(self), details=[detail] if self.reason else [])
        )


class FakeDaemon(pb_grpc.SigningServiceServicer, key_service_pb2_grpc.KeyServiceServicer):
    """Signs with keys of its own. ``calls`` has what was asked; ``faults`` has what the next calls get instead of an answer."""

    Fault = Fault

    def __init__(self, socket: Path) -> None:
        self.address = f"unix:{socket}"
        self.algorithms: dict[str, str] = {}
        self.versions: dict[str, list[Version]] = {}
        self.deactivate_time: int | None = None
        self.disabled = False
        self.faults: deque[Fault] = deque()
        self.faults_in_batches: deque[Fault] = deque()
        self.jwks_document: bytes | None = None
        self.hang = False
        self.swallow = 0
        self.lie_about_kid = False
        self.calls: list[str] = []
        self.requests: list[Any] = []
        self.changed = threading.Event()
        self._executor = ThreadPoolExecutor(4)
        self._server = grpc.server(self._executor)
        pb_grpc.add_SigningServiceServicer_to_server(self, self._server)
        key_service_pb2_grpc.add_KeyServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._executor.shutdown()

    def add(self, name: str, algorithm: str = "Ed25519") -> Version:
        self.algorithms[name] = algorithm
        self.versions[name] = []
        return self.rotate(name)

    def rotate(self, name: str, *, grace: bool = False) -> Version:
        for old in self.versions[name]:
            old.signs = grace
        number = len(self.versions[name]) + 1
        version = Version(number, f"{name}-{number}", _generate(self.algorithms[name]))
        self.versions[name].append(version)
        self.changed.set()
        return version

    def public_keys(self) -> dict[str, Any]:
        return {v.kid: v.private.public_key() for versions in self.versions.values() for v in versions}

    # the service

    def Sign(self, request, context):
        return self._serve("Sign", request, context, self._signed)

    def SignBatch(self, request, context):
        return self._serve(
            "SignBatch", request, context, lambda r: pb.SignBatchResponse(results=[self._result(x) for x in r.requests])
        )

    def SignStream(self, request_iterator, context):
        """Answer pairs in reverse, as a daemon may."""
        self.calls.append("SignStream")
        held = None
        for message in request_iterator:
            self.requests.append(message)
            if self.faults and self.faults[0].code is grpc.StatusCode.ABORTED:
                context.abort_with_status(self.faults.popleft().status())
            if self.swallow:
                self.swallow -= 1
                continue
            answer = pb.SignStreamResponse(id=message.id, result=self._result(message.request))
            if held is None:
                held = answer
                continue
            yield answer
            yield held
            held = None
        if held is not None:
            yield held

    def SignJWT(self, request, context):
        def sign(r):
            version = self._version(r.key, r.kid)
            header = {"alg": self.algorithms[r.key], "typ": r.typ, "kid": version.kid}
            parts = [json.dumps(header).encode(), r.claims.encode()]
            signing_input = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
            signature = _raw_signature(self.algorithms[r.key], version.private, signing_input)
            token = signing_input + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
            return pb.SignJWTResponse(token=token.decode(), kid=version.kid, version=version.number)

        return self._serve("SignJWT", request, context, sign)

    def GetKey(self, request, context):
        if isinstance(request, key_service_pb2.KeyServiceGetKeyRequest):
            return self._serve(
                "GetKey", request, context, lambda r: key_service_pb2.KeyServiceGetKeyResponse(key=self._admin_key(r.name))
            )
        return self._serve("GetKey", request, context, lambda r: self._key(r.key))

    def GetJWKS(self, request, context):
        names = [request.key] if request.key else sorted(self.versions)
        document = json.dumps({"keys": [v.jwk() for name in names for v in self.versions[name]]}).encode()
        if request.issuer not in ("", "shop"):
            self.faults.append(Fault(grpc.StatusCode.NOT_FOUND))
        answer = pb.GetJWKSResponse(
            document=document if self.jwks_document is None else self.jwks_document,
            etag='"1"',
            issuers=[pb.Issuer(name="shop", hosts=["keys.example", "keys.example:8443"])],
        )
        answer.max_age.seconds = 300
        return self._serve("GetJWKS", request, context, lambda _: answer)

    def WatchKeys(self, request, context):
        context.add_callback(self.changed.set)
        self._meet_fault("WatchKeys", request, context)
        while context.is_active():
            self.changed.clear()
            for name in request.keys:
                yield pb.WatchKeysResponse(key=self._key(name))
            self.changed.wait()
            if self.faults and context.is_active():
                context.abort_with_status(self.faults.popleft().status())

    # the operators' service

    def CreateKey(self, request, context):
        def create(r):
            self.add(r.spec.name)
            return key_service_pb2.CreateKeyResponse(key=self._admin_key(r.spec.name), warnings=["a warning"])

        return self._serve("CreateKey", request, context, create)

    def ImportKey(self, request, context):
        return self._serve("ImportKey", request, context, lambda r: key_service_pb2.ImportKeyResponse())

    def ListKeys(self, request, context):
        def page(r):
            names = sorted(self.versions)
            at = int(r.page_token or 0)
            token = str(at + 1) if at + 1 < len(names) else ""
            return key_service_pb2.ListKeysResponse(keys=[self._admin_key(names[at])] if names else [], next_page_token=token)

        return self._serve("ListKeys", request, context, page)

    def RotateKey(self, request, context):
        return self._serve(
            "RotateKey", request, context, lambda r: key_service_pb2.RotateKeyResponse(version=self.rotate(r.name).number)
        )

    def DisableKey(self, request, context):
        return self._serve(
            "DisableKey", request, context, lambda r: key_service_pb2.DisableKeyResponse(key=self._admin_key(r.name))
        )

    def EnableKey(self, request, context):
        return self._serve(
            "EnableKey", request, context, lambda r: key_service_pb2.EnableKeyResponse(key=self._admin_key(r.name))
        )

    def CompromiseVersion(self, request, context):
        return self._serve("CompromiseVersion", request, context, lambda r: key_service_pb2.CompromiseVersionResponse())

    def DestroyVersion(self, request, context):
        return self._serve("DestroyVersion", request, context, lambda r: key_service_pb2.DestroyVersionResponse())

    # how they work

    def _serve(self, method, request, context, answer):
        self._meet_fault(method, request, context)
        try:
            return answer(request)
        except Fault as fault:
            context.abort_with_status(fault.status())

    def _meet_fault(self, method, request, context):
        self.calls.append(method)
        self.requests.append(request)
        if self.hang:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait()
        if self.faults:
            context.abort_with_status(self.faults.popleft().status())

    def _version(self, name: str, kid: str) -> Version:
        if name not in self.versions:
            raise Fault(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        active = self.versions[name][-1]
        version = next((v for v in self.versions[name] if v.kid == (kid or active.kid)), None)
        if version is None or not version.signs:
            raise Fault(grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE", active_kid=active.kid)
        return version

    def _signed(self, request: pb.SignRequest) -> pb.SignResponse:
        version = self._version(request.key, request.kid)
        algorithm = self.algorithms[request.key]
        return pb.SignResponse(
            signature=_raw_signature(algorithm, version.private, getattr(request, request.WhichOneof("input"))),
            kid="someone-else" if self.lie_about_kid else version.kid,
            version=version.number,
            http_algorithm=HTTP_NAMES[algorithm],
            jose_algorithm=algorithm,
        )

    def _result(self, request: pb.SignRequest) -> pb.SignResult:
        try:
            if self.faults_in_batches:
                raise self.faults_in_batches.popleft()
            return pb.SignResult(response=self._signed(request))
        except Fault as fault:
            error = pb.SignError(code=fault.code.value[0], reason=fault.reason, message=str(fault), metadata=fault.metadata)
            return pb.SignResult(error=error)

    def _key(self, name: str) -> pb.GetKeyResponse:
        active = self._version(name, "")
        versions = [self._key_version(name, version) for version in reversed(self.versions[name])]
        response = pb.GetKeyResponse(
            key=name,
            jose_algorithm=self.algorithms[name],
            http_algorithm=HTTP_NAMES[self.algorithms[name]],
            purposes=[types_pb2.PURPOSE_HTTP, types_pb2.PURPOSE_JWT],
            active=None if self.disabled else self._key_version(name, active),
            versions=versions,
        )
        if self.deactivate_time is not None:
            response.active.timeline.deactivate_time.seconds = self.deactivate_time
        return response

    def _key_version(self, name: str, version: Version) -> types_pb2.KeyVersion:
        active = version is self.versions[name][-1]
        return types_pb2.KeyVersion(
            key=name,
            version=version.number,
            kid=version.kid,
            thumbprint="t",
            public_jwk=json.dumps(version.jwk()),
            state=types_pb2.KEY_STATE_ACTIVE if active else types_pb2.KEY_STATE_DEACTIVATED,
            published=True,
        )

    def _admin_key(self, name: str) -> types_pb2.Key:
        if name not in self.versions:
            raise Fault(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        return types_pb2.Key(name=name, versions=[self._key_version(name, version) for version in self.versions[name]])


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path / "keyd.sock")
    daemon.add("agent")
    yield daemon
    daemon.stop()


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.address) as client:
        yield client


@pytest.fixture
async def aclient(daemon: FakeDaemon):
    async with AsyncClient(daemon.address) as client:
        yield client
