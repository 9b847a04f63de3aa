import errno
import fcntl
import json
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from backends import errors, kek
from backends.api import Algorithm, BackendContext
from backends.file import FileBackend, FileConfig
from backends.secrets import Secret, SecretRef

ED = Algorithm.ED25519
REFUSED = (errors.BackendIntegrityError, errors.BackendConfigError)


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


def test_wrong_kek_is_found_at_start(reopen, tmp_path: Path) -> None:
    reopen().create("k", 1, ED)
    with pytest.raises(errors.BackendConfigError, match=r"k\.1\.key was encrypted under another key-encryption key"):
        reopen(kek=put(tmp_path / "other", bytes(32)))
    use(reopen())


def test_file_under_another_kek_is_named_when_used(reopen, keys: Path, tmp_path: Path) -> None:
    reopen().create("k", 1, ED)
    other = reopen(kek=put(tmp_path / "other", bytes(32)), directory=tmp_path / "elsewhere")
    other.create("m", 1, ED)
    (tmp_path / "elsewhere" / "m.1.key").rename(keys / "m.1.key")
    with pytest.raises(errors.BackendIntegrityError, match=r"m\.1\.key was encrypted under another key-encryption key"):
        use(reopen(), "m.1.key")


@pytest.mark.parametrize("algorithm", [ED, Algorithm.PS512])
def test_every_changed_byte_is_noticed(reopen, keys: Path, algorithm: Algorithm) -> None:
    handle = reopen().create("k", 1, algorithm)
    path = keys / handle
    sound = path.read_bytes()
    for place in range(0, len(sound), 1 if algorithm is ED else 7):
        for mask in (0x01, 0x20, 0x80):
            changed = bytearray(sound)
            changed[place] ^= mask
            put(path, bytes(changed))
            with pytest.raises(REFUSED, match=r"k\.1\.key"):
                reopen().sign(handle, algorithm, b"message")
    put(path, sound)
    reopen().sign(handle, algorithm, b"message")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"",
        lambda text: text[:-1],
        lambda text: text + b"\n",
        lambda text: b" " + text,
        lambda text: text[: len(text) // 2],
        lambda text: b"[]\n",
        lambda text: b"{}\n",
        lambda text: b"[" * 60_000,
        lambda text: b"1" * 60_000,
        lambda text: bytes(70_000),
        lambda text: text.replace(b'"version":1', b'"version":true'),
        lambda text: text.replace(b'"version":1', b'"version":1.0'),
        lambda text: text.replace(b'{"format"', b'{"format":1,"format"'),
        lambda text: text.replace(b'"Ed25519"', b'"ES256"'),
        lambda text: text.replace(b'"Ed25519"', b'"none"'),
        lambda text: text.replace(b'"format":1', b'"format":2'),
        lambda text: re.sub(b'"nonce":"[^"]*"', b'"nonce":1', text),
        lambda text: re.sub(b'"nonce":"[^"]*"', b'"nonce":""', text),
    ],
)
def test_misspelt_file_is_refused(reopen, keys: Path, change) -> None:
    backend = reopen()
    backend.create("k", 1, ED)
    path = keys / "k.1.key"
    sound = path.read_bytes()
    assert change(sound) != sound
    put(path, change(sound))
    with pytest.raises(errors.BackendIntegrityError, match=r"k\.1\.key"):
        use(backend)
    with pytest.raises(errors.BackendIntegrityError, match=r"k\.1\.key"):
        reopen()


def test_swapped_and_renamed_files_are_noticed(reopen, keys: Path) -> None:
    backend = reopen()
    for name, version in (("k", 1), ("k", 2), ("m", 1)):
        backend.create(name, version, ED)
    contents = {name: (keys / name).read_bytes() for name in ("k.1.key", "k.2.key", "m.1.key")}
    put(keys / "k.1.key", contents["k.2.key"])
    put(keys / "k.2.key", contents["k.1.key"])
    put(keys / "m.7.key", contents["m.1.key"])
    for handle in ("k.1.key", "k.2.key", "m.7.key"):
        with pytest.raises(errors.BackendIntegrityError, match=f"{handle} is the file of"):
            use(backend, handle)
    # Renamed and relabelled: the header agrees with the name, the ciphertext does not.
    put(keys / "m.7.key", contents["m.1.key"].replace(b'"version":1', b'"version":7'))
    with pytest.raises(errors.BackendIntegrityError, match=r"m\.7\.key was changed or damaged"):
        use(backend, "m.7.key")
    use(backend, "m.1.key")


def test_one_damaged_file_does_not_stop_the_others(reopen, keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = reopen()
    backend.create("a", 1, ED)
    backend.create("k", 1, ED)
    put(keys / "a.1.key", b"damaged")
    backend = reopen()
    use(backend)
    assert "a.1.key was changed or damaged" in caplog.text
    with pytest.raises(errors.BackendIntegrityError, match=r"a\.1\.key"):
        use(backend, "a.1.key")


def test_file_of_a_later_keyd_is_named(reopen, keys: Path) -> None:
    reopen().create("k", 1, ED)
    put(keys / "k.1.key", (keys / "k.1.key").read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(errors.BackendIntegrityError, match=r"k\.1\.key has format 2"):
        reopen()


def test_algorithm_is_bound_to_the_key(reopen, keys: Path) -> None:
    backend = reopen()
    backend.create("k", 1, Algorithm.RS256)
    put(keys / "k.1.key", (keys / "k.1.key").read_bytes().replace(b'"RS256"', b'"PS512"'))
    with pytest.raises(errors.BackendIntegrityError, match=r"k\.1\.key was changed"):
        backend.sign("k.1.key", Algorithm.PS512, b"message")
    backend._write("m.1.key", "m", 1, Algorithm.ES256, ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(errors.BackendIntegrityError, match=r"m\.1\.key was changed"):
        backend.public_key("m.1.key")


def test_rsa_algorithms_are_not_mixed(reopen) -> None:
    backend = reopen()
    backend.create("k", 1, Algorithm.RS256)
    with pytest.raises(errors.UnsupportedAlgorithmError, match=r"k\.1\.key holds a key for RS256, not for PS512"):
        backend.sign("k.1.key", Algorithm.PS512, b"message")
    assert len(backend.sign("k.1.key", Algorithm.RS256, b"message")) == 256


def test_file_holds_no_plain_key(reopen, keys: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    reopen().import_key("k", 1, ED, key)
    content = (keys / "k.1.key").read_bytes()
    assert (keys / "k.1.key").stat().st_mode & 0o7777 == 0o400
    for raw in (content, kek.decode(json.loads(content)["ciphertext"])):
        assert key.private_bytes_raw() not in raw


def make_open(path: Path) -> None:
    path.chmod(0o644)


def make_symlink(path: Path) -> None:
    path.rename(path.parent / "moved")
    path.symlink_to(path.parent / "moved")


def make_hard_link(path: Path) -> None:
    os.link(path, path.parent / "second-name")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


@pytest.mark.parametrize("spoil", [make_open, make_symlink, make_hard_link, make_fifo, make_directory])
def test_unsafe_file_is_refused(reopen, keys: Path, spoil) -> None:
    backend = reopen()
    backend.create("k", 1, ED)
    spoil(keys / "k.1.key")
    for attempt in (lambda: use(backend), lambda: backend.public_key("k.1.key"), reopen):
        with pytest.raises(errors.BackendIntegrityError, match=r"k\.1\.key"):
            attempt()


def test_foreign_owner_is_refused(reopen, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = reopen()
    backend.create("k", 1, ED)
    if os.geteuid() == 0:
        os.chown(keys / "k.1.key", 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(errors.BackendIntegrityError, match=r"k\.1\.key belongs to uid"):
        use(backend)
    if os.geteuid() == 0:
        os.chown(keys, 65534, -1)
    with pytest.raises(errors.BackendIntegrityError, match=r"directory .* belongs to uid"):
        reopen(directory=keys, kek=SecretRef(env="UNUSED"))


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_open_directory_is_refused(reopen, keys: Path, mode: int) -> None:
    backend = reopen()
    keys.chmod(mode)
    with pytest.raises(errors.BackendIntegrityError, match=f"run `chmod 0700 {keys}`"):
        reopen()
    with pytest.raises(errors.BackendIntegrityError, match="open to other users"):
        backend.create("k", 1, ED)


def test_directory_is_made_private_whatever_the_umask(reopen, keys: Path) -> None:
    before = os.umask(0)
    try:
        reopen().create("k", 1, ED)
    finally:
        os.umask(before)
    assert keys.stat().st_mode & 0o7777 == keys.parent.stat().st_mode & 0o7777 == 0o700
    assert (keys / "k.1.key").stat().st_mode & 0o7777 == 0o400


def test_directory_must_be_a_directory(reopen, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "plain").touch()
    for name in ("link", "dangling", "plain"):
        with pytest.raises(errors.BackendIntegrityError, match=f"{name} is not a directory"):
            reopen(directory=tmp_path / name, kek=SecretRef(file=tmp_path / "test.kek"))


@pytest.mark.parametrize("name", ["", ".", "..", "../k", "a/b", ".hidden", "k\n", "k\0", "é", "x" * 64, "k k"])
def test_names_stay_in_the_directory(reopen, keys: Path, name: str) -> None:
    backend = reopen()
    for attempt in (
        lambda: backend.create(name, 1, ED),
        lambda: backend.import_key(name, 1, ED, ed25519.Ed25519PrivateKey.generate()),
    ):
        with pytest.raises(errors.BackendError, match="cannot be the name of a key file"):
            attempt()
    with pytest.raises(errors.KeyNotFoundError):
        backend.destroy(f"{name}/1.key")
    for version in (0, -1, 10**10):
        with pytest.raises(errors.BackendError, match="cannot be the name of a key file"):
            backend.create("k", version, ED)
    assert [*keys.iterdir()] == []


def test_stray_temporaries_are_swept(reopen, keys: Path) -> None:
    reopen().create("k", 1, ED)
    stray, living = keys / ".k.2.key.0123456789abcdef.tmp", keys / ".k.3.key.0123456789abcdef.tmp"
    others = [keys / ".k.4.key.tmp", keys / "notes.tmp", keys / ".x.0123456789abcdef.tmp.bak"]
    for path in (stray, living, *others):
        path.touch(mode=0o400)
    # Neither a link nor a directory is one of ours, whatever its name.
    others += [keys / f".k.{number}.key.0123456789abcdef.tmp" for number in (5, 6)]
    others[-1].symlink_to(keys / "k.1.key")
    others[-2].mkdir()
    with living.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        backend = reopen()
        assert not stray.exists()
        assert all(path.exists() for path in (living, *others))
    assert [key.handle for key in backend.list()] == ["k.1.key"]
    reopen()
    assert not living.exists()


def test_key_of_a_writer_killed_between_link_and_unlink_is_whole(reopen, keys: Path) -> None:
    reopen().create("k", 1, ED)
    os.link(keys / "k.1.key", keys / ".k.1.key.0123456789abcdef.tmp")
    use(reopen())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, errors.BackendFullError),
        (errno.EDQUOT, errors.BackendFullError),
        (errno.EACCES, errors.BackendAccessError),
        (errno.EIO, errors.BackendUnavailableError),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_failed_write_leaves_nothing(
    reopen, keys: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, error: type[Exception]
) -> None:
    backend = reopen()

    def fail(*arguments: object, **keywords: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(error, match=r"cannot write .*k\.1\.key"):
            backend.create("k", 1, ED)
    assert [*keys.iterdir()] == []
    use(backend, backend.create("k", 1, ED))


@pytest.mark.parametrize("kind", [stat.S_ISREG, stat.S_ISDIR])
def test_file_and_directory_are_synced_or_the_key_is_taken_back(
    reopen, keys: Path, monkeypatch: pytest.MonkeyPatch, kind
) -> None:
    backend = reopen()
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(errors.BackendUnavailableError):
            backend.create("k", 1, ED)
    assert [*keys.iterdir()] == []


def test_short_writes_are_continued(reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = reopen()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:10])))
    use(backend, backend.create("k", 1, ED))


def test_destroyed_key_is_not_brought_back_by_a_load(reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that has read the file when the destroyer comes must not keep the key."""
    backend = reopen()
    backend.create("k", 1, ED)
    read, go_on = threading.Event(), threading.Event()
    decrypt = FileBackend._decrypt

    def slow(self: FileBackend, handle: str) -> object:
        key = decrypt(self, handle)
        read.set()
        assert go_on.wait(timeout=30)
        return key

    monkeypatch.setattr(FileBackend, "_decrypt", slow)
    signer = threading.Thread(target=use, args=(backend,))
    destroyer = threading.Thread(target=backend.destroy, args=("k.1.key",))
    signer.start()
    assert read.wait(timeout=30)
    destroyer.start()
    destroyer.join(timeout=0.1)  # with the lock it waits for the load; without it, it is through by now
    go_on.set()
    signer.join(timeout=30)
    destroyer.join(timeout=30)
    with pytest.raises(errors.KeyNotFoundError):
        use(backend)


def test_foreign_files_are_not_listed(reopen, keys: Path) -> None:
    backend = reopen()
    backend.create("k", 10, ED)
    for name in ("README.key", "k.01.key", "k.0.key", "k.1.key.bak", ".k.1.key"):
        put(keys / name, b"")
    assert [(key.handle, key.name, key.version) for key in backend.list()] == [("k.10.key", "k", 10)]


def test_nothing_secret_is_shown(reopen, tmp_path: Path) -> None:
    secret = bytes(range(32))
    backend = reopen()
    backend.create("k", 1, ED)
    use(backend)
    objects = (backend, backend._kek, backend._loaded, FileConfig(kek=SecretRef(file=tmp_path / "test.kek")), Secret(secret))
    for shown in [repr(thing) for thing in objects] + [str(vars(backend)), str(vars(backend._kek))]:
        assert repr(secret)[2:-1] not in shown
        assert kek.encode(secret) not in shown
