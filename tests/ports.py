"""Ports for servers that are told theirs, and that keep it when they are started again."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 20_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on now, that no connection gets later, and that no other test process is given.

    What the kernel gives for port 0, it gives to connections too: between two starts of a server, one of these may take its port.
    """
    highest = int(_RANGE.read_text().split()[0])
    assert highest > _LOWEST, f"connections get ports from {highest} on: set net.ipv4.ip_local_port_range to begin at 32768"
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(_LOWEST, highest)
        if _reserved(port) and _free(port):
            ports.append(port)
    return ports


def _reserved(port: int) -> bool:
    """Say whether this process is the first that wants the port, on the whole machine. It is, until it ends."""
    with socket.socket(socket.AF_UNIX) as name:
        try:
            name.bind(f"\0test-port-{port}")
        except OSError:
            return False
        name.detach()
        return True


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
