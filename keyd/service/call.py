"""What a service knows of the call that it serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One call. ``peer`` is the transport's word for the other end; it is no proof of identity."""

    peer: str
