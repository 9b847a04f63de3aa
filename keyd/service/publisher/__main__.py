"""The publisher as a process: ``python -m keyd.service.publisher LISTENER PIPE LEVEL FORMAT PATH...``: two descriptors, how it logs, and where documents are.

It imports little: what it does not have cannot be taken from it, and it is there soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys

from keyd import log, process
from keyd.service.http_ready import Ready
from keyd.service.http_server import HttpServer
from keyd.service.publisher import wire
from keyd.service.publisher.child import BootClock, Shelf, application, finder

#: How much less it is served than the daemon when both want the processor (nice(2)).
_NICE = 10


def main(listener: int, pipe: int, level: str, form: str, documents: list[str]) -> None:
    """Serve until the daemon is gone."""
    process.harden()
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    # Those of a terminal, and of systemd to all processes, are for the daemon, which tells us by closing the pipe: we serve until it has stopped.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    log.configure(level, form)  # type: ignore[arg-type]
    asyncio.run(_serve(socket.socket(fileno=listener), socket.socket(fileno=pipe), documents))


async def _serve(listener: socket.socket, pipe: socket.socket, documents: list[str]) -> None:
    reader, writer = await asyncio.open_connection(sock=pipe, limit=wire.LONGEST_WORD)
    clock = BootClock()
    shelf = Shelf(writer, clock)
    pages = {path: finder(shelf, path) for path in documents}
    ready = Ready(pages, lambda name: finder(shelf, f"/keys/{name}/jwks.json"), lambda: (shelf.state,), clock)
    server = HttpServer(listener, application(shelf, documents), ready)
    await server.start()
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await shelf.listen(reader)
    await server.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
