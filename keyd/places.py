"""Where a daemon keeps its state and is reached, whichever of its processes sees to that."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from keyd import process
from keyd.config import Config
from keyd.service.gate import listener
from keyd.service.gate.entrance import KUBERNETES, MAIN
from keyd.service.gate.listener import Access


def take_state(state_dir: Path, stack: AsyncExitStack) -> int:
    """Make the state directory if it is missing, and lock it until ``stack`` ends. Returns the descriptor. Raises ProcessError."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return stack.enter_context(process.lock_file(state_dir / "lock"))


def unix_ways(config: Config) -> dict[str, tuple[Path, Access]]:
    """Return the public Unix sockets by the name of their way in: where each is, and for whom."""
    server, section = config.server, config.kubernetes
    ways = {MAIN: (server.socket, Access(int(server.socket_mode, 8), server.socket_owner, server.socket_group))}
    if section is not None:
        ways[KUBERNETES] = section.socket, Access(int(section.socket_mode, 8), section.socket_owner, section.socket_group)
    return ways


def reserve(sockets: Iterable[Path], stack: AsyncExitStack) -> None:
    """Keep the places of sockets until ``stack`` ends; abstract ones have none. Raises ProcessError."""
    for path in sockets:
        if not str(path).startswith("@"):
            stack.enter_context(listener.reserved(path))


def raise_descriptor_limit() -> None:
    """Allow as many connections as the system does: each one takes four descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
