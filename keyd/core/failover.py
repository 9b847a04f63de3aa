"""After a failover that lost confirmed changes: the database is right about what there is, and what was stopped stays stopped.

A standby that takes over may lack the last changes, and a database can be rolled back to an earlier moment. Its numbers of changes then mean
other changes than a replica remembers. So whenever a replica reaches the database again after it was away, it compares all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from keyd.core import moves
from keyd.core.model import KeyVersion
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.timeline import KeyState


class Again(NamedTuple):
    """What has to be written, so that a key is stopped again as it was.

    Attributes:
        view: the key as it is then; the number of its change is the database's.
        changed: its versions that differ from the database's.
        what: for the log.
    """

    view: KeyView
    changed: tuple[KeyVersion, ...]
    what: str


def again(before: Snapshot, found: Snapshot, now: float) -> list[Again]:
    """Return what was stopped and, by the database, no longer is. A version is the same when its number and its key pair are."""
    result = []
    for name, view in before.keys.items():
        if name in found.keys:
            stops = list(_stops(view, found.keys[name], now))
            if stops:
                result.append(_applied(found.keys[name], stops, now))
    return result


def lost(before: Snapshot, found: Snapshot) -> list[str]:
    """Return the kids that the database does not know any more. Their key pairs are still in the backends."""
    known = {record.thumbprint for view in found.keys.values() for record in (v.record for v in view.versions)}
    records = (v.record for view in before.keys.values() for v in view.versions)
    return sorted(record.kid for record in records if record.thumbprint not in known)


def _stops(view: KeyView, other: KeyView, now: float) -> Iterator[tuple[str, moves.Move]]:
    if view.key.disabled_at is not None and other.key.disabled_at is None:
        yield "disabled", partial(moves.enabled, wanted=False)
    found = {(v.record.version, v.record.thumbprint): v.record.timeline for v in other.versions}
    for record in (v.record for v in view.versions):
        number, timeline = record.version, found.get((record.version, record.thumbprint))
        if timeline is None:
            continue
        there = timeline.state(now)
        if record.timeline.compromised_at <= now and there not in (KeyState.COMPROMISED, KeyState.DESTROYED):
            yield f"version {number} compromised", partial(moves.compromised, number=number, reason=record.compromise_reason)
        elif record.timeline.destroyed_at <= now and there is not KeyState.DESTROYED:
            yield f"version {number} destroyed", partial(_destroyed, number=number, at=record.timeline.destroyed_at)


def _destroyed(view: KeyView, _: float, number: int, at: float) -> moves.Moved:
    """Record that a version was destroyed, whatever it is otherwise: its private key is gone."""
    record = view.version(number).record
    return moves.Moved(changed=(replace(record, timeline=replace(record.timeline, destroyed_at=at)),))


def _applied(view: KeyView, stops: list[tuple[str, moves.Move]], now: float) -> Again:
    changed: dict[int, KeyVersion] = {}
    for _, move in stops:
        moved = move(view, now)
        changed |= {record.version: record for record in moved.changed}
        versions = tuple(VersionView(changed[n]) if (n := v.record.version) in changed else v for v in view.versions)
        view = KeyView(moved.key or view.key, versions)
    return Again(view, tuple(changed.values()), ", ".join(what for what, _ in stops))
