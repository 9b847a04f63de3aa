"""Where the key-encryption key of the file backend comes from, and what happens when it is wrong, lost or malformed."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from backends import errors, kek
from backends.api import Algorithm, BackendContext
from backends.file import FileBackend, FileConfig
from backends.secrets import SecretRef

ED = Algorithm.ED25519
PASSPHRASE = b"correct horse battery staple"


def put(path: Path, content: bytes) -> SecretRef:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
    return SecretRef(file=path)


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[..., FileBackend]:
    """Open a backend on the test's store; the same KEK each time, unless another source is given."""
    first = put(tmp_path / "test.kek", bytes(range(32)))

    def reopen(first_run: bool = False, **source: SecretRef | Path | None) -> FileBackend:
        config = FileConfig(rsa_bits=2048, **(source or {"kek": first}))
        return FileBackend.open(config, BackendContext("keys", tmp_path / "state", first_run))

    return reopen


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys"


def use(backend: FileBackend, handle: str = "k.1.key") -> bytes:
    return backend.sign(handle, ED, b"message")


def test_two_sources_are_refused() -> None:
    with pytest.raises(ValidationError, match="not both"):
        FileConfig(kek=SecretRef(env="A"), passphrase=SecretRef(env="B"))


@pytest.mark.parametrize(
    "spelling", [bytes.__call__, lambda raw: kek.encode(raw).encode(), lambda raw: kek.encode(raw).encode() + b"\r\n"]
)
def test_kek_spellings(reopen, tmp_path: Path, spelling) -> None:
    reopen().create("k", 1, ED)
    use(reopen(kek=put(tmp_path / "spelled", spelling(bytes(range(32))))))


@pytest.mark.parametrize(
    "content",
    [
        b"x" * 31,
        b"x" * 33,
        b"x" * 43 + b"=",
        b"x" * 42 + b"+",
        b"_" * 43,
        b"61" * 32,
        b"\xff" * 43,
        b" " + b"A" * 43,
        b"A" * 43 + b"\n\n",
    ],
)
def test_malformed_kek_is_refused_and_not_shown(reopen, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(errors.BackendConfigError, match="neither 32 bytes nor one line of 43") as failure:
        reopen(kek=put(tmp_path / "bad", content))
    assert failure.value.__context__ is None
    assert content.decode("latin-1") not in str(failure.value)


def test_kek_from_environment_and_credential(reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reopen().create("k", 1, ED)
    monkeypatch.setenv("KEYD_TEST_KEK", kek.encode(bytes(range(32))))
    use(reopen(kek=SecretRef(env="KEYD_TEST_KEK")))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    use(reopen(kek=SecretRef(credential="test.kek")))


def test_no_kek_is_refused(reopen, tmp_path: Path) -> None:
    with pytest.raises(errors.BackendConfigError, match="backend keys has no key-encryption key; set kek or passphrase"):
        reopen(kek=None)
    assert not (tmp_path / "state" / "kek").exists()


def test_first_run_makes_a_kek_and_says_so(reopen, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = tmp_path / "state" / "kek"
    made.parent.mkdir(mode=0o700)
    stray = put(made.parent / ".kek.0123456789abcdef.tmp", b"left by a killed process").file
    handle = reopen(first_run=True, kek=None).create("k", 1, ED)
    assert made.stat().st_mode & 0o7777 == 0o400
    assert not stray.exists()
    (record,) = [record for record in caplog.records if record.name == "keyd.backends.file"]
    assert record.levelno == logging.WARNING
    assert str(made) in record.getMessage()
    assert "back it up" in record.getMessage()
    assert made.read_text().strip() not in caplog.text
    caplog.clear()
    use(reopen(first_run=True, kek=None), handle)
    assert not caplog.records
    with pytest.raises(errors.BackendConfigError, match="set kek = "):
        reopen(first_run=False, kek=None)


def test_lost_kek_is_not_replaced(reopen, tmp_path: Path) -> None:
    reopen(first_run=True, kek=None).create("k", 1, ED)
    (tmp_path / "state" / "kek").unlink()
    with pytest.raises(errors.BackendConfigError, match="is gone; restore it from its backup"):
        reopen(first_run=True, kek=None)
    assert not (tmp_path / "state" / "kek").exists()


def test_passphrase_round_trip(reopen, tmp_path: Path, keys: Path) -> None:
    backend = reopen(passphrase=put(tmp_path / "pass", PASSPHRASE + b"\n"))
    backend.create("k", 1, ED)
    signature = use(backend)
    recorded = json.loads((keys / "kdf.json").read_text())
    assert (recorded["kdf"], recorded["memory_kib"], recorded["iterations"], recorded["lanes"]) == ("argon2id", 65536, 3, 4)
    assert use(reopen(passphrase=put(tmp_path / "pass", PASSPHRASE))) == signature
    assert [key.handle for key in backend.list()] == ["k.1.key"]


def test_wrong_passphrase_is_found_before_the_first_key(reopen, tmp_path: Path, keys: Path) -> None:
    reopen(passphrase=put(tmp_path / "pass", PASSPHRASE))
    with pytest.raises(errors.BackendConfigError, match=r"is not the one of .*kdf\.json") as failure:
        reopen(passphrase=put(tmp_path / "pass", PASSPHRASE + b"."))
    assert PASSPHRASE.decode() not in str(failure.value)


def test_lost_kdf_file_is_not_replaced(reopen, tmp_path: Path, keys: Path) -> None:
    passphrase = put(tmp_path / "pass", PASSPHRASE)
    reopen(passphrase=passphrase).create("k", 1, ED)
    (keys / "kdf.json").unlink()
    with pytest.raises(errors.BackendConfigError, match=r"holds keys, but no kdf\.json"):
        reopen(passphrase=passphrase)
    assert not (keys / "kdf.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 8},
        {"memory_kib": 1 << 40},
        {"iterations": 1},
        {"lanes": 0},
        {"kdf": "none"},
        {"salt": "AA"},
        {"format": 2},
        {"x": 1},
    ],
)
def test_changed_kdf_file_is_refused(reopen, tmp_path: Path, keys: Path, change: dict[str, object]) -> None:
    passphrase = put(tmp_path / "pass", PASSPHRASE)
    keys.mkdir(parents=True, mode=0o700)
    keys.parent.chmod(0o700)
    sound = {"format": 1, "kdf": "argon2id", "salt": "A" * 22, "memory_kib": 65536, "iterations": 3, "lanes": 4, "kek_id": "x"}
    put(keys / "kdf.json", json.dumps(sound | change).encode())
    with pytest.raises(errors.BackendIntegrityError, match=r"kdf\.json is damaged"):
        reopen(passphrase=passphrase)
    put(keys / "kdf.json", json.dumps(sound).encode())
    with pytest.raises(errors.BackendConfigError, match="is not the one of"):  # the control: sound, for another passphrase
        reopen(passphrase=passphrase)
