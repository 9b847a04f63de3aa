"""What of a configuration differs from one worker process to the next."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from keyd.config.model import Config

#: A name of a replica may have so many characters, the number of a worker among them.
_LONGEST_NAME = 63
_TRAIL = re.compile(r"worker-([2-9]|[1-9][0-9]{1,2})", re.ASCII)


def of_worker(config: Config, number: int) -> Config:
    """Return the configuration as the worker of that number has it. The first one has what a single process has.

    Each keeps an audit trail of its own, and is a replica of its own where the database is PostgreSQL.
    """
    if number == 1 or config.audit.path is None:
        return config
    return dataclasses.replace(
        config,
        audit=config.audit.model_copy(update={"path": trail_directory(config.audit.path, number)}),
        store=config.store.model_copy(update={"replica": replica_name(config.store.replica, number)}),
    )


def trail_directory(path: Path, number: int) -> Path:
    """Return where the worker of that number keeps its audit trail, when ``path`` is the one that is configured."""
    return path if number == 1 else path / f"worker-{number}"


def replica_name(replica: str, number: int) -> str:
    """Return what the worker of that number is called in a database that replicas share."""
    ending = f".{number}"
    return replica if number == 1 else replica[: _LONGEST_NAME - len(ending)] + ending


def trail_owner(number: int) -> str:
    """Return whose checkpoints those of that worker are in a SQLite database; empty for the first, and where there is one process."""
    return "" if number == 1 else f"worker-{number}"


def trail_directories(path: Path) -> dict[int, Path]:
    """Return where the trails of workers are, by their numbers, when ``path`` is configured; also of workers that there are no more.

    Raises:
        OSError: the directory cannot be read.
    """
    found = {1: path}
    for each in path.iterdir() if path.is_dir() else ():
        match = _TRAIL.fullmatch(each.name)
        if match is not None and each.is_dir():
            found[int(match[1])] = each
    return dict(sorted(found.items()))
