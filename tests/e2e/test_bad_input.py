"""Whatever goes wrong around it: a clear error, nothing lost, and the daemon lives on."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import forked
import grpc
import pytest
from daemon_process import DaemonProcess
from support import signature_base

from keyd.client import KeydClientError
from keyd.client.errors import InvalidRequest, NotFound, PermissionDenied
from keyd.v1 import signing_service_pb2, signing_service_pb2_grpc


def sign(daemon: DaemonProcess, key: str = "agent") -> str:
    import time

    with daemon.client() as client:
        return client.sign_base(key, signature_base(time.time())).kid


def test_garbage_on_the_socket(daemon: DaemonProcess) -> None:
    with daemon.admin() as admin:
        admin.create_key(name="agent")
    for garbage in (os.urandom(65536), b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096), b""):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(daemon.directory / "run/keyd.sock"))
            try:
                raw.sendall(garbage)
                raw.shutdown(socket.SHUT_WR)
                raw.settimeout(10)
                while raw.recv(4096):
                    pass
            except OSError:
                pass  # the daemon hung up first, as it may
    assert sign(daemon)


def test_a_message_of_twenty_megabytes(daemon: DaemonProcess) -> None:
    with daemon.admin() as admin:
        admin.create_key(name="agent")
    with grpc.insecure_channel(daemon.address) as channel:
        stub = signing_service_pb2_grpc.SigningServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Sign(signing_service_pb2.SignRequest(key="agent", signature_base=b'"' * 20_000_000), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert sign(daemon)


def test_protobuf_garbage_in_a_call(daemon: DaemonProcess) -> None:
    with grpc.insecure_channel(daemon.address) as channel:
        call = channel.unary_unary("/keyd.v1.SigningService/Sign")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with daemon.client() as client, pytest.raises(NotFound):
        client.key_info("agent")


def test_requests_that_are_refused_do_not_disturb_the_next(daemon: DaemonProcess) -> None:
    with daemon.admin() as admin, daemon.client() as client:
        admin.create_key(name="agent")
        other = admin.create_key(name="other").key.versions[0].kid
        with pytest.raises(NotFound, match="no key 'nobody'"):
            client.sign_base("nobody", signature_base(0))
        with pytest.raises(PermissionDenied, match="not of key 'agent'"):
            client.sign_base("agent", signature_base(0, keyid=other))
        for bad in (b"", b"\n", signature_base(0)[:20], signature_base(0) * 2, signature_base(0).replace(b"\n", b"\r\n")):
            with pytest.raises(InvalidRequest) as caught:
                client.sign_base("agent", bad)
            assert "example.com" not in str(caught.value)
    assert sign(daemon)


def test_a_wrong_kek_stops_the_start_and_harms_nothing(daemon: DaemonProcess) -> None:
    with daemon.admin() as admin:
        kid = admin.create_key(name="agent").key.versions[0].kid
    daemon.stop()
    kek = (daemon.directory / "kek").read_bytes()
    daemon.write_kek(os.urandom(32))
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(timeout=30) != 0
    assert "another key-encryption key" in daemon.log.read_text()
    daemon.write_kek(kek)
    assert sign(daemon.start()) == kid


def key_file(daemon: DaemonProcess, name: str = "agent") -> Path:
    (path,) = daemon.directory.glob(f"state/**/{name}.1.key")
    return path


@pytest.mark.parametrize("damage", ["flipped bit", "mode 0644", "symlink", "gone"])
def test_a_damaged_key_file_stops_that_key_alone(daemon: DaemonProcess, damage: str) -> None:
    with daemon.admin() as admin:
        for name in ("agent", "other"):
            admin.create_key(name=name)
    path = key_file(daemon)
    good = path.read_bytes()
    daemon.stop()
    if damage == "flipped bit":
        path.write_bytes(good[:-20] + bytes([good[-20] ^ 1]) + good[-19:])
    elif damage == "mode 0644":
        path.chmod(0o644)
    elif damage == "symlink":
        path.rename(path.with_suffix(".away"))
        path.symlink_to(path.with_suffix(".away"))
    else:
        path.unlink()
    daemon.start(wait=False)
    assert daemon.process is not None
    try:
        daemon.wait_until_up()
    except AssertionError:  # the start may be refused, if it says which file is wrong
        assert path.name in daemon.log.read_text()
    else:
        with pytest.raises(KeydClientError, match=r"agent\.1\.key"):
            sign(daemon)
        assert sign(daemon, "other")
        with daemon.client() as client:
            assert len(client.jwks()["keys"]) == 2  # what the key signed before still verifies
        daemon.stop()
    path.unlink(missing_ok=True)
    path.write_bytes(good)
    path.chmod(0o600)
    assert sign(daemon.start())


def test_a_second_daemon_on_the_same_state_or_socket_is_refused(daemon: DaemonProcess) -> None:
    second = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "already" in second.stderr + second.stdout
    other_socket = daemon.directory / "second.toml"
    other_socket.write_text(daemon.config.read_text().replace("run/keyd.sock", "run2/keyd.sock"))
    third = subprocess.run([*daemon.command()[:-1], str(other_socket)], capture_output=True, text=True, timeout=60)
    assert third.returncode == 1
    assert "lock" in third.stderr + third.stdout
    with daemon.client() as client:
        assert client.jwks() == {"keys": []}


def test_a_stale_socket_is_replaced(daemon: DaemonProcess) -> None:
    daemon.stop(signal.SIGKILL)
    assert stat.S_ISSOCK((daemon.directory / "run/keyd.sock").stat().st_mode)
    daemon.start()
    assert stat.S_IMODE((daemon.directory / "run/keyd.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((daemon.directory / "run").stat().st_mode) == 0o700


def test_a_bad_reload_keeps_the_old_configuration(daemon: DaemonProcess) -> None:
    with daemon.client() as client, daemon.admin() as admin:
        admin.create_key(name="agent")
        good = daemon.config.read_text()
        for bad in (good + "\n[jwks]\nmax_age = 'x'\n", good.replace("127.0.0.1:0", "127.0.0.1:1")):
            daemon.config.write_text(bad)
            before = len(daemon.events())
            os.kill(daemon.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
            wait_for_event(daemon, "configuration not taken over, the old one stays", before)
            assert client.jwks()["keys"]
        daemon.config.write_text(good + '\n[jwks]\nmax_age = "60s"\n')
        before = len(daemon.events())
        os.kill(daemon.process.pid, signal.SIGHUP)  # type: ignore[union-attr]
        wait_for_event(daemon, "configuration reloaded", before)


def wait_for_event(daemon: DaemonProcess, event: str, after: int) -> None:
    for _ in range(3000):
        if any(entry.get("event") == event for entry in daemon.events()[after:]):
            return
        os.sched_yield()
        select_a_little()
    raise AssertionError(f"no {event!r} in the log:\n{daemon.log.read_text()}")


def select_a_little() -> None:
    import select

    select.select([], [], [], 0.01)


@pytest.mark.parametrize("exec_", [True, False], ids=["exec", "forked"])
def test_the_process_is_hardened_and_drains(stopped: DaemonProcess, exec_: bool) -> None:
    daemon = stopped
    daemon.exec = exec_
    daemon.start()
    assert isinstance(daemon.process, subprocess.Popen if exec_ else forked.Process)
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]
    assert daemon.stop(signal.SIGTERM) == 0
    assert "stopped" in [event["event"] for event in daemon.events()]
    assert not (daemon.directory / "run/keyd.sock").exists()


def test_a_full_disk(stopped: DaemonProcess) -> None:
    """On a tmpfs of its own, in a mount namespace of its own."""
    script = Path(__file__).with_name("full_disk.py")
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    ran = subprocess.run([*namespace, sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "create refused: RESOURCE_EXHAUSTED STORAGE_FULL" in ran.stdout
    assert "sign refused: UNAVAILABLE AUDIT_UNAVAILABLE" in ran.stdout
    assert "signing works again" in ran.stdout
    assert "create works again" in ran.stdout
    assert "2 keys after a restart" in ran.stdout
