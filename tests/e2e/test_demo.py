"""``make demo`` is what a newcomer runs first."""

from __future__ import annotations

import subprocess
import sys


def test_the_demo_passes() -> None:
    done = subprocess.run([sys.executable, "-m", "keyd", "demo"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo passed" in done.stdout
