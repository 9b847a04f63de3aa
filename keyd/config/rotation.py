"""The section about rotation by itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from keyd.config.durations import Duration
from keyd.config.section import Section
from keyd.core.planner import Rules


class Rotation(Section):
    """``[rotation]``: when and how fast keyd makes and destroys versions by itself. ``create_ahead`` in seconds."""

    enabled: bool = True
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    create_ahead: Duration = 3 * 86400.0
    per_minute: Annotated[int, Field(ge=1, le=6000)] = 60

    def to_rules(self) -> Rules:
        """Return it as the core has it."""
        return Rules(**dict(self))
