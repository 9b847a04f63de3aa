"""Rows of the tables as the core's values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from math import inf, isinf
from typing import Any

from sqlalchemy import Row

from backends.api import Algorithm
from keyd.core.model import Key, KeyVersion, KidFormat, Purpose
from keyd.core.store.records import Intent
from keyd.core.timeline import LifecyclePolicy, Timeline


def to_intent(row: Row[Any]) -> Intent:
    """Return the intent of a row."""
    return Intent(row.key, row.version, row.backend, row.owner)


def to_key(row: Row[Any]) -> Key:
    """Return the key of a row, which has the columns of the table in their order."""
    # By position: at a start with a hundred thousand keys, to look columns up by name takes seconds.
    (name, algorithm, backend, purposes, profile, kid_format, aliases, publish, *rest) = tuple(row)
    (lead, grace, retention, created_at, disabled_at, rotation, destroy_after, paused_at, promised_until, change) = rest
    return Key(
        name,
        _algorithm(algorithm),
        backend,
        _purposes(*purposes),
        profile,
        _kid_format(kid_format),
        tuple(aliases),
        publish,
        _lifecycle(lead, grace, retention, rotation, destroy_after),
        created_at,
        disabled_at,
        paused_at,
        promised_until,
        change,
    )


# Most keys have the same few: to find them anew for each takes time, and memory.
_algorithm = lru_cache(Algorithm)
_kid_format = lru_cache(KidFormat)


@lru_cache(maxsize=1024)
def _purposes(*values: str) -> frozenset[Purpose]:
    return frozenset(map(Purpose, values))


@lru_cache(maxsize=1024)
def _lifecycle(
    publish_lead: float, sign_grace: float, retention: float, rotation_period: float | None, destroy_after: float | None
) -> LifecyclePolicy:
    return LifecyclePolicy(publish_lead, sign_grace, retention, _or_inf(rotation_period), _or_inf(destroy_after))


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


def to_version(row: Row[Any], names: Mapping[str, str]) -> KeyVersion:
    """Return the version of a row, which has the columns of the table in their order.

    ``names`` has the names of keys as they are in memory already: there is one for each of their versions otherwise.
    """
    key, version, kid, thumbprint, public_jwk, handle, *times, reason = tuple(row)
    created_at, publish_at, activate_at, deactivate_at, sign_until, unpublish_at, destroyed_at, compromised_at = times
    line = Timeline(  # written out: with a loop over the times, all versions of a start take half as long again
        created_at,
        publish_at,
        inf if activate_at is None else activate_at,
        inf if deactivate_at is None else deactivate_at,
        inf if sign_until is None else sign_until,
        inf if unpublish_at is None else unpublish_at,
        inf if destroyed_at is None else destroyed_at,
        inf if compromised_at is None else compromised_at,
    )
    return KeyVersion(
        names.get(key, key), version, thumbprint if kid == thumbprint else kid, thumbprint, public_jwk, handle, line, reason
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
