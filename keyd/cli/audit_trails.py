"""Several audit trails as one: that of each worker, told apart by its number."""

from __future__ import annotations

import heapq
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyd.core.audit.record import Record


def merged(trails: Mapping[int, Iterable[Record]]) -> Iterator[tuple[int, Record]]:
    """Return the records of all trails by their time, each with the number of its worker."""
    return heapq.merge(*(_numbered(number, records) for number, records in trails.items()), key=lambda each: each[1].time)


def _numbered(number: int, records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    for record in records:
        yield number, record


def followed(directories: Mapping[int, Path], ends: Mapping[int, int]) -> Iterator[tuple[int, Record]]:
    """Return records as they are written, for ever; ``ends`` has the last of each trail that is known. Raises OSError."""
    from keyd.core.audit import search

    if len(directories) == 1:
        ((number, directory),) = directories.items()
        yield from _numbered(number, search.follow(directory, ends[number]))
    arrived: queue.Queue[tuple[int, Record] | OSError] = queue.Queue(1000)

    def follow(number: int, directory: Path) -> None:
        try:
            for record in search.follow(directory, ends[number]):
                arrived.put((number, record))
        except OSError as exc:
            arrived.put(exc)

    for number, directory in directories.items():
        threading.Thread(target=follow, args=(number, directory), daemon=True).start()
    while True:
        found = arrived.get()
        if isinstance(found, OSError):
            raise found
        yield found
