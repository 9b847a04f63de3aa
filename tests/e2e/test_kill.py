"""kill -9 between any two steps of create, import, rotate, compromise and destroy."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from daemon_process import DaemonProcess
from support import signature_base

from keyd.client import AdminClient, KeydClientError

PEM = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
STEPS = {
    "create": ["backend.find", "begin_version", "backend.create", "backend.public_key", "backend.sign", "finish_version"],
    "import": ["backend.find", "begin_version", "backend.import_key", "backend.public_key", "backend.sign", "finish_version"],
    "rotate": ["backend.find", "begin_version", "backend.create", "backend.public_key", "backend.sign", "finish_version"],
    "compromise": ["update", "begin_version", "backend.create", "finish_version"],
    "destroy": ["update", "backend.destroy", "forget_handle"],
}
ACTS: dict[str, Callable[[AdminClient], object]] = {
    "create": lambda admin: admin.create_key(name="new"),
    "import": lambda admin: admin.import_key(name="new", pkcs8_pem=PEM),
    "rotate": lambda admin: admin.rotate_key("agent", now=True),
    "compromise": lambda admin: admin.compromise_version("agent", 2, reason="test"),
    "destroy": lambda admin: admin.destroy_version("agent", 1, force=True),
}


@pytest.fixture(scope="module")
def before() -> Iterator[tuple[DaemonProcess, set[str]]]:
    """Provide the state in which every act finds the daemon, and the kids that are published."""
    daemon = DaemonProcess()
    daemon.start()
    with daemon.admin() as admin, daemon.client() as client:
        admin.create_key(name="agent")
        admin.rotate_key("agent", now=True)
        published = {jwk["kid"] for jwk in client.jwks()["keys"]}
    daemon.stop()
    yield daemon, published
    daemon.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("act", "step"), [(act, step) for act, steps in STEPS.items() for step in steps])
def test_nothing_is_lost_and_nothing_is_left_over(act: str, step: str, when: str, before: tuple[DaemonProcess, set[str]]) -> None:
    daemon, published = before[0].copy(), before[1]
    try:
        daemon.module, daemon.env = "crashing_daemon", {"KEYD_TEST_CRASH": f"{when}:{step}"}
        daemon.start()
        with daemon.admin() as admin, pytest.raises(KeydClientError):
            ACTS[act](admin)
        assert daemon.process is not None
        assert daemon.process.wait(timeout=30) == -9

        daemon.module, daemon.env = "keyd", {}
        daemon.start()
        with daemon.admin() as admin, daemon.client() as client:
            end = time.monotonic() + 10
            while True:  # a successor may be made between the looks
                keys = {key.name: key for key in admin.list_keys()}
                files = {path.name for path in daemon.directory.glob("state/**/*.key")}
                recorded = {
                    f"{v.key}.{v.version}.key"
                    for key in keys.values()
                    for v in key.versions
                    if not v.timeline.HasField("destroy_time")
                }
                begun = intents(daemon)
                if (files == recorded and begun == 0) or time.monotonic() > end:
                    break
                time.sleep(0.05)
            on_record = {version.kid for key in keys.values() for version in key.versions}
            assert published <= on_record, "a kid that was published is not accounted for"
            whole = {"agent.1.key", "agent.2.key"}
            assert files == recorded, "key files and records differ"
            assert act == "destroy" or whole <= files
            assert begun == 0, "what was begun is neither finished nor undone"
            if act != "compromise" or client.key_info("agent").active:
                client.sign_base("agent", signature_base(time.time()))
            else:  # killed after the compromise was recorded and before there was a successor: stopped, and can be mended
                admin.rotate_key("agent")
                client.sign_base("agent", signature_base(time.time()))
            if act in ("create", "import") and "new" not in keys:
                ACTS[act](admin)  # nothing in the way of trying again
    finally:
        daemon.close()


def intents(daemon: DaemonProcess) -> int:
    """Return how many versions are on record as begun."""
    with sqlite3.connect(daemon.directory / "state/keyd.db") as database:
        return int(database.execute("SELECT count(*) FROM intents").fetchone()[0])
