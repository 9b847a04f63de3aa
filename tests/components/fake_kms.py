"""A fake of AWS KMS at the wire, and of the one call of STS that goes with it. It is not AWS: see FakeKms for what it knows.

It answers HTTP as KMS does, so that the real SDK talks to it. Requests are checked against the SDK's own model of the service,
which says what is required, how long it may be and which values there are.
"""
# ruff: noqa: N803 - parameters are named as in the API

from __future__ import annotations

import base64
import json
import random
import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from botocore.session import Session
from components.iam import Policy
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

REGION = "eu-central-1"
ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/keyd"
ADMIN = ("AKIAADMIN0000000FAKE", "the-secret-of-the-admin")
#: May assume the role, and nothing else.
DAEMON = ("AKIADAEMON000000FAKE", "the-secret-of-the-daemon")
EXTERNAL_ID = "the-external-id"

_MODEL = Session().get_service_model("kms")
_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES = {"ECC_NIST_P256": ec.SECP256R1(), "ECC_NIST_P384": ec.SECP384R1(), "ECC_NIST_P521": ec.SECP521R1()}
_ALGORITHMS = {
    "ECC_NIST_P256": ["ECDSA_SHA_256"],
    "ECC_NIST_P384": ["ECDSA_SHA_384"],
    "ECC_NIST_P521": ["ECDSA_SHA_512"],
    "ECC_NIST_EDWARDS25519": ["ED25519_PH_SHA_512", "ED25519_SHA_512"],
    **{
        f"RSA_{bits}": [f"RSASSA_{scheme}_SHA_{size}" for scheme in ("PKCS1_V1_5", "PSS") for size in _HASHES]
        for bits in (2048, 3072, 4096)
    },
}


class KmsError(Exception):
    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@dataclass
class FakeKey:
    id: str
    spec: str
    usage: str
    private: Any
    tags: dict[str, str]
    description: str
    multi_region: bool
    state: str = "Enabled"
    window: int | None = None
    unseen: int = 0  # how many more calls do not know of it yet

    @property
    def arn(self) -> str:
        return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{self.id}"


@dataclass
class Caller:
    name: str
    token: str | None = None
    policy: Policy | None = None  # None: may do everything
    only_assume: bool = False
    expired: bool = False


@dataclass
class FakeKms:
    """Keys, their states, tags and aliases; signatures with the digest's length checked and PSS salted as long as the hash.

    Also: pages, multi-region ids, new keys that are not known everywhere yet, throttling, policies by ``components.iam``,
    roles with temporary credentials, and not answering at all. Not: key policies, grants, TLS, the checking of signatures of
    requests (the access key and the session token are looked up), other accounts and regions.
    """

    page_size: int = 3
    #: The policy of the role.
    policy: str | None = None
    external_id: str | None = None
    #: How many calls about a new key find none.
    lag: int = 0
    #: What part of the calls is throttled.
    throttled: float = 0.0
    refusing: bool = False
    #: Whether a missing key is answered with AccessDeniedException, as where a policy by tags allows nothing without a key.
    hides_missing: bool = False
    #: The next calls of an operation fail with this: {"Sign": [KmsError(...)]}.
    failures: dict[str, list[KmsError]] = field(default_factory=dict)
    keys: dict[str, FakeKey] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    #: Every call that came: operation, parameters.
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    #: What IAM was asked about the role, and allowed.
    actions: Counter[str] = field(default_factory=Counter)
    lifetime: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        self.callers = {ADMIN[0]: Caller("admin"), DAEMON[0]: Caller("daemon", only_assume=True)}
        self._lock = threading.RLock()
        self._random = random.Random(20261124)
        self._hang = threading.Event()
        self._hang_at: tuple[str, ...] = ()
        self._resumed = threading.Event()
        self._port = 0
        self._server: _Server | None = None

    # -- the process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.kms = self
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.drop_connections()

    @contextmanager
    def running(self) -> Iterator[FakeKms]:
        self.start()
        try:
            yield self
        finally:
            self._resumed.set()
            self.stop()

    # -- faults

    @contextmanager
    def gone(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hung(self, *operations: str) -> Iterator[None]:
        """Answer nothing, or none of these operations."""
        self._resumed.clear()
        self._hang_at = operations
        self._hang.set()
        try:
            yield
        finally:
            self._hang.clear()
            self._resumed.set()

    @contextmanager
    def throttling(self, part: float) -> Iterator[None]:
        self.throttled = part
        try:
            yield
        finally:
            self.throttled = 0.0

    @contextmanager
    def refusals(self) -> Iterator[None]:
        self.refusing = True
        try:
            yield
        finally:
            self.refusing = False

    def expire_credentials(self) -> None:
        """End the life of all temporary credentials that are out, before their time."""
        with self._lock:
            for caller in self.callers.values():
                caller.expired = caller.expired or caller.token is not None

    # -- the service

    def answer(self, target: str, headers: Any, body: bytes) -> tuple[int, bytes, str]:
        """Return status, content and type of the answer to one request."""
        if self._hang.is_set() and (not self._hang_at or target.partition(".")[2] in self._hang_at):
            self._resumed.wait(60)
            raise ConnectionAbortedError
        if not target:
            return self._sts(headers, {key: values[0] for key, values in parse_qs(body.decode()).items()})
        try:
            result = self._kms(target, headers, body)
        except KmsError as error:
            return error.status, json.dumps({"__type": error.code, "message": error.message}).encode(), _JSON
        return 200, b"" if result is None else json.dumps(result, default=_encode).encode(), _JSON

    def _kms(self, target: str, headers: Any, body: bytes) -> dict[str, Any] | None:
        service, _, operation = target.partition(".")
        if service != "TrentService" or operation not in _MODEL.operation_names or not hasattr(self, f"_do_{operation}"):
            raise KmsError("UnknownOperationException", "")
        caller = self._caller(headers)
        parameters = _checked(_MODEL.operation_model(operation).input_shape, json.loads(body or b"{}"))
        with self._lock:
            self.calls.append((operation, parameters))
            if self.throttled and self._random.random() < self.throttled:
                raise KmsError("ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce ...")
            if self.failures.get(operation):
                raise self.failures[operation].pop(0)
            if self.refusing or caller.only_assume:
                raise _denied(caller, f"kms:{operation}")
            prepared = getattr(self, f"_do_{operation}")(caller, **parameters)
        # Outside of the lock, so that signatures are made side by side.
        return prepared() if callable(prepared) else prepared

    def _caller(self, headers: Any) -> Caller:
        match = re.search(r"Credential=([^/]+)/\d{8}/([a-z0-9-]+)/(kms|sts)/aws4_request", headers.get("Authorization", ""))
        if match is None:
            raise KmsError("MissingAuthenticationTokenException", "Missing Authentication Token")
        with self._lock:
            caller = self.callers.get(match[1])
            if caller is None or caller.token != headers.get("X-Amz-Security-Token"):
                raise KmsError("UnrecognizedClientException", "The security token included in the request is invalid.")
            if caller.expired:
                raise KmsError("ExpiredTokenException", "The security token included in the request is expired")
            return caller

    def _sts(self, headers: Any, form: dict[str, str]) -> tuple[int, bytes, str]:
        try:
            caller = self._caller(headers)
            external = form.get("ExternalId")
            if form.get("Action") != "AssumeRole" or form.get("RoleArn") != ROLE or external != self.external_id or self.refusing:
                raise KmsError("AccessDenied", f"{caller.name} is not authorized to perform: sts:AssumeRole", 403)
        except KmsError as error:
            content = f"<ErrorResponse><Error><Code>{error.code}</Code><Message>{error.message}</Message></Error></ErrorResponse>"
            return error.status, content.encode(), "text/xml"
        with self._lock:
            number = len(self.callers)
            access, token = f"ASIA{number:016d}", f"token-{number}-{uuid.uuid4()}"
            policy = None if self.policy is None else Policy(self.policy)
            self.callers[access] = Caller(f"role/keyd/{form['RoleSessionName']}", token, policy)
            self.calls.append(("AssumeRole", dict(form)))
        end = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        content = (
            f"<AssumeRoleResponse><AssumeRoleResult><AssumedRoleUser><AssumedRoleId>AROA:{number}</AssumedRoleId>"
            f"<Arn>arn:aws:sts::{ACCOUNT}:assumed-role/keyd/x</Arn></AssumedRoleUser><Credentials><AccessKeyId>{access}"
            f"</AccessKeyId><SecretAccessKey>secret-{number}</SecretAccessKey><SessionToken>{token}</SessionToken>"
            f"<Expiration>{end}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
        )
        return 200, content.encode(), "text/xml"

    def _allow(self, caller: Caller, action: str, resource: str, **context: Any) -> None:
        if caller.policy is None:
            return
        if not caller.policy.allows(action, resource, context):
            raise _denied(caller, action)
        self.actions[action] += 1

    def _allow_key(self, caller: Caller, action: str, key: FakeKey, **context: Any) -> None:
        context |= {f"aws:ResourceTag/{name}": value for name, value in key.tags.items()}
        context["kms:ResourceAliases"] = [alias for alias, target in self.aliases.items() if target == key.id]
        self._allow(caller, action, key.arn, **context)

    def _key(self, caller: Caller, action: str, key_id: str, **context: Any) -> FakeKey:
        if re.fullmatch(r"arn:aws:kms:[a-z0-9-]+:\d{12}:(key|alias)/.+", key_id):
            key_id = key_id.split(":", 5)[5].removeprefix("key/")
        elif key_id.startswith("arn:"):
            raise KmsError("InvalidArnException", f"Invalid arn {key_id}")
        key = self.keys.get(self.aliases.get(key_id, key_id))
        if key is None or key.unseen:
            if key is not None:
                key.unseen -= 1
            if self.hides_missing:
                raise _denied(caller, action)
            kind = "Alias" if key_id.startswith("alias/") else "Key"
            raise KmsError("NotFoundException", f"{kind} 'arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}' does not exist")
        self._allow_key(caller, action, key, **context)
        return key

    def _usable(self, key: FakeKey) -> None:
        if key.state == "Disabled":
            raise KmsError("DisabledException", f"{key.arn} is disabled.")
        if key.state != "Enabled":
            raise KmsError("KMSInvalidStateException", f"{key.arn} is {_SAID.get(key.state, key.state)}.")

    def _do_CreateKey(
        self,
        caller: Caller,
        KeySpec: str = "SYMMETRIC_DEFAULT",
        KeyUsage: str = "ENCRYPT_DECRYPT",
        Description: str = "",
        Tags: list[dict[str, str]] | None = None,
        MultiRegion: bool = False,
    ) -> dict[str, Any]:
        tags = {tag["TagKey"]: tag["TagValue"] for tag in Tags or ()}
        if len(tags) != len(Tags or ()) or len(tags) > 50 or any(name.startswith("aws:") for name in tags):
            raise KmsError("TagException", "Duplicate, too many or reserved tag keys")
        context: dict[str, Any] = {f"aws:RequestTag/{name}": value for name, value in tags.items()}
        context["aws:TagKeys"] = list(tags)
        what = {"kms:KeySpec": KeySpec, "kms:KeyUsage": KeyUsage}
        self._allow(caller, "kms:CreateKey", "*", **context, **what)
        if tags:
            self._allow(caller, "kms:TagResource", f"arn:aws:kms:{REGION}:{ACCOUNT}:key/*", **context)
        if KeyUsage == "SIGN_VERIFY" and KeySpec not in _ALGORITHMS:
            raise KmsError("ValidationException", f"KeyUsage SIGN_VERIFY is not compatible with KeySpec {KeySpec}")
        if KeySpec.startswith("ECC") and KeyUsage == "ENCRYPT_DECRYPT":
            raise KmsError("ValidationException", f"KeyUsage ENCRYPT_DECRYPT is not compatible with KeySpec {KeySpec}")
        key_id = f"mrk-{uuid.uuid4().hex}" if MultiRegion else str(uuid.uuid4())
        key = FakeKey(key_id, KeySpec, KeyUsage, _generate(KeySpec), tags, Description, MultiRegion, unseen=self.lag)
        self.keys[key_id] = key
        return {"KeyMetadata": self._metadata(key)}

    def _do_DescribeKey(self, caller: Caller, KeyId: str) -> dict[str, Any]:
        return {"KeyMetadata": self._metadata(self._key(caller, "kms:DescribeKey", KeyId))}

    def _metadata(self, key: FakeKey) -> dict[str, Any]:
        return {
            "AWSAccountId": ACCOUNT,
            "KeyId": key.id,
            "Arn": key.arn,
            "CreationDate": 1795550000,
            "Enabled": key.state == "Enabled",
            "Description": key.description,
            "KeyUsage": key.usage,
            "KeyState": key.state,
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "KeySpec": key.spec,
            "CustomerMasterKeySpec": key.spec,
            "MultiRegion": key.multi_region,
        }

    def _do_GetPublicKey(self, caller: Caller, KeyId: str) -> dict[str, Any]:
        key = self._key(caller, "kms:GetPublicKey", KeyId)
        self._usable(key)
        if key.private is None:
            raise KmsError("UnsupportedOperationException", "")
        public = key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {
            "KeyId": key.arn,
            "PublicKey": public,
            "KeySpec": key.spec,
            "CustomerMasterKeySpec": key.spec,
            "KeyUsage": key.usage,
        }

    def _do_Sign(self, caller: Caller, KeyId: str, Message: bytes, SigningAlgorithm: str, MessageType: str = "RAW") -> Any:
        key = self._key(caller, "kms:Sign", KeyId, **{"kms:MessageType": MessageType, "kms:SigningAlgorithm": SigningAlgorithm})
        self._usable(key)
        if key.usage != "SIGN_VERIFY":
            raise KmsError("InvalidKeyUsageException", f"{key.arn} key usage is {key.usage} which is not valid for Sign.")
        if SigningAlgorithm not in _ALGORITHMS[key.spec]:
            message = f"Algorithm {SigningAlgorithm} is incompatible with key spec {key.spec}."
            raise KmsError("InvalidKeyUsageException", message)
        if SigningAlgorithm == "ED25519_PH_SHA_512" or (SigningAlgorithm == "ED25519_SHA_512" and MessageType != "RAW"):
            raise KmsError("ValidationException", f"MessageType {MessageType} is not valid for {SigningAlgorithm}")
        if MessageType == "DIGEST" and len(Message) != _HASHES[SigningAlgorithm[-3:]].digest_size:
            raise KmsError("ValidationException", f"Digest is invalid length for algorithm {SigningAlgorithm}.")

        def answer() -> dict[str, Any]:
            signature = _sign(key.private, SigningAlgorithm, Message, MessageType)
            return {"KeyId": key.arn, "Signature": signature, "SigningAlgorithm": SigningAlgorithm}

        return answer

    def _do_CreateAlias(self, caller: Caller, AliasName: str, TargetKeyId: str) -> None:
        if not AliasName.startswith("alias/") or AliasName.startswith("alias/aws/"):
            raise KmsError(
                "InvalidAliasNameException", f"Alias must start with the prefix 'alias/', and not 'alias/aws/': {AliasName}"
            )
        if ":" in AliasName:  # the model's pattern takes it, the service does not
            raise KmsError("ValidationException", f"{AliasName} contains invalid characters for an alias")
        arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:{AliasName}"
        self._allow(caller, "kms:CreateAlias", arn)
        key = self._key(caller, "kms:CreateAlias", TargetKeyId)
        if key.state == "PendingDeletion":
            raise KmsError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
        if AliasName in self.aliases:
            raise KmsError("AlreadyExistsException", f"An alias with the name {arn} already exists")
        self.aliases[AliasName] = key.id

    def _do_DeleteAlias(self, caller: Caller, AliasName: str) -> None:
        arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:{AliasName}"
        self._allow(caller, "kms:DeleteAlias", arn)
        if AliasName not in self.aliases:
            raise KmsError("NotFoundException", f"Alias {arn} is not found.")
        self._allow_key(caller, "kms:DeleteAlias", self.keys[self.aliases[AliasName]])
        del self.aliases[AliasName]

    def _do_ListAliases(
        self, caller: Caller, Limit: int = 50, Marker: str | None = None, KeyId: str | None = None
    ) -> dict[str, Any]:
        if Limit > 100:
            raise KmsError("ValidationException", "Limit must be at most 100")
        if KeyId is None:
            self._allow(caller, "kms:ListAliases", "*")
            wanted = [{"AliasName": "alias/aws/s3"}, *({"AliasName": a, "TargetKeyId": k} for a, k in self.aliases.items())]
        else:
            key = self._key(caller, "kms:ListAliases", KeyId)
            wanted = [{"AliasName": alias, "TargetKeyId": key.id} for alias, target in self.aliases.items() if target == key.id]
        wanted = sorted(wanted, key=lambda entry: entry["AliasName"])
        start = 0 if Marker is None else int(base64.b64decode(Marker))
        end = start + min(Limit, self.page_size)
        more = {"NextMarker": base64.b64encode(b"%d" % end).decode()} if end < len(wanted) else {}
        return {"Aliases": wanted[start:end], "Truncated": bool(more), **more}

    def _do_ScheduleKeyDeletion(self, caller: Caller, KeyId: str, PendingWindowInDays: int = 30) -> dict[str, Any]:
        window = {"kms:ScheduleKeyDeletionPendingWindowInDays": str(PendingWindowInDays)}
        key = self._key(caller, "kms:ScheduleKeyDeletion", KeyId, **window)
        if not 7 <= PendingWindowInDays <= 30:
            raise KmsError("ValidationException", "PendingWindowInDays must be between 7 and 30 (inclusive)")
        if key.state == "PendingDeletion":
            raise KmsError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
        key.state, key.window = "PendingDeletion", PendingWindowInDays
        end = time.time() + PendingWindowInDays * 86400
        return {"KeyId": key.arn, "DeletionDate": end, "KeyState": key.state, "PendingWindowInDays": PendingWindowInDays}

    def _do_CancelKeyDeletion(self, caller: Caller, KeyId: str) -> dict[str, Any]:
        key = self._key(caller, "kms:CancelKeyDeletion", KeyId)
        key.state, key.window = "Disabled", None
        return {"KeyId": key.arn}

    def _do_DisableKey(self, caller: Caller, KeyId: str) -> None:
        self._key(caller, "kms:DisableKey", KeyId).state = "Disabled"

    def _do_EnableKey(self, caller: Caller, KeyId: str) -> None:
        self._key(caller, "kms:EnableKey", KeyId).state = "Enabled"


_JSON = "application/x-amz-json-1.1"
_SAID = {"PendingDeletion": "pending deletion", "Creating": "creating", "Unavailable": "unavailable"}


def _denied(caller: Caller, action: str) -> KmsError:
    return KmsError("AccessDeniedException", f"User: {caller.name} is not authorized to perform: {action} on this resource")


def _encode(value: object) -> str:
    assert isinstance(value, bytes)
    return base64.b64encode(value).decode()


def _generate(spec: str) -> Any:
    if spec in _CURVES:
        return ec.generate_private_key(_CURVES[spec])
    if spec == "ECC_NIST_EDWARDS25519":
        return ed25519.Ed25519PrivateKey.generate()
    if spec.startswith("RSA_"):
        return rsa.generate_private_key(65537, int(spec[4:]))
    return None  # symmetric


def _sign(private: Any, algorithm: str, message: bytes, message_type: str) -> bytes:
    if algorithm == "ED25519_SHA_512":
        return private.sign(message)
    digest = _HASHES[algorithm[-3:]]
    how = utils.Prehashed(digest) if message_type == "DIGEST" else digest
    if algorithm.startswith("ECDSA"):
        return private.sign(message, ec.ECDSA(how))
    if algorithm.startswith("RSASSA_PSS"):
        return private.sign(message, padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size), how)
    return private.sign(message, padding.PKCS1v15(), how)


def _checked(shape: Any, value: Any, place: str = "") -> Any:
    """Return a value of the model's shape, blobs decoded; ValidationException for what KMS would refuse."""
    if shape.type_name == "structure":
        unknown, missing = value.keys() - shape.members.keys(), set(shape.required_members) - value.keys()
        if unknown or missing:
            raise _invalid(f"{place}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        return {name: _checked(shape.members[name], member, name[0].lower() + name[1:]) for name, member in value.items()}
    if shape.type_name == "list":
        return [_checked(shape.member, member, place) for member in value]
    if shape.type_name == "blob":
        value = base64.b64decode(value, validate=True)
    kinds = {"blob": bytes, "string": str, "integer": int, "boolean": bool}
    if type(value) is not kinds[shape.type_name]:
        raise KmsError("SerializationException", "")
    size, facts = len(value) if isinstance(value, str | bytes) else value, shape.metadata
    if not facts.get("min", size) <= size <= facts.get("max", size):
        raise _invalid(f"Value at '{place}' failed to satisfy constraint: Member must have length between its bounds")
    if value not in (facts.get("enum") or [value]):
        raise _invalid(f"Value at '{place}' failed to satisfy constraint: Member must satisfy enum value set")
    if isinstance(value, str) and "pattern" in facts and re.search(facts["pattern"], value) is None:
        raise _invalid(f"Value '{value}' at '{place}' failed to satisfy constraint: Member must satisfy regular expression")
    return value


def _invalid(text: str) -> KmsError:
    return KmsError("ValidationException", f"1 validation error detected: {text}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    kms: FakeKms

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections are cut on purpose here

    def drop_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers and content in one segment, or each answer waits for a delayed acknowledgement
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content, kind = self.server.kms.answer(self.headers.get("X-Amz-Target", ""), self.headers, body)
        self.send_response(status)
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass
