"""The one place where domain values become protobuf messages and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from backends.api import Algorithm
from keyd.core.errors import InvalidArgumentError
from keyd.core.jwks import public_jwk
from keyd.core.model import Key, KidFormat, Purpose
from keyd.core.planner import Step, StepKind
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.timeline import KeyState, LifecyclePolicy
from keyd.v1 import key_service_pb2, signing_service_pb2, types_pb2

if TYPE_CHECKING:
    from keyd.service.keys import Defaults

T = TypeVar("T")

ALGORITHMS = {
    Algorithm.ED25519: types_pb2.ALGORITHM_ED25519,
    Algorithm.ES256: types_pb2.ALGORITHM_ES256,
    Algorithm.ES384: types_pb2.ALGORITHM_ES384,
    Algorithm.PS512: types_pb2.ALGORITHM_PS512,
    Algorithm.RS256: types_pb2.ALGORITHM_RS256,
}
#: As responses tell of an algorithm: the API's own name, HTTP's and JOSE's.
ALGORITHM_NAMES = {algorithm: (name, algorithm.http_name, algorithm.value) for algorithm, name in ALGORITHMS.items()}
PURPOSES = {
    Purpose.HTTP: types_pb2.PURPOSE_HTTP,
    Purpose.JWT: types_pb2.PURPOSE_JWT,
    Purpose.DIRECTORY: types_pb2.PURPOSE_DIRECTORY,
    Purpose.RAW: types_pb2.PURPOSE_RAW,
    Purpose.AUDIT: types_pb2.PURPOSE_AUDIT,
}
KID_FORMATS = {
    KidFormat.THUMBPRINT: types_pb2.KID_FORMAT_THUMBPRINT,
    KidFormat.NAME_VERSION: types_pb2.KID_FORMAT_NAME_VERSION,
}
#: What a key is for whose spec does not say; with every other profile, for HTTP requests alone.
_PURPOSES_OF_PROFILE = {"web-bot-auth": frozenset({Purpose.HTTP, Purpose.DIRECTORY})}
STATES = {
    KeyState.PRE_ACTIVATION: types_pb2.KEY_STATE_PRE_ACTIVATION,
    KeyState.ACTIVE: types_pb2.KEY_STATE_ACTIVE,
    KeyState.DEACTIVATED: types_pb2.KEY_STATE_DEACTIVATED,
    KeyState.COMPROMISED: types_pb2.KEY_STATE_COMPROMISED,
    KeyState.DESTROYED: types_pb2.KEY_STATE_DESTROYED,
}
STEP_KINDS = {
    StepKind.CREATE: key_service_pb2.STEP_KIND_CREATE,
    StepKind.PUBLISH: key_service_pb2.STEP_KIND_PUBLISH,
    StepKind.ACTIVATE: key_service_pb2.STEP_KIND_ACTIVATE,
    StepKind.STOP_SIGNING: key_service_pb2.STEP_KIND_STOP_SIGNING,
    StepKind.UNPUBLISH: key_service_pb2.STEP_KIND_UNPUBLISH,
    StepKind.DESTROY: key_service_pb2.STEP_KIND_DESTROY,
}
_TIMES = {
    "created_at": "create_time",
    "publish_at": "publish_time",
    "activate_at": "activate_time",
    "deactivate_at": "deactivate_time",
    "sign_until": "sign_until_time",
    "unpublish_at": "unpublish_time",
    "destroyed_at": "destroy_time",
    "compromised_at": "compromise_time",
}


def timestamp(at: float) -> Timestamp:
    """Return seconds since the epoch as a Timestamp."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(at * 1_000_000))
    return stamp


def duration(seconds: float) -> Duration:
    """Return seconds as a Duration."""
    message = Duration()
    message.FromMicroseconds(round(seconds * 1_000_000))
    return message


def seconds(message: Duration, field: str) -> float:
    """Return a Duration in seconds. Raises InvalidArgumentError when it is negative or past a century."""
    value = message.seconds + message.nanos / 1e9
    if not 0 <= value <= 100 * 366 * 86400:
        raise InvalidArgumentError(f"{field} is a duration between 0 and 100 years")
    return value


def key_version(key: Key, view: VersionView, now: float) -> types_pb2.KeyVersion:
    """Return one version as a message."""
    record = view.record
    message = types_pb2.KeyVersion(
        key=record.key,
        version=record.version,
        kid=record.kid,
        thumbprint=record.thumbprint,
        public_jwk=json.dumps(public_jwk(key, view), separators=(",", ":")),
        state=STATES[record.timeline.state(now)],
        published=key.publish and record.timeline.published(now),
        compromise_reason=record.compromise_reason,
    )
    for field in fields(record.timeline):
        at: float = getattr(record.timeline, field.name)
        if not math.isinf(at):
            getattr(message.timeline, _TIMES[field.name]).CopyFrom(timestamp(at))
    return message


def key(view: KeyView, now: float) -> types_pb2.Key:
    """Return a key with all its versions, for operators."""
    record = view.key
    return types_pb2.Key(
        name=record.name,
        algorithm=ALGORITHMS[record.algorithm],
        backend=record.backend,
        purposes=sorted(PURPOSES[p] for p in record.purposes),
        profile=record.profile,
        kid_format=KID_FORMATS[record.kid_format],
        keyid_aliases=record.keyid_aliases,
        publish=record.publish,
        lifecycle=types_pb2.LifecyclePolicy(
            **{name: duration(period) for name, period in asdict(record.lifecycle).items() if not math.isinf(period)}
        ),
        create_time=timestamp(record.created_at),
        disable_time=None if record.disabled_at is None else timestamp(record.disabled_at),
        pause_time=None if record.paused_at is None else timestamp(record.paused_at),
        versions=[key_version(record, version, now) for version in view.versions],
    )


def planned_step(step: Step) -> key_service_pb2.PlannedStep:
    """Return one step of a plan as a message."""
    return key_service_pb2.PlannedStep(
        key=step.key,
        version=step.version,
        kind=STEP_KINDS[step.kind],
        time=timestamp(step.at),
        deadline=None if math.isinf(step.deadline) else timestamp(step.deadline),
        delay=step.delay,
    )


def agents_key(view: KeyView, now: float) -> signing_service_pb2.GetKeyResponse:
    """Return a key as agents see it: what is published or may sign, newest first."""
    record, active = view.key, view.active(now)
    visible = [v for v in reversed(view.versions) if v.record.timeline.published(now) or v.record.timeline.signs(now)]
    return signing_service_pb2.GetKeyResponse(
        key=record.name,
        algorithm=ALGORITHMS[record.algorithm],
        http_algorithm=record.algorithm.http_name,
        jose_algorithm=record.algorithm.value,
        purposes=sorted(PURPOSES[p] for p in record.purposes),
        active=key_version(record, active, now) if active and record.disabled_at is None else None,
        versions=[key_version(record, version, now) for version in visible],
    )


def new_key(
    spec: key_service_pb2.KeySpec, defaults: Defaults, now: float, *, algorithm: Algorithm | None = None, known: bool = False
) -> Key:
    """Return the key that a spec asks for, with defaults for what it leaves open.

    A key that verifiers know from elsewhere than keyd's JWK Set, because it is ``known`` already or not published, rotates by
    itself only if the spec says so. Of one that is ``known``, private keys are destroyed by themselves only if it says so: others
    may use them too.

    Raises:
        InvalidArgumentError: an enum value is not one that keyd knows.
    """
    if types_pb2.PURPOSE_AUDIT in spec.purposes:
        raise InvalidArgumentError("keyd makes its audit key itself, and no other key has that purpose")
    asked = from_enum(ALGORITHMS, spec.algorithm, "algorithm")
    purposes = frozenset(_required(from_enum(PURPOSES, value, "purpose"), "purpose") for value in spec.purposes)
    never = {"rotation_period": math.inf} if known or spec.unpublished else {}
    if known:
        never["destroy_after"] = math.inf
    profile = spec.profile or defaults.profile
    return Key(
        name=spec.name,
        algorithm=algorithm or asked or defaults.algorithm,
        backend=spec.backend or defaults.backend,
        purposes=purposes or _PURPOSES_OF_PROFILE.get(profile, frozenset({Purpose.HTTP})),
        profile=profile,
        kid_format=from_enum(KID_FORMATS, spec.kid_format, "kid_format") or defaults.kid_format,
        keyid_aliases=tuple(spec.keyid_aliases),
        publish=not spec.unpublished,
        lifecycle=lifecycle(spec.lifecycle, replace(defaults.lifecycle, **never)),
        created_at=now,
    )


def asked_algorithm(spec: key_service_pb2.KeySpec) -> Algorithm | None:
    """Return the algorithm that a spec asks for, None if it leaves it open."""
    return from_enum(ALGORITHMS, spec.algorithm, "algorithm")


def lifecycle(message: types_pb2.LifecyclePolicy, unset: LifecyclePolicy) -> LifecyclePolicy:
    """Return the periods that a message sets, and those of ``unset`` for the others."""
    periods = {field.name: seconds(value, field.name) for field, value in message.ListFields()}
    never = {name: math.inf for name in ("rotation_period", "destroy_after") if periods.get(name) == 0}
    return replace(unset, **{**periods, **never})


def from_enum(table: Mapping[T, int], value: int, field: str) -> T | None:
    """Return what an enum value stands for; None when it is not set. Raises InvalidArgumentError when keyd does not know it."""
    if value == 0:
        return None
    for item, number in table.items():
        if number == value:
            return item
    raise InvalidArgumentError(f"{field} has no value {value}")


def _required(value: T | None, field: str) -> T:
    if value is None:
        raise InvalidArgumentError(f"{field} is unspecified")
    return value
