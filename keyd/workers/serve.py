"""Runs a daemon of one process, or of a supervisor and its workers, as its configuration says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import structlog

from keyd import config as configuration
from keyd import log, process
from keyd.config import Config, ConfigError
from keyd.core.runner import THREAD_PREFIX
from keyd.places import raise_descriptor_limit, reserve, take_state, unix_ways
from keyd.service.gate.limits import Complaints
from keyd.service.gate.listener import listening
from keyd.service.gate.tls import listen as listen_tcp
from keyd.service.gate.unix import Door
from keyd.service.http_server import bound
from keyd.signals import Signals, first
from keyd.workers.supervisor import Supervisor

#: After each connection over TCP, in seconds, and after one that could not be accepted: others have their turn.
_BREATH, _PAUSE = 0.001, 0.1
_log = structlog.get_logger("keyd")


def run(config_path: Path | None) -> int:
    """Run the daemon until it is told to stop. Returns the exit code: 0, 1 when it cannot start, 8 when the configuration is why.

    Raises:
        ConfigError: the configuration is wrong; every problem is in it.
    """
    text = "" if config_path is None else configuration.read(config_path)
    config = configuration.loads(text, config_path)
    log.configure(config.log.level, config.log.format)
    process.take_service_manager()
    for shortcoming in process.harden():
        _log.warning("not hardened", what=shortcoming)
    if config.server.workers == 1:
        with process.settling():
            from keyd.app import run as run_alone

        return run_alone(config, config_path)
    code = 1
    try:
        code = asyncio.run(_run(config, text, config_path))
    except (process.ProcessError, OSError) as exc:
        _log.error("cannot start", error=str(exc))
    process.leave_behind_threads(THREAD_PREFIX, code)
    return code


async def _run(config: Config, text: str, path: Path | None) -> int:
    signals = Signals()
    async with AsyncExitStack() as stack:
        supervisor, open_doors = _prepare(config, text, path, stack)
        starting = asyncio.create_task(supervisor.start())
        stack.callback(starting.cancel)
        await first(starting, signals.stop)
        if signals.stop.is_set() or not starting.result():
            return 0 if signals.stop.is_set() else supervisor.failed or 1
        open_doors()
        await signals.obey(partial(_reload, supervisor, path), config.server.drain_timeout)
    _log.info("stopped")
    return 0


def _prepare(config: Config, text: str, path: Path | None, stack: AsyncExitStack) -> tuple[Supervisor, Callable[[], None]]:
    """Take every public place. Returns who starts the workers, and what lets callers in then.

    Raises:
        ProcessError: a place is taken, or others could replace it.
        OSError: an address of [http] or [metrics] cannot be bound.
    """
    lock = take_state(config.server.state_dir, stack)
    raise_descriptor_limit()
    ways = unix_ways(config)
    reserve([place for place, _ in ways.values()], stack)
    shared: dict[str, socket.socket] = {}
    if config.http.enabled:
        shared["http"] = stack.enter_context(bound(config.http.host, config.http.port))
    if config.metrics.address is not None:
        shared["metrics"] = stack.enter_context(bound(*config.metrics.address))
    descriptors = {name: listening.fileno() for name, listening in shared.items()}
    supervisor = Supervisor(config, text, None if path is None else str(path), descriptors, lock)
    stack.push_async_callback(supervisor.stop)
    doors = []
    for way, (place, access) in ways.items():
        door = Door(
            stack.enter_context(listening(place, access)),
            supervisor.connections,
            partial(supervisor.enter, way),
            handshake_timeout=config.connections.handshake_timeout,
            thread_prefix=f"{THREAD_PREFIX}gate",
        )
        stack.push_async_callback(door.close)
        doors.append(door)
    tcp = {name: listen_tcp(name, section.host, section.port) for name, section in config.tcp.items()}
    for each in (each for sockets in tcp.values() for each in sockets):
        stack.enter_context(each)

    def open_doors() -> None:
        for door in doors:
            door.start()
            stack.callback(door.stop)
        for name, sockets in tcp.items():
            for each in sockets:
                stack.push_async_callback(_end, asyncio.create_task(_accept(each, partial(supervisor.arrive, name))))
        _tell(config, shared)

    return supervisor, open_doors


def _tell(config: Config, shared: dict[str, socket.socket]) -> None:
    ports = {name: each.getsockname()[1] for name, each in shared.items()}
    _log.info(
        "serving",
        socket=str(config.server.socket),
        kubernetes=str(config.kubernetes.socket) if config.kubernetes else None,
        jwks=f"http://{config.http.host}:{ports['http']}/.well-known/jwks.json" if "http" in ports else None,
        metrics=f"http://{config.metrics.address[0]}:{ports['metrics']}/metrics" if config.metrics.address else None,
        workers=config.server.workers,
    )


async def _accept(listener: socket.socket, arrive: Callable[[socket.socket, str], None]) -> None:
    loop, complain = asyncio.get_running_loop(), Complaints()
    while True:
        try:
            client, address = await loop.sock_accept(listener)
        except OSError as exc:  # out of descriptors, or the caller has gone: to try again at once would be to do nothing else
            complain("no connection can be accepted", reason=exc.strerror)
            await asyncio.sleep(_PAUSE)
            continue
        try:
            arrive(client, address[0])
        except OSError as exc:
            complain("connection refused", reason=str(exc))
        await asyncio.sleep(_BREATH)


async def _reload(supervisor: Supervisor, path: Path | None) -> None:
    process.notify("RELOADING=1")
    try:
        text = "" if path is None else configuration.read(path)
        config = configuration.loads(text, path)
        await supervisor.reload(text, config)
    except ConfigError as exc:
        for problem in exc.problems:
            _log.error("configuration not taken over, the old one stays", problem=str(problem))
        await supervisor.look_again()
    else:
        log.configure(config.log.level, config.log.format)
        _log.info("configuration reloaded")
    process.notify("READY=1")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
