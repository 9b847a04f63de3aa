"""``keyd jwks --out`` against a daemon: the files are the endpoint's documents, once and as they change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from daemon_process import DaemonProcess

ISSUERS = """
[issuers.shop]
hosts = ["keys.shop.example", "keys.shop.example:8443"]
keys = ["shop-*"]
alg = "omit"
"""
PROVIDER = """
[issuers.agents]
hosts = ["agents.example", "spare.example"]
keys = ["agents-*"]
origin = "https://agents.example"
[issuers.agents.agent]
name = "Agents"
"""


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections=ISSUERS).start()
    yield daemon
    daemon.close()


def command(daemon: DaemonProcess, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "keyd", "jwks", "--address", daemon.address, *arguments]


def run(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(daemon, *arguments), capture_output=True, text=True, timeout=60)


def served(daemon: DaemonProcess, path: str, host: str = "localhost") -> bytes:
    response = httpx.get(daemon.jwks_url.replace("/.well-known/jwks.json", path), headers={"Host": host}, trust_env=False)
    assert response.status_code == 200
    return response.content


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def documents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("jwks.json")}


def test_the_tree_is_what_the_endpoint_serves(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.admin() as admin:
        for name in ("agent", "shop-1"):
            admin.create_key(name)
        admin.create_key("hidden", unpublished=True)
    out = tmp_path / "www"
    done = run(daemon, "--out", f"{out}/", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = {
        ".well-known/jwks.json": served(daemon, "/.well-known/jwks.json"),
        "keys/agent/jwks.json": served(daemon, "/keys/agent/jwks.json"),
        "keys/shop-1/jwks.json": served(daemon, "/keys/shop-1/jwks.json"),
        "keys.shop.example/.well-known/jwks.json": served(daemon, "/.well-known/jwks.json", "keys.shop.example"),
        "keys.shop.example:8443/.well-known/jwks.json": served(daemon, "/.well-known/jwks.json", "keys.shop.example:8443"),
    }
    assert documents(out) == wanted
    told = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert told.keys() == wanted.keys()
    one = told["keys/agent/jwks.json"]
    headers = httpx.get(daemon.jwks_url.replace("/.well-known", "/keys/agent"), trust_env=False).headers
    assert (one["etag"], one["cache_control"], one["content_type"], one["changed"]) == (
        *(headers[name] for name in ("etag", "cache-control", "content-type")),
        True,
    )
    again = run(daemon, "--out", str(out))
    assert {line.split()[0] for line in again.stdout.splitlines()} == {"unchanged"}


def test_what_is_served_beside_a_set_is_in_the_tree(tmp_path: Path) -> None:
    daemon = DaemonProcess(sections=ISSUERS + PROVIDER).start()
    try:
        with daemon.admin() as admin:
            admin.create_key("agents-1")
        names = ("aauth-agent.json", "aauth-agent", "aauth-revoked-tokens.json")
        done = run(daemon, "--out", f"{tmp_path}/all/", "--json")
        told = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
        assert {path for path in told if "aauth" in path} == {f"agents.example/.well-known/{name}" for name in names}
        for name in names:
            content = (tmp_path / "all/agents.example/.well-known" / name).read_bytes()
            assert content == served(daemon, f"/.well-known/{name}", "agents.example")
            assert told[f"agents.example/.well-known/{name}"]["content_type"] == "application/json"
        run(daemon, "--issuer", "agents", "--out", f"{tmp_path}/one/")
        assert {path.name for path in (tmp_path / "one/.well-known").iterdir()} == {"jwks.json", *names}
        daemon.stop()
        daemon.config.write_text(daemon.config.read_text().replace('[issuers.agents.agent]\nname = "Agents"\n', ""))
        daemon.start()
        gone = run(daemon, "--out", f"{tmp_path}/all/").stdout.splitlines()
        assert sorted(line for line in gone if "removed" in line) == [
            f"removed agents.example/.well-known/{name}" for name in ("aauth-agent", "aauth-agent.json")
        ]
    finally:
        daemon.close()


def test_one_file(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.admin() as admin:
        for name in ("agent", "shop-1"):
            admin.create_key(name)
    target = tmp_path / "set.json"
    for arguments, path, host in (
        ((), "/.well-known/jwks.json", "localhost"),
        (("agent",), "/keys/agent/jwks.json", "localhost"),
        (("--issuer", "shop"), "/.well-known/jwks.json", "keys.shop.example"),
    ):
        assert run(daemon, *arguments, "--out", str(target)).returncode == 0
        assert target.read_bytes() == served(daemon, path, host)
    assert run(daemon, "--issuer", "shop", "--out", str(tmp_path)).returncode == 0
    assert run(daemon, "agent", "--out", str(tmp_path)).returncode == 0  # one set more, and none less
    assert set(documents(tmp_path)) == {".well-known/jwks.json", "keys/agent/jwks.json"}
    assert json.loads(run(daemon, "--issuer", "shop").stdout) == json.loads(served(daemon, "/keys/shop-1/jwks.json")) | {
        "keys": json.loads(target.read_bytes())["keys"]
    }


def test_an_empty_set_is_never_written(daemon: DaemonProcess, tmp_path: Path) -> None:
    target = tmp_path / "jwks.json"
    target.write_bytes(b"as it was")
    done = run(daemon, "--out", str(target))
    assert (done.returncode, target.read_bytes()) == (5, b"as it was")
    assert "the set of all keys stays as it was written last: no key is published" in done.stderr
    with daemon.admin() as admin:
        admin.create_key("agent")
    assert run(daemon, "--out", f"{tmp_path}/").returncode == 5  # that of the issuer
    assert set(documents(tmp_path)) == {"jwks.json", ".well-known/jwks.json", "keys/agent/jwks.json"}
    done = run(daemon, "--issuer", "nobody", "--out", str(target))
    assert (done.returncode, target.read_bytes()) == (3, b"as it was")


def stop_agents_only_version(daemon: DaemonProcess) -> None:
    with daemon.admin() as admin:
        admin.disable_key("agent")  # so that nothing takes over
        admin.compromise_version("agent", 1, "leaked")


def test_a_compromised_key_stays_in_no_file_though_it_was_the_only_one(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.admin() as admin:
        admin.create_key("agent")
        admin.create_key("shop-1")
    tree, one, other = tmp_path / "www", tmp_path / "agent.json", tmp_path / "shop.json"
    assert run(daemon, "--out", f"{tree}/").returncode == 0
    assert run(daemon, "agent", "--out", str(one)).returncode == 0
    assert run(daemon, "shop-1", "--out", str(other)).returncode == 0
    stop_agents_only_version(daemon)
    done = run(daemon, "--out", f"{tree}/", "--json")
    assert done.returncode == 5
    assert "the set of key 'agent' is taken away: key 'agent' has no published version" in done.stderr
    assert {"path": "keys/agent/jwks.json", "removed": True, "changed": True} in map(json.loads, done.stdout.splitlines())
    assert set(documents(tree)) == {
        ".well-known/jwks.json",
        "keys/shop-1/jwks.json",
        "keys.shop.example/.well-known/jwks.json",
        "keys.shop.example:8443/.well-known/jwks.json",
    }
    done = run(daemon, "agent", "--out", str(one))
    assert (done.returncode, done.stdout, one.exists()) == (5, "removed agent.json\n", False)
    assert run(daemon, "agent", "--out", str(one)).stdout == ""
    with daemon.admin() as admin:
        admin.disable_key("shop-1")
        admin.compromise_version("shop-1", 1, "leaked")
    assert run(daemon, "--out", f"{tree}/").returncode == 5
    assert documents(tree) == {}
    assert run(daemon, "nobody", "--out", str(other)).returncode == 3  # of a key that this daemon does not know it says nothing
    assert other.exists()


def test_what_changed_before_a_restart_is_passed_on_after_it(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.admin() as admin:
        admin.create_key("agent")
        admin.create_key("other")
    program, seen = tmp_path / "upload", tmp_path / "seen"
    program.write_text(f"#!/bin/sh\ncat >> {seen}\n[ -e {tmp_path}/ready ]\n")
    program.chmod(0o755)
    one, tree = tmp_path / "agent.json", tmp_path / "www"
    for what in (("agent", "--out", str(one)), ("--out", f"{tree}/")):
        assert run(daemon, *what, "--on-change", str(program)).returncode == 1
    stop_agents_only_version(daemon)
    for what in (("agent", "--out", str(one)), ("--out", f"{tree}/")):
        assert run(daemon, *what, "--on-change", str(program)).returncode == 1
    (tmp_path / "ready").touch()
    for what, told in (
        (("agent", "--out", str(one)), {"agent.json": True}),
        (("--out", f"{tree}/"), {".well-known/jwks.json": False, "keys/agent/jwks.json": True, "keys/other/jwks.json": False}),
    ):
        for again in (told, {}):
            seen.unlink(missing_ok=True)
            assert run(daemon, *what, "--on-change", str(program)).returncode == 5
            lines = map(json.loads, seen.read_text().splitlines()) if seen.exists() else ()
            assert {line["path"]: line.get("removed", False) for line in lines} == again
    assert not list(tmp_path.rglob(".*not-passed-on*"))


def test_what_cannot_be_meant_is_refused(daemon: DaemonProcess, tmp_path: Path) -> None:
    for arguments in (["--watch"], ["agent", "--issuer", "shop"], ["--out", "x", "--on-change", str(tmp_path / "nothing")]):
        assert run(daemon, *arguments).returncode == 2
    (tmp_path / "file").write_text("")
    with daemon.admin() as admin:
        admin.create_key("agent")
    done = run(daemon, "agent", "--out", str(tmp_path / "file" / "jwks.json"))
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_watch_follows_the_daemon_through_a_restart(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.admin() as admin:
        admin.create_key("agent")
        admin.create_key("shop-1")
    uploads = tmp_path / "uploads"
    program = tmp_path / "upload"
    program.write_text(f'#!/bin/sh\necho "$1" >> {uploads}.args\ncat >> {uploads}\n')
    program.chmod(0o755)
    out, log = tmp_path / "www", tmp_path / "log"
    arguments = command(daemon, "--out", f"{out}/", "--watch", "--on-change", str(program))
    with log.open("w") as output:
        watcher = subprocess.Popen(arguments, stdout=output, stderr=output)
    try:
        wait(lambda: len(documents(out)) == 5, "the first files")
        before = documents(out)
        with daemon.admin() as admin:
            admin.rotate_key("agent", now=True)
        wait(lambda: documents(out)["keys/agent/jwks.json"] != before["keys/agent/jwks.json"], "a rotation")
        after = documents(out)
        assert {path for path in after if after[path] != before[path]} == {".well-known/jwks.json", "keys/agent/jwks.json"}

        daemon.stop()
        wait(lambda: "trying again" in log.read_text(), "a word about the daemon")
        assert documents(out) == after
        daemon.start()
        with daemon.admin() as admin:
            admin.create_key("shop-2")
        wait(lambda: "keys/shop-2/jwks.json" in documents(out), "what changed after the restart")
        assert documents(out)["keys.shop.example/.well-known/jwks.json"] == served(
            daemon, "/.well-known/jwks.json", "keys.shop.example"
        )

        # A reload that takes the issuer away takes its files away.
        daemon.config.write_text(daemon.config.read_text().replace(ISSUERS, ""))
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        wait(lambda: not (out / "keys.shop.example").exists(), "the issuer's end")
        wait(lambda: "removed" in uploads.read_text(), "the last upload")
    finally:
        watcher.send_signal(signal.SIGTERM)
        code = watcher.wait(30)
    assert code == 0, log.read_text()
    told = [json.loads(line) for line in uploads.read_text().splitlines()]
    assert [line["path"] for line in told if line.get("removed")] == [
        f"{host}/.well-known/jwks.json" for host in ("keys.shop.example", "keys.shop.example:8443")
    ]
    assert set((tmp_path / "uploads.args").read_text().splitlines()) == {str(out)}
    wrote = [line for line in log.read_text().splitlines() if line.startswith("wrote keys/agent/jwks.json")]
    assert len(wrote) == 2


def test_a_program_that_fails_is_told_again(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.admin() as admin:
        admin.create_key("agent")
    program, seen = tmp_path / "upload", tmp_path / "seen"
    program.write_text(f"#!/bin/sh\ncat >> {seen}\n[ -e {tmp_path}/ready ]\n")
    program.chmod(0o755)
    target = tmp_path / "jwks.json"
    done = run(daemon, "agent", "--out", str(target), "--on-change", str(program))
    assert done.returncode == 1
    assert "ended with 1" in done.stderr
    target.unlink()
    watcher = subprocess.Popen(
        command(daemon, "agent", "--out", str(target), "--watch", "--on-change", str(program)), stderr=subprocess.PIPE, text=True
    )
    try:
        wait(lambda: len(seen.read_text().splitlines()) >= 2, "the first attempt")
        (tmp_path / "ready").touch()
        wait(lambda: len(seen.read_text().splitlines()) >= 3, "the second attempt")
    finally:
        watcher.send_signal(signal.SIGTERM)
        _, stderr = watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    assert stderr.count("ended with 1") == 1
    assert {json.loads(line)["path"] for line in seen.read_text().splitlines()} == {"jwks.json"}


def test_what_the_caller_may_not_list_stays(tmp_path: Path) -> None:
    sections = f"""
[grants.reader]
principals = [{{ uid = {os.geteuid()} }}]
keys = ["agent"]
purposes = ["http"]
[grants.operator]
principals = [{{ uid = {os.geteuid()} }}]
keys = ["agent"]
operations = ["create"]
"""
    daemon = DaemonProcess(sections=sections).start()
    try:
        with daemon.admin() as admin:
            admin.create_key("agent")
        assert run(daemon, "agent", "--out", f"{tmp_path}/").returncode == 0
        done = run(daemon, "--out", f"{tmp_path}/")
        assert done.returncode == 4
        assert "what is below keys/ stays as it was written last" in done.stderr
        assert set(documents(tmp_path)) == {".well-known/jwks.json", "keys/agent/jwks.json"}
    finally:
        daemon.close()
