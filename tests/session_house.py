"""A whole daemon in a thread of this process, with issuer keys and a grant of sessions, for blocking and asyncio clients alike."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from service_conftest import Running, running_in
from support import FakeClock

from keyd.client import AdminClient

SUBJECT = "aauth:shop@agents.example"
SECTIONS = f"""
[issuers.agents]
hosts = ["agents.example"]
keys = ["agents", "lumo"]
origin = "https://agents.example"
[grants.admin]
principals = [{{ uid = {os.getuid()} }}]
keys = ["*"]
operations = ["*"]
[grants.agent]
principals = [{{ uid = {os.getuid()} }}]
authorities = ["api.example", "shop.example"]
[grants.agent.sessions]
issuer_keys = ["agents", "lumo", "delegate"]
kinds = ["aauth", "lumoauth", "jkt-jwt"]
subjects = ["{SUBJECT}", "aauth:shop+*@agents.example", "aauth:cart@agents.example"]
caller_claims = ["task"]
max_token_lifetime = "1h"
sub_agents = true
"""


class House:
    """The daemon. ``clock`` is its clock; ``start`` and ``stop`` may be called again and again, and lose its sessions."""

    def __init__(self, sections: str = SECTIONS) -> None:
        self.clock = FakeClock()
        self.directory = Path(tempfile.mkdtemp(prefix="keyd-s-"))
        (self.directory / "kek").write_bytes(os.urandom(32))
        (self.directory / "kek").chmod(0o400)
        self._sections = sections
        self._thread: threading.Thread | None = None
        self.running: Running
        self.start()
        with AdminClient(self.address) as admin:
            admin.create_key("agents", purposes=["jwt"], profile="aauth")
            admin.create_key("lumo", purposes=["jwt"], profile="lumoauth")
            admin.create_key("delegate", purposes=["jwt"], unpublished=True)

    @property
    def address(self) -> str:
        return f"unix:{self.directory}/run/keyd.sock"

    def start(self) -> None:
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(up)))
        self._thread.start()
        assert up.wait(20), "the daemon does not start"

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def within(self, action: Callable[[], Any]) -> Any:
        """Do something in the daemon's own thread, and return what comes of it."""

        async def act() -> Any:
            return await result(action())

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(20)

    def lose_sessions(self) -> None:
        """Have the daemon forget every session, as when it is started anew."""
        self.within(self.running.daemon.sessions.close_all)

    def renew(self) -> None:
        """Have what is due renewed now."""

        async def renew() -> None:
            for task in self.running.daemon.sessions.tend():
                await task

        self.within(renew)

    def open_sessions(self) -> int:
        return self.within(self.running.daemon.sessions.all).__len__()

    async def _run(self, up: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with running_in(self.directory, self.clock, self._sections) as self.running:
            up.set()
            await self._ended.wait()


async def result(value: Any) -> Any:
    """Return what a blocking client returned, or what an asyncio client's answer is."""
    return await value if inspect.isawaitable(value) else value


async def eventually(condition: Callable[[], Any | Awaitable[Any]]) -> None:
    """Wait for what another thread is about to do."""
    async with asyncio.timeout(20):
        while not await result(condition()):  # noqa: ASYNC110 - threads set no event of this loop
            await asyncio.sleep(0.005)


def claims(token: str) -> dict[str, Any]:
    return json.loads(decode(token.split(".")[1]))


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
