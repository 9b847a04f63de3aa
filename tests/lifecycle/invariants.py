"""What must hold of keys at every moment of every history (docs/operations.md, "A version's life")."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from backends.api import StoredKey
from keyd.core import jwks
from keyd.core.errors import KeydError, KeyStateError
from keyd.core.snapshot import KeyView, Snapshot
from keyd.core.store import Records
from keyd.core.timeline import KeyState

LEAD, MAX_AGE = 600, 300  # seconds: the shortest lead of any policy, and the max-age that is served


@dataclass
class History:
    """What was seen, to compare with what is.

    Attributes:
        announced: kids of which an operator was told that verifiers may not know them yet.
        signed: by kid, until when something that it signed is valid.
        without_active: names of keys whose active version was compromised, and no successor could be made.
    """

    announced: set[str] = field(default_factory=set)
    signed: dict[str, float] = field(default_factory=dict)
    _public: dict[str, str] = field(default_factory=dict)
    without_active: set[str] = field(default_factory=set)
    _ended: dict[str, KeyState] = field(default_factory=dict)

    def check_view(self, snapshot: Snapshot, now: float) -> None:
        """Check what one replica sees, however old it is."""
        for view in snapshot.keys.values():
            self._check_active(view, now)
            self._check_kids(view)
            self._check_leads(view, now)
            self._check_ends(view, now)

    def _check_active(self, view: KeyView, now: float) -> None:
        lines = [version.record.timeline for version in view.versions]
        moments = {now} | {moment for line in lines for moment in line._moments() if moment < float("inf")}
        for moment in moments:
            active = [line for line in lines if line.state(moment) is KeyState.ACTIVE]
            assert len(active) <= 1, f"two versions of {view.key.name} are active at {moment} (now {now})"
        current = view.active(now)
        assert current is None or not view.key.publish or current in view.published(now)

    def _check_kids(self, view: KeyView) -> None:
        assert len({version.record.version for version in view.versions}) == len(view.versions)
        for version in view.versions:
            record = version.record
            assert self._public.setdefault(record.kid, record.public_jwk) == record.public_jwk, "a kid names two keys"

    def _check_leads(self, view: KeyView, now: float) -> None:
        for version in view.versions:
            record, line = version.record, version.record.timeline
            if record.version > 1 and record.kid not in self.announced and line.state(now) is not KeyState.COMPROMISED:
                assert line.activate_at - max(line.publish_at, line.created_at) >= LEAD, "signs before verifiers know it"
            if view.key.paused_at is not None:
                assert line.state(now) is not KeyState.PRE_ACTIVATION or line.activate_at == float("inf"), "held, and yet planned"

    def _check_ends(self, view: KeyView, now: float) -> None:
        published = {version.record.kid for version in view.published(now)}
        for version in view.versions:
            kid, line = version.record.kid, version.record.timeline
            if line.state(now) in (KeyState.COMPROMISED, KeyState.DESTROYED):
                self._ended[kid] = line.state(now)
                assert kid not in published
                try:
                    view.signer(kid, now)
                except KeyStateError:
                    pass
                else:
                    raise AssertionError(f"a version that is {line.state(now).value} signs")
            if self.signed.get(kid, 0) > now and line.compromised_at > now:
                assert kid in published, "signatures outlive the publication of their key"

    def check_agreement(self, one: Snapshot, other: Snapshot, now: float) -> None:
        """Check that two replicas that have seen the same changes see the same, and publish the same bytes."""
        assert [view.key for view in one.keys.values()] == [view.key for view in other.keys.values()]
        for name, view in one.keys.items():
            assert [v.record for v in view.versions] == [v.record for v in other.keys[name].versions]
            if view.active(now) is None:
                assert name in self.without_active, f"{name} lost its active version"
            else:
                self.without_active.discard(name)
        documents = []
        for snapshot in (one, other):
            try:
                documents.append(jwks.render(snapshot, now, max_age=MAX_AGE))
            except KeydError as exc:
                documents.append(str(exc))  # type: ignore[arg-type]
        assert documents[0] == documents[1]

    def check_record(self, snapshot: Snapshot, records: Records, database: Path, held: list[StoredKey], now: float) -> None:
        """Check what is on record and in the backend, when nothing is under way."""
        assert {v.record.kid for view in snapshot.keys.values() for v in view.versions} == set(self._public), "a version is gone"
        for kid, state in self._ended.items():
            (line,) = [v.record.timeline for view in snapshot.keys.values() for v in view.versions if v.record.kid == kid]
            assert line.state(now) in (state, KeyState.DESTROYED), "came back to life"
        assert not records.intents, "nothing is under way, and yet noted"
        handles = {v.record.handle for view in snapshot.keys.values() for v in view.versions if v.record.handle is not None}
        assert {stored.handle for stored in held} == handles, "the backend holds something unrecorded, or lost something"
        with contextlib.closing(sqlite3.connect(database)) as connection:
            assert dict(connection.execute("SELECT kid, public_jwk FROM archive")) == self._public, "the archive is not what was"
