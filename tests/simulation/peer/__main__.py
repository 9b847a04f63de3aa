"""`python -m simulation.peer`: reads the year from standard input, a JSON object a line, and prints what each verifier made of it.

Lines, in order of time:

- ``{"key", "lead", "algorithm", "form"}``: a key, ``lead`` in seconds.
- ``{"key", "emergency", "kid", "at", "announced"}``: from ``at`` on ``kid`` is ``new``, or ``revoked``, and not everybody knows;
  ``announced`` has for how many seconds, by the names of verifiers that keyd knows.
- ``{"artifact", "key", "form", "kid", "data", "signature", "expires", "lifetime", "drop"}``: something signed, in base64url, and what to forget.
- ``{"t", "key", "jose"?, "legacy"?, "max_age", "checks": [[artifact, expected, cold]]}``: all verifiers look at artifacts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from simulation.peer.replay import Replay


async def main() -> None:
    replay = Replay()
    for line in sys.stdin.buffer:
        await replay.take(json.loads(line))
    json.dump(replay.result(), sys.stdout)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(main())
