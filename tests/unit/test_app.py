"""What the daemon does around its parts."""

from __future__ import annotations

import gc
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from keyd import app


async def test_what_was_there_at_the_start_is_not_looked_through_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects often enough brings such a search about, and everybody waits for it."""
    frozen = []

    async def start(*_: Any) -> None:
        assert not frozen
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(app, "start", start)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    await app._run(SimpleNamespace(server=SimpleNamespace(drain_timeout=0)), None)  # type: ignore[arg-type]
    assert frozen
