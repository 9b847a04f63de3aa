import copy
import os
import pickle
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from backends.errors import BackendConfigError
from backends.secrets import Secret, SecretRef

HIDDEN = "correct-horse-battery"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "pin"
    path.touch(mode=0o600)
    path.write_text(HIDDEN + "\n")
    return path


def test_secret_is_shown_nowhere() -> None:
    secret = Secret(HIDDEN.encode())
    assert secret.reveal() == HIDDEN.encode()
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret]), repr({"pin": secret})):
        assert HIDDEN not in shown
        assert "*****" in shown


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_secret_is_not_serialised(duplicate) -> None:
    with pytest.raises(TypeError, match="not pickled"):
        duplicate(Secret(HIDDEN.encode()))


@pytest.mark.parametrize(
    "fields", [{}, {"file": "a", "env": "B"}, {"env": "B", "credential": "c"}, {"value": "x"}, {"file": "a", "x": 1}]
)
def test_exactly_one_place(fields) -> None:
    with pytest.raises(ValidationError):
        SecretRef.model_validate(fields)


@pytest.mark.parametrize("name", ["", ".", "..", "../pin", "a/b", "/etc/shadow", ".hidden", "a\n", "a\0", "x" * 256])
def test_credential_names_are_names(name: str) -> None:
    with pytest.raises(ValidationError):
        SecretRef(credential=name)


@pytest.mark.parametrize("name", ["", "A=B", "1A", "A B", "A\n", "é"])
def test_environment_names_are_names(name: str) -> None:
    with pytest.raises(ValidationError):
        SecretRef(env=name)


def test_a_secret_in_the_wrong_place_is_not_quoted() -> None:
    class Section(BaseModel):
        model_config = ConfigDict(hide_input_in_errors=True)
        pin: SecretRef

    for misplaced in (HIDDEN + "!", {"env": HIDDEN + "!"}, {"credential": HIDDEN + "!"}, {"value": HIDDEN}):
        with pytest.raises(ValidationError) as failure:
            Section.model_validate({"pin": misplaced})
        assert HIDDEN not in str(failure.value)
        with pytest.raises(ValidationError) as failure:
            SecretRef.model_validate(misplaced)
        assert HIDDEN not in str(failure.value)


def test_file(secret_file: Path) -> None:
    ref = SecretRef(file=secret_file)
    assert ref.read().reveal() == HIDDEN.encode() + b"\n"
    assert ref.read_line().reveal() == HIDDEN.encode()


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"a\n", b"a"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), (b"a ", b"a "), (b"a\r", b"a\r"), (b"\n a", b"\n a")],
)
def test_one_line_ending_is_not_the_secret(secret_file: Path, content: bytes, line: bytes) -> None:
    secret_file.write_bytes(content)
    assert SecretRef(file=secret_file).read_line().reveal() == line


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n"])
def test_empty_line_is_refused(secret_file: Path, content: bytes) -> None:
    secret_file.write_bytes(content)
    with pytest.raises(BackendConfigError, match="empty"):
        SecretRef(file=secret_file).read_line()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_open_file_is_refused(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    with pytest.raises(BackendConfigError, match=f"run `chmod 0400 {secret_file}`"):
        SecretRef(file=secret_file).read()


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_closed_file_is_read(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    assert SecretRef(file=secret_file).read_line().reveal() == HIDDEN.encode()


def test_what_is_no_plain_file_is_refused(secret_file: Path, tmp_path: Path) -> None:
    link, hard, fifo = tmp_path / "link", tmp_path / "hard", tmp_path / "fifo"
    link.symlink_to(secret_file)
    os.mkfifo(fifo, 0o600)
    for path, match in ((link, "symbolic link"), (fifo, "not a regular file"), (tmp_path, "not a regular file|Is a directory")):
        with pytest.raises(BackendConfigError, match=match):
            SecretRef(file=path).read()
    os.link(secret_file, hard)
    with pytest.raises(BackendConfigError, match="2 hard links"):
        SecretRef(file=secret_file).read()


def test_foreign_owner_is_refused(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(secret_file, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(BackendConfigError, match="belongs to uid"):
        SecretRef(file=secret_file).read()


def test_missing_and_oversized_files(tmp_path: Path, secret_file: Path) -> None:
    with pytest.raises(BackendConfigError, match="No such file or directory; check its path"):
        SecretRef(file=tmp_path / "none").read()
    secret_file.write_bytes(bytes(64 * 1024))
    SecretRef(file=secret_file).read()
    secret_file.write_bytes(bytes(64 * 1024 + 1))
    with pytest.raises(BackendConfigError, match="larger than 65536 bytes"):
        SecretRef(file=secret_file).read()


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = SecretRef(env="KEYD_TEST_PIN")
    monkeypatch.delenv("KEYD_TEST_PIN", raising=False)
    with pytest.raises(BackendConfigError, match="KEYD_TEST_PIN is not set"):
        ref.read()
    monkeypatch.setenv("KEYD_TEST_PIN", "")
    with pytest.raises(BackendConfigError, match="or empty"):
        ref.read()
    monkeypatch.setitem(os.environb, b"KEYD_TEST_PIN", b"\xff\xfe")
    assert ref.read().reveal() == b"\xff\xfe"


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600])
def test_systemd_credential(secret_file: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    secret_file.chmod(mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret_file.parent))
    assert SecretRef(credential="pin").read_line().reveal() == HIDDEN.encode()


@pytest.mark.parametrize("mode", [0o460, 0o444, 0o404])
def test_open_credential_is_refused(secret_file: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    secret_file.chmod(mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret_file.parent))
    with pytest.raises(BackendConfigError, match="open to other users"):
        SecretRef(credential="pin").read()


@pytest.mark.parametrize("directory", [None, "", "relative"])
def test_credential_without_systemd(monkeypatch: pytest.MonkeyPatch, directory: str | None) -> None:
    if directory is None:
        monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    else:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)
    with pytest.raises(BackendConfigError, match="LoadCredential=pin:PATH"):
        SecretRef(credential="pin").read()
