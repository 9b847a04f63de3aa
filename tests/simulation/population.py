"""The keys of the year: of every kind that keyd will have, most of them on its default lifecycle."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from support import new_key

from backends.api import Algorithm
from keyd.core.model import Key, KidFormat, Purpose
from keyd.core.timeline import LifecyclePolicy

HOUR, DAY = 3600.0, 86400.0
BACKENDS = ("mem", "mem-2")

_DEFAULT = LifecyclePolicy(rotation_period=30 * DAY)
#: Retention is as short as it may be: what is signed last expires when the key is unpublished.
_TIGHT = LifecyclePolicy(rotation_period=30 * DAY, retention=24 * HOUR, destroy_after=7 * DAY)
_SHORT = LifecyclePolicy(publish_lead=HOUR, retention=24 * HOUR, rotation_period=2 * DAY)
#: A verifier that takes no token for longer than the AAuth ceiling, and whose cache lasts as long.
_JWT = {"purposes": frozenset({Purpose.JWT}), "profile": "rfc9421"}
_BOT = {"purposes": frozenset({Purpose.HTTP}), "profile": "web-bot-auth"}
_ES256 = {"algorithm": Algorithm.ES256}
_NAMED = {"kid_format": KidFormat.NAME_VERSION}

#: Kind, in a thousand keys how many, and what it is.
_KINDS: tuple[tuple[str, int, dict[str, object]], ...] = (
    ("token", 440, {**_JWT, "lifecycle": _DEFAULT}),
    ("bot", 205, {**_BOT, "lifecycle": _DEFAULT}),
    ("named", 120, {**_JWT, **_NAMED, "lifecycle": _DEFAULT}),
    ("es256", 120, {**_JWT, **_ES256, **_NAMED, "lifecycle": _DEFAULT}),
    ("tight", 45, {**_JWT, "lifecycle": _TIGHT}),
    ("tightbot", 40, {**_BOT, "lifecycle": _TIGHT}),
    ("left", 5, {**_JWT, "lifecycle": _DEFAULT}),
    ("right", 5, {**_JWT, **_ES256, **_NAMED, "lifecycle": _TIGHT}),
    ("short", 10, {**_JWT, **_NAMED, "lifecycle": _SHORT}),
    ("shortbot", 10, {**_BOT, "lifecycle": _SHORT}),
)


def population(count: int, rng: random.Random) -> list[Key]:
    """Return ``count`` keys, at least one of each kind while there is room, in an order of chance."""
    kinds = [kind for kind in _KINDS for _ in range(max(1, round(kind[1] * count / 1000)))]
    rng.shuffle(kinds)
    missing = [kind for kind in _KINDS if kind not in kinds[:count]]
    chosen = [*missing, *kinds][:count]
    return [
        replace(new_key(f"{kind}-{number:04}", **changes), backend=BACKENDS[number % 2])
        for number, (kind, _, changes) in enumerate(chosen)
    ]


def shared(keys: Iterable[Key]) -> list[tuple[str, ...]]:
    """Return the names of keys that have one issuer together: one each of the kinds ``left`` and ``right``."""
    names = sorted(key.name for key in keys)
    left, right = ([name for name in names if name.startswith(side)] for side in ("left-", "right-"))
    return list(zip(left, right, strict=False))
