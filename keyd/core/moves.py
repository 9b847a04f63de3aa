"""What an operator's or the planner's move does to a key: pure functions from the key as it is, and the time, to what changes.

:mod:`keyd.core.on_record` carries them out. Where another replica was faster, the move is made again from what is on record then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isinf

from keyd.core.errors import KeyStateError
from keyd.core.model import Key, KeyVersion
from keyd.core.snapshot import KeyView, VersionView
from keyd.core.timeline import KeyState, LifecyclePolicy, Timeline, successor


@dataclass(frozen=True, slots=True)
class Moved:
    """What changes: the key itself (None: not), and versions that exist, the one that the move is about first."""

    changed: tuple[KeyVersion, ...] = ()
    key: Key | None = None


#: From a key as it is and the time to what changes. Raises KeyStateError or NotFoundError where it cannot be done.
Move = Callable[[KeyView, float], Moved]
#: From the key as it is, and the time, to the timeline of its new version, and the versions that change with it. Raises the same.
Addition = Callable[[KeyView, float], tuple[Timeline, tuple[KeyVersion, ...]]]


def activated(view: KeyView, now: float) -> Moved:
    """Make the waiting version active now. Nothing changes where none waits, or the key is disabled."""
    pending = view.pending(now)
    if pending is None or view.key.disabled_at is not None:
        return Moved()
    return Moved((_promoted(pending.record, now), *_retired(view, now)))


def brought_forward(view: KeyView, now: float, lead: float) -> Moved:
    """Publish now the waiting version that was made ahead of time, so that it becomes active after the publish lead.

    Nothing changes where none waits. Raises KeyStateError where one is published already, or the key is held.
    """
    pending = view.pending(now)
    if pending is None or view.key.disabled_at is not None:
        return Moved()
    name, number = view.key.name, pending.record.version
    _need_not_held(view)
    line = pending.record.timeline
    if line.publish_at <= now:
        raise KeyStateError(
            f"version {number} of key {name!r} is waiting already; `keyd key rotate --now {name}` activates it at once"
        )
    waiting = replace(pending.record, timeline=replace(line, publish_at=now, activate_at=now + lead))
    return Moved((waiting, *_replaced_at(view, now, now + lead)))


def planned(
    view: KeyView, now: float, lead: float, activate_at: float | None = None, newest: int | None = None
) -> tuple[Timeline, tuple[KeyVersion, ...]]:
    """Return the timeline of a next version that nobody notices: published for ``lead`` before it is active.

    Without ``activate_at`` it is published now. With it, it is active then, or as soon as the lead allows, and published no
    sooner than that takes. Where no version is active, it is active at once. With ``newest``, it follows that one or none.
    Raises KeyStateError where it cannot be.
    """
    _need_next(view, now)
    made = view.versions[-1].record.version
    if newest is not None and made != newest:
        raise KeyStateError(f"version {made} of key {view.key.name!r} was made meanwhile")
    if view.active(now) is None:
        return successor(now, view.key.lifecycle, at_once=True), ()
    _need_not_held(view)
    at = max(now + lead, activate_at or 0.0)
    return Timeline(created_at=now, publish_at=at - lead, activate_at=at), _replaced_at(view, now, at)


def at_once(view: KeyView, now: float) -> tuple[Timeline, tuple[KeyVersion, ...]]:
    """Return the timeline of a next version that is active at once. One that waits takes over in its time. Raises KeyStateError."""
    _need_enabled(view)
    return _until_pending(view, now, successor(now, view.key.lifecycle, at_once=True)), _retired(view, now)


def compromised(view: KeyView, now: float, number: int, reason: str) -> Moved:
    """Stop a version for good. One that waits takes over from it. Raises KeyStateError, NotFoundError."""
    record = view.version(number).record
    state = record.timeline.state(now)
    if state in (KeyState.COMPROMISED, KeyState.DESTROYED):
        raise KeyStateError(f"version {number} of key {view.key.name!r} is {state.value} already")
    stopped = replace(record, timeline=replace(record.timeline, compromised_at=now), compromise_reason=reason)
    active, pending = view.active(now), view.pending(now)
    if state is KeyState.ACTIVE and pending is not None:
        return Moved((stopped, _promoted(pending.record, now)))
    if state is KeyState.PRE_ACTIVATION and active is not None:
        return Moved((stopped, replace(active.record, timeline=active.record.timeline.not_replaced())))
    return Moved((stopped,))


def destroyed(view: KeyView, now: float, number: int, *, force: bool) -> Moved:
    """Record that a version is destroyed, before it is. Nothing changes where that is on record and only not confirmed.

    Raises:
        KeyStateError: it is still needed, or gone for certain.
        NotFoundError: there is no such version.
    """
    name, record = view.key.name, view.version(number).record
    label, state = f"version {number} of key {name!r}", record.timeline.state(now)
    if state is KeyState.DESTROYED:
        if record.handle is None:
            raise KeyStateError(f"{label} is destroyed already")
        return Moved()
    if state in (KeyState.ACTIVE, KeyState.PRE_ACTIVATION):
        raise KeyStateError(
            f"{label} is {state.value}; replace it first with `keyd key rotate --now {name}`, or mark it compromised"
        )
    if state is KeyState.DEACTIVATED and record.timeline.published(now) and not force:
        raise KeyStateError(f"{label} is still published, so that what it signed can be verified; wait, or use force")
    return Moved((replace(record, timeline=replace(record.timeline, destroyed_at=now)),))


def rolled_back(view: KeyView, now: float) -> Moved:
    """Make the version that was active before active again. Raises KeyStateError where none may still sign."""
    name = view.key.name
    _need_enabled(view)
    candidates = [
        v.record
        for v in view.versions
        if v.record.timeline.state(now) is KeyState.DEACTIVATED
        and v.record.timeline.signs(now)
        and v.record.timeline.published(now)
    ]
    if not candidates:
        raise KeyStateError(
            f"no version of key {name!r} that was active before may still sign; `keyd key rotate --now {name}` makes a new one"
        )
    back = max(candidates, key=lambda record: record.timeline.deactivate_at)
    # Active anew from now: what lies between was another's time.
    line = replace(back.timeline, activate_at=now).not_replaced()
    return Moved((replace(back, timeline=_until_pending(view, now, line)), *_retired(view, now)))


def paused(view: KeyView, now: float) -> Moved:
    """Hold the rotation: a version that waits does not become active by the clock."""
    if view.key.paused_at is not None:
        return Moved()
    held = []
    pending, active = view.pending(now), view.active(now)
    if pending is not None:
        held.append(replace(pending.record, timeline=replace(pending.record.timeline, activate_at=inf)))
        if active is not None:
            held.append(replace(active.record, timeline=active.record.timeline.not_replaced()))
    return Moved(tuple(held), replace(view.key, paused_at=now))


def resumed(view: KeyView, now: float, lead: float) -> Moved:
    """Undo :func:`paused`: a version that was held becomes active once it has been published for ``lead``."""
    if view.key.paused_at is None:
        return Moved()
    key, pending = replace(view.key, paused_at=None), view.pending(now)
    if pending is None or not isinf(pending.record.timeline.activate_at):
        return Moved((), key)
    line = pending.record.timeline
    at = max(now, line.publish_at + lead)
    return Moved((replace(pending.record, timeline=replace(line, activate_at=at)), *_replaced_at(view, now, at)), key)


def enabled(view: KeyView, now: float, wanted: bool) -> Moved:
    """Let a key sign, or stop it."""
    if wanted == (view.key.disabled_at is None):
        return Moved()
    return Moved((), replace(view.key, disabled_at=None if wanted else now))


def with_lifecycle(view: KeyView, now: float, lifecycle: LifecyclePolicy) -> Moved:
    """Give a key other periods. What was signed under a longer retention stays verifiable as long as was promised."""
    if lifecycle == view.key.lifecycle:
        return Moved()
    promised = max(view.key.promised_until, now + view.key.lifecycle.retention)
    shorter = lifecycle.retention < view.key.lifecycle.retention
    return Moved((), replace(view.key, lifecycle=lifecycle, promised_until=promised if shorter else view.key.promised_until))


def _promoted(waiting: KeyVersion, now: float) -> KeyVersion:
    line = waiting.timeline
    return replace(waiting, timeline=replace(line, publish_at=min(line.publish_at, now), activate_at=now))


def _replaced_at(view: KeyView, now: float, at: float) -> tuple[KeyVersion, ...]:
    """Return the active version with a successor that takes over ``at`` that moment; nothing where none is active."""
    active = view.active(now)
    if active is None:
        return ()
    return (replace(active.record, timeline=active.record.timeline.replaced(at, view.key.lifecycle, view.key.promised_until)),)


def _retired(view: KeyView, now: float) -> tuple[KeyVersion, ...]:
    return _replaced_at(view, now, now)


def _until_pending(view: KeyView, now: float, line: Timeline) -> Timeline:
    """Return the timeline of a version that becomes active now, and is replaced by the one that waits, if one does."""
    pending: VersionView | None = view.pending(now)
    if pending is None or isinf(pending.record.timeline.activate_at):
        return line
    return line.replaced(pending.record.timeline.activate_at, view.key.lifecycle, view.key.promised_until)


def _need_enabled(view: KeyView) -> None:
    if view.key.disabled_at is not None:
        raise KeyStateError(f"key {view.key.name!r} is disabled; enable it before it is rotated")


def _need_not_held(view: KeyView) -> None:
    name = view.key.name
    if view.key.paused_at is not None:
        raise KeyStateError(
            f"the rotation of key {name!r} is paused; `keyd key resume {name}` lets it go on, `keyd key rotate --now {name}` does not wait"
        )


def _need_next(view: KeyView, now: float) -> None:
    _need_enabled(view)
    pending, name = view.pending(now), view.key.name
    if pending is not None:
        raise KeyStateError(
            f"version {pending.record.version} of key {name!r} is waiting already; `keyd key rotate --now {name}` activates it at once"
        )
