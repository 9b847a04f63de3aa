"""What the planner does by itself, on record like what an operator has done: one record before each act, and one that says how it ended."""

from __future__ import annotations

import os
from contextlib import suppress

from keyd.core.decision import Decision
from keyd.core.errors import AuditError
from keyd.core.guard import Guard, finish
from keyd.core.planner import Step, StepKind
from keyd.core.principal import Principal

_OPERATIONS = {StepKind.CREATE: "rotate_key", StepKind.DESTROY: "destroy_version"}


class PlannerRecord:
    """Writes the planner's acts into the audit trail. Who acts is the daemon: its uid and process."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._self = Principal(uid=os.geteuid(), gid=os.getegid(), pid=os.getpid())

    async def begin(self, step: Step) -> None:
        """Record what is about to be done. Raises AuditError: then it must not be done."""
        decision = self._decision(step)
        decision.detail = "planned, by keyd itself"
        await finish(self._guard.record(decision))

    async def done(self, step: Step) -> None:
        """Record that it was done. Raises AuditError."""
        decision = self._decision(step)
        decision.detail = f"done, version {step.version}, by keyd itself"
        await finish(self._guard.record(decision))

    async def failed(self, step: Step, error: Exception) -> None:
        """Record why it was not done, if the trail takes it. It is in the log in any case."""
        if not isinstance(error, AuditError):
            with suppress(AuditError):
                await self._guard.refuse(self._decision(step), error)

    def _decision(self, step: Step) -> Decision:
        decision = self._guard.decision(self._self, _OPERATIONS[step.kind], step.key)
        decision.version = step.version
        return decision
