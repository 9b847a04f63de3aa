"""Rows of the tables as the core's values, and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from math import inf, isinf
from typing import Any

from sqlalchemy import Row

from backends.api import Algorithm
from keyd.core.model import Key, KeyVersion, KidFormat, Purpose
from keyd.core.store.records import Intent
from keyd.core.timeline import LifecyclePolicy, Timeline

_TIMES = tuple(f.name for f in fields(Timeline))


def to_intent(row: Row[Any]) -> Intent:
    """Return the intent of a row."""
    return Intent(row.key, row.version, row.backend, row.owner)


def to_key(row: Row[Any]) -> Key:
    """Return the key of a row."""
    return Key(
        name=row.name,
        algorithm=Algorithm(row.algorithm),
        backend=row.backend,
        purposes=frozenset(Purpose(value) for value in row.purposes),
        profile=row.profile,
        kid_format=KidFormat(row.kid_format),
        keyid_aliases=tuple(row.keyid_aliases),
        publish=row.publish,
        lifecycle=LifecyclePolicy(
            row.publish_lead, row.sign_grace, row.retention, _or_inf(row.rotation_period), _or_inf(row.destroy_after)
        ),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        paused_at=row.paused_at,
        promised_until=row.promised_until,
        change=row.change,
    )


def from_key(key: Key) -> dict[str, Any]:
    """Return a key as a row."""
    return {
        "name": key.name,
        "algorithm": key.algorithm.value,
        "backend": key.backend,
        "purposes": sorted(purpose.value for purpose in key.purposes),
        "profile": key.profile,
        "kid_format": key.kid_format.value,
        "keyid_aliases": list(key.keyid_aliases),
        "publish": key.publish,
        **{name: _or_none(period) for name, period in asdict(key.lifecycle).items()},
        "created_at": key.created_at,
        "disabled_at": key.disabled_at,
        "paused_at": key.paused_at,
        "promised_until": key.promised_until,
        "change": key.change,
    }


def to_version(row: Row[Any]) -> KeyVersion:
    """Return the version of a row."""
    times = {name: _or_inf(row._mapping[name]) for name in _TIMES}
    return KeyVersion(
        key=row.key,
        version=row.version,
        kid=row.kid,
        thumbprint=row.thumbprint,
        public_jwk=row.public_jwk,
        handle=row.handle,
        timeline=Timeline(**times),
        compromise_reason=row.compromise_reason,
    )


def from_version(version: KeyVersion) -> dict[str, Any]:
    """Return a version as a row."""
    row = asdict(version)
    times = row.pop("timeline")
    return row | {name: _or_none(at) for name, at in times.items()}


def archived(version: KeyVersion) -> dict[str, Any]:
    """Return what the archive keeps of a version, as a row."""
    return {
        "kid": version.kid,
        "key": version.key,
        "version": version.version,
        "public_jwk": version.public_jwk,
        "recorded_at": version.timeline.created_at,
    }


def _or_inf(value: float | None) -> float:
    return inf if value is None else value


def _or_none(value: float) -> float | None:
    return None if isinf(value) else value
