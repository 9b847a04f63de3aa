"""What each library does while its key rotates as planned: before, while the version that it is pinned to has its grace, and after."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from examples_run import ROOT, interpreter
from service_conftest import Running, running_in
from support import FakeClock

from keyd.client import AdminClient

LEAD, GRACE = 12, 14  # together under 30 s, so that what the libraries date now is not too old for keyd in the end
JWKS = '[jwks]\nmax_age = "1s"\n'
PROFILES = {
    "http": "rfc9421",
    "jwt": "rfc9421",
    "aauth": "aauth",
    "server": "aauth-server",
    "bot": "web-bot-auth",
    "lumo": "lumoauth",
}
OURS = ("http_message_signatures", "httpx", "pyjwt", "joserfc")
PEERS = (
    *(
        "aauth",
        "aauth_signing",
        "introspection_aauth",
        "regent_httpsig",
        "regent_bot",
        "regent_server",
        "wbauth_sdk",
        "wbauth_async",
        "lumoauth",
    ),
    *("http_message_signatures", "pyjwt", "joserfc"),  # there http-message-signatures is 2.0.1
)


class Ahead(FakeClock):
    """The time of this machine, and what it was advanced by."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def now(self) -> float:
        return time.time() + self.time


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    directory = Path(tempfile.mkdtemp(prefix="keyd-t-"))
    (directory / "kek").write_bytes(os.urandom(32))
    (directory / "kek").chmod(0o400)
    async with running_in(directory, Ahead(), JWKS) as daemon:
        yield daemon
    shutil.rmtree(directory)


class Libraries:
    """The process in which the libraries sign."""

    def __init__(self, address: str, libraries: tuple[str, ...], *, peers: bool) -> None:
        command = [interpreter(peers=peers), str(ROOT / "tests/examples_rotation.py"), address, *libraries]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    async def sign(self, ahead: int) -> dict[str, dict[str, str]]:
        """Let each sign, in each way. Their clients' clocks are ``ahead`` of the time by so many seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{ahead}\n")
        self.process.stdin.flush()
        answer: dict[str, dict[str, str]] = json.loads(await asyncio.to_thread(self.process.stdout.readline))
        return answer

    async def aclose(self) -> None:
        await asyncio.to_thread(self.process.communicate, timeout=30)


def make(address: str) -> dict[str, str]:
    with AdminClient(address) as admin:
        admin.create_key("issuer", profile="aauth", purposes=["jwt"])
        for name, profile in PROFILES.items():
            purposes = ["jwt"] if name == "jwt" else ["http"]
            admin.create_key(name, profile=profile, purposes=purposes, publish_lead=LEAD, sign_grace=GRACE)
        return {name: admin.get_key(name).versions[0].kid for name in PROFILES}


def rotate(address: str) -> dict[str, str]:
    with AdminClient(address) as admin:
        for name in PROFILES:
            admin.rotate_key(name)
        return {name: max(admin.get_key(name).versions, key=lambda version: version.version).kid for name in PROFILES}


KEYS = {
    **dict.fromkeys(("http_message_signatures", "httpx"), "http"),
    **dict.fromkeys(("pyjwt", "joserfc"), "jwt"),
    **dict.fromkeys(("aauth", "aauth_signing", "introspection_aauth", "regent_httpsig"), "aauth"),
    **dict.fromkeys(("regent_bot", "wbauth_sdk", "wbauth_async"), "bot"),
    "regent_server": "server",
    "lumoauth": "lumo",
}


@pytest.mark.parametrize(("libraries", "peers"), [(OURS, False), (PEERS, True)], ids=["ours", "peers"])
async def test_who_follows_and_who_is_told(running: Running, libraries: tuple[str, ...], peers: bool) -> None:
    old = await asyncio.to_thread(make, running.address)

    def expect(answer: dict[str, dict[str, str]], **ways: dict[str, str]) -> None:
        assert set(answer) == set(libraries)
        for library, came in answer.items():
            assert came == {way: kids[KEYS[library]] for way, kids in ways.items() if way in came}, library

    async with aclosing(Libraries(running.address, libraries, peers=peers)) as signing:
        expect(await signing.sign(0), pinned=old, follows=old, stale=old)
        new = await asyncio.to_thread(rotate, running.address)
        expect(await signing.sign(0), pinned=old, follows=old, stale=old)  # the new version is published, and does not sign yet
        running.clock.advance(LEAD)
        expect(await signing.sign(100), pinned=old, follows=new, stale=old)  # the old one signs what names it
        running.clock.advance(GRACE)
        told = {name: f"KeyStateError {kid}" for name, kid in new.items()}
        expect(await signing.sign(200), pinned=told, follows=new, stale=new)  # and then no more
