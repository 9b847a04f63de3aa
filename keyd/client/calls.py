"""Requests and answers, between the clients' values and protobuf messages. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keyd.client.errors import InternalError, KeydClientError, KeyStateError, NotFound, from_sign_error
from keyd.client.inputs import SignInput
from keyd.client.model import JwkSet, KeyInfo, Signature, VersionInfo, WellKnownDocument
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import types_pb2

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_MAX_BATCH = 256
_MAX_BATCH_BYTES = 768 * 1024  # daemons take messages of 1 MiB by default; the rest is for names and framing
_CACHE_SECONDS = 60.0


def sign_request(item: SignInput) -> pb.SignRequest:
    """Return one input as a request."""
    request = pb.SignRequest(key=item.key, kid=item.kid or "")
    setattr(request, item.kind.value, bytes(item.data))
    return request


def jwt_request(key: str, claims: Mapping[str, Any], typ: str, lifetime: float | None, kid: str | None) -> pb.SignJWTRequest:
    """Return a request for a JWT; ``lifetime`` in seconds. Raises ValueError or TypeError for claims that JSON cannot say."""
    request = pb.SignJWTRequest(
        key=key, kid=kid or "", typ=typ, claims=json.dumps(dict(claims), allow_nan=False, separators=(",", ":"))
    )
    if lifetime is not None:
        request.lifetime.CopyFrom(duration(lifetime))
    return request


class BatchLimits:
    """What one call may hold."""

    def __init__(self) -> None:
        self._count = self._size = 0

    def take(self, size: int) -> bool:
        """Count an input of so many bytes in, if there is room for it. There is always room for one."""
        if self._count and (self._count == _MAX_BATCH or self._size + size > _MAX_BATCH_BYTES):
            return False
        self._count += 1
        self._size += size
        return True


def batch_requests(items: Iterable[SignInput]) -> Iterator[pb.SignBatchRequest]:
    """Cut inputs into as few calls as the limits of one call allow, in order."""
    batch, limits = pb.SignBatchRequest(), BatchLimits()
    for item in items:
        if not limits.take(len(item.data)):
            yield batch
            batch, limits = pb.SignBatchRequest(), BatchLimits()
            limits.take(len(item.data))
        batch.requests.append(sign_request(item))
    if batch.requests:
        yield batch


def signature(response: pb.SignResponse, asked_kid: str | None) -> Signature:
    """Return a signature. Raises InternalError when another version signed than the one that was asked."""
    if not response.signature:
        raise InternalError("keyd answered without a signature; check that client and daemon are of the same release", _INTERNAL)
    if asked_kid and response.kid != asked_kid:
        raise InternalError(
            f"keyd signed with kid {response.kid!r} instead of {asked_kid!r}; the signature was dropped", _INTERNAL
        )
    return Signature(response.signature, response.kid, response.version, response.http_algorithm, response.jose_algorithm)


def result(message: pb.SignResult, asked_kid: str | None) -> Signature | KeydClientError:
    """Return one result of a batch or stream."""
    if message.HasField("error"):
        return from_sign_error(message.error)
    try:
        return signature(message.response, asked_kid)
    except InternalError as exc:
        return exc


def batch_results(request: pb.SignBatchRequest, response: pb.SignBatchResponse) -> list[Signature | KeydClientError]:
    """Return the results of a batch, in the order of its requests."""
    answers = batch_messages(request, response)
    return [result(answer, asked.kid) for asked, answer in zip(request.requests, answers, strict=True)]


def batch_messages(request: pb.SignBatchRequest, response: pb.SignBatchResponse) -> Sequence[pb.SignResult]:
    """Return the answers to a batch. Raises InternalError when they are not one each."""
    if len(response.results) != len(request.requests):
        raise InternalError(f"keyd answered {len(response.results)} results to {len(request.requests)} requests", _INTERNAL)
    return response.results


def key_info(response: pb.GetKeyResponse) -> KeyInfo:
    """Return what keyd says of a key."""
    return KeyInfo(
        name=response.key,
        jose_algorithm=response.jose_algorithm,
        http_algorithm=response.http_algorithm,
        purposes=frozenset(_name(types_pb2.Purpose.DESCRIPTOR, "PURPOSE_", number) for number in response.purposes),
        active=_version(response.active) if response.HasField("active") else None,
        versions=tuple(_version(version) for version in response.versions),
    )


def active_version(info: KeyInfo) -> VersionInfo:
    """Return the version that signs. Raises KeyStateError when there is none."""
    if info.active is None:
        raise KeyStateError(
            f"key {info.name!r} has no active version; enable it or create one", grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE"
        )
    return info.active


def version_of(info: KeyInfo, kid: str) -> VersionInfo:
    """Return the version that a kid names. Raises NotFound."""
    for version in info.versions:
        if version.kid == kid:
            return version
    raise NotFound(
        f"key {info.name!r} has no version with kid {kid!r} that is published or may sign; ask for the active one",
        grpc.StatusCode.NOT_FOUND,
        "NOT_FOUND",
    )


def jwk_set(response: pb.GetJWKSResponse) -> JwkSet:
    """Return a JWK Set. Raises InternalError where the answer is none."""
    try:
        well_formed = isinstance(json.loads(response.document)["keys"], list)
    except (ValueError, KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise InternalError("keyd answered with something that is no JWK Set", _INTERNAL)
    issuers = {issuer.name: tuple(issuer.hosts) for issuer in response.issuers}
    documents = tuple(
        WellKnownDocument(each.host, each.name, each.content, each.etag, each.max_age.seconds, each.failure)
        for each in response.documents
    )
    return JwkSet(response.document, response.etag, response.max_age.seconds, issuers, documents)


def duration(seconds: float) -> Duration:
    """Return seconds as a Duration."""
    message = Duration()
    message.FromMicroseconds(round(seconds * 1_000_000))
    return message


class KeyCache:
    """What is known of keys, for at most a minute and never past a planned rotation."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[KeyInfo, float, float]] = {}

    def get(self, key: str) -> KeyInfo | None:
        """Return what is known of a key, or None."""
        info, since, until = self._entries.get(key, (None, 0.0, 0.0))
        return info if since <= self._clock() < until else None  # a clock that was set back ends the entry too

    def put(self, info: KeyInfo) -> KeyInfo:
        """Remember a key that can sign, and return it."""
        now = self._clock()
        if info.active is None:
            self.drop(info.name)
            return info
        until = now + _CACHE_SECONDS
        if info.active.deactivate_time is not None:
            until = min(until, info.active.deactivate_time)
        self._entries[info.name] = (info, now, until)
        return info

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._entries.pop(key, None)


_INTERNAL = grpc.StatusCode.INTERNAL


def _name(enum: EnumDescriptor, prefix: str, number: int) -> str:
    value = enum.values_by_number.get(number)  # none when the daemon is newer than this client
    return value.name.removeprefix(prefix).lower() if value else f"unknown_{number}"


def _version(message: types_pb2.KeyVersion) -> VersionInfo:
    line = message.timeline
    return VersionInfo(
        version=message.version,
        kid=message.kid,
        thumbprint=message.thumbprint,
        public_jwk=message.public_jwk,
        state=_name(types_pb2.KeyState.DESCRIPTOR, "KEY_STATE_", message.state),
        published=message.published,
        publish_time=_seconds(line.publish_time) if line.HasField("publish_time") else None,
        activate_time=_seconds(line.activate_time) if line.HasField("activate_time") else None,
        deactivate_time=_seconds(line.deactivate_time) if line.HasField("deactivate_time") else None,
        sign_until=_seconds(line.sign_until_time) if line.HasField("sign_until_time") else None,
        unpublish_time=_seconds(line.unpublish_time) if line.HasField("unpublish_time") else None,
    )


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9
