"""How many calls a caller may reset: HTTP/2 RST_STREAM, told by its frame header in what goes through the gate.

grpcio takes calls up one by one. Those that are reset before stay in a queue, and beyond a thousand it cancels calls at random: other callers' too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from keyd.core.rates import Rate, Rates

#: Length 4 and type 3 (RFC 9113 section 6.4), whatever the flags are. A message may have the same octets, but hardly hundreds of times.
_RST_STREAM = b"\x00\x00\x04\x03"
#: Of one account. A client that shuts down, or whose deadlines all pass at once, resets what it has under way.
_RATE = Rate(100.0, 500)


class Resets:
    """Counts what callers reset, by account."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rates = Rates(monotonic)

    def allows(self, account: str, data: bytes) -> bool:
        """Count the resets in a chunk of what a caller sends; say whether there are no more than it may have. Split headers are missed."""
        count = data.count(_RST_STREAM)
        return not count or not self._rates.take(("", account), _RATE, count)
