"""``keyd config``, ``keyd serve`` and ``keyd demo``: what they hand on and how they end."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli.fake_daemon import Run
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def broken(path: Path) -> Path:
    path.write_text('[server]\nnonsense = 1\n\n[log]\nlevel = "shout"\n')
    return path


def test_check(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "keyd.toml"
    path.write_text('[log]\nlevel = "info"\n')
    result = run("config", "check", "--config", str(path))
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok\n"), result.stderr


def test_check_lists_every_problem(tmp_path: Path, run: Run) -> None:
    path = broken(tmp_path / "keyd.toml")
    result = run("config", "check", "--config", str(path))
    assert (result.exit_code, result.stdout) == (8, "")
    assert len(result.stderr.splitlines()) == 2
    assert all(line.startswith(f"keyd: {path}: line ") for line in result.stderr.splitlines())
    assert "server.nonsense" in result.stderr and "log.level" in result.stderr


def test_the_environment_names_the_file(tmp_path: Path, run: Run) -> None:
    path = broken(tmp_path / "keyd.toml")
    assert run("config", "check", env={"KEYD_CONFIG": str(path)}).exit_code == 8


def test_a_file_that_is_not_there(tmp_path: Path, run: Run) -> None:
    result = run("config", "show", "--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 8
    assert "none.toml" in result.stderr


def test_show_is_toml(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "keyd.toml"
    path.write_text('[log]\nlevel = "debug"\n')
    result = run("config", "show", "--config", str(path))
    assert result.exit_code == 0, result.stderr
    document = tomllib.loads(result.stdout)
    assert document["log"]["level"] == "debug"
    assert "server" in document


@pytest.mark.parametrize("exit_code", [0, 1])
@pytest.mark.parametrize("placed", ["option", "environment"])
def test_serve(placed: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    paths: list[Path | None] = []

    def serve(path: Path | None) -> int:
        paths.append(path)
        return exit_code

    monkeypatch.setitem(sys.modules, "keyd.workers.serve", SimpleNamespace(run=serve))
    path = str(tmp_path / "keyd.toml")
    options, env = (["--config", path], {}) if placed == "option" else ([], {"KEYD_CONFIG": path})
    assert run("serve", *options, env=env).exit_code == exit_code
    assert paths == [Path(path)]


def test_serve_with_a_bad_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    from keyd.config import load

    monkeypatch.setitem(sys.modules, "keyd.workers.serve", SimpleNamespace(run=load))
    assert run("serve", "--config", str(broken(tmp_path / "keyd.toml"))).exit_code == 8


def test_demo(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setitem(sys.modules, "keyd.demo", SimpleNamespace(run=lambda backend: {"file": 7, "vault": 8}[backend]))
    assert run("demo").exit_code == 7
    assert run("demo", "--backend", "vault").exit_code == 8
    assert run("demo", "--backend", "memory").exit_code == 2


def test_check_reads_the_files_of_previous_keys(tmp_path: Path, run: Run) -> None:
    path, keys = tmp_path / "keyd.toml", tmp_path / "sa.pub"
    path.write_text(f'[kubernetes]\nsocket = "/run/k"\nkey = "a"\nprevious_keys = [{{ file = "{keys}" }}]\n')
    result = run("config", "check", "--config", str(path))
    assert result.exit_code == 8
    assert "kubernetes.previous_keys.0: cannot be read: No such file or directory" in result.stderr
    private = ec.generate_private_key(ec.SECP256R1())
    keys.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert run("config", "check", "--config", str(path)).exit_code == 0
