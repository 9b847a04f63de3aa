"""The PKCS#11 backend with SoftHSM: what the contract suite does not ask of every backend."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from components.nss import Nss
from components.softhsm import LABEL, MODULE, PIN, SoftHsm
from pkcs11 import Attribute, ObjectClass, TokenFlag

from backends import _pkcs11_login, _pkcs11_token, deadline, errors
from backends._pkcs11_keys import GENERATORS
from backends._pkcs11_module import find
from backends._pkcs11_token import Connection
from backends.api import Algorithm, BackendContext
from backends.encoding import verify_raw
from backends.pkcs11 import Pkcs11Backend, Pkcs11Config
from backends.secrets import SecretRef
from keyd.config.loader import load
from keyd.demo.stores import softhsm as demo_store

ROOT = Path(__file__).parents[2]
SPY = next(Path("/usr").glob("lib*/**/pkcs11-spy.so"))
CONTEXT = BackendContext("hsm", Path("/nonexistent"))
M = b'"@authority": example.com'


@pytest.fixture
def store(tmp_path: Path) -> SoftHsm:
    return SoftHsm(tmp_path)


@contextmanager
def opened(config: Pkcs11Config) -> Iterator[Pkcs11Backend]:
    backend = Pkcs11Backend.open(config, CONTEXT)
    try:
        yield backend
    finally:
        backend.close()


class Spy:
    """pkcs11-spy of OpenSC between keyd and the module: it writes down every call. Where, it asks its environment only once."""

    def __init__(self, store: SoftHsm, log: Path) -> None:
        self._log = log
        spied = {"PKCS11SPY": str(MODULE), "PKCS11SPY_OUTPUT": str(log)}
        self.settings = {"module": SPY, "environment": {**store.environment, **spied}}
        self._before = log.stat().st_size if log.exists() else 0

    def calls(self, function: str) -> int:
        return len(re.findall(rf"^\d+: {function}$", self._log.read_text()[self._before :], re.MULTILINE))


@pytest.fixture(scope="module")
def spy_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spy") / "log"


def sign_until_well(backend: Pkcs11Backend, handle: str, algorithm: Algorithm = Algorithm.ES256) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            verify_raw(backend.public_key(handle), algorithm, backend.sign(handle, algorithm, M), M)
            return
        except errors.BackendUnavailableError:
            assert time.monotonic() < end, "no recovery"
            time.sleep(0.02)


# --- other programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        (Algorithm.ED25519, ["--mechanism", "EDDSA"]),
        (Algorithm.ES256, ["--mechanism", "ECDSA-SHA256"]),
        (Algorithm.ES384, ["--mechanism", "ECDSA-SHA384"]),
        (Algorithm.PS512, ["--mechanism", "SHA512-RSA-PKCS-PSS"]),
        (Algorithm.RS256, ["--mechanism", "SHA256-RSA-PKCS"]),
    ],
    ids=lambda value: value.value if isinstance(value, Algorithm) else "",
)
def test_pkcs11_tool_verifies(store: SoftHsm, tmp_path: Path, algorithm: Algorithm, arguments: list[str]) -> None:
    with opened(store.config()) as backend:
        handle = backend.create("k", 1, algorithm)
        signature = backend.sign(handle, algorithm, M)
    if algorithm in (Algorithm.ES256, Algorithm.ES384):
        # SoftHSM hashes no ECDSA, so the digest goes in; made by a third program.
        digest = subprocess.run(
            ["openssl", "dgst", "-binary", f"-sha{algorithm.value[2:]}"], input=M, check=True, capture_output=True
        )
        message, arguments = digest.stdout, ["--mechanism", "ECDSA"]
    else:
        message = M
    for name, content in (("message", message), ("signature", signature), ("other", b"\1" + message[1:])):
        (tmp_path / name).write_bytes(content)
    verify = ["--verify", "--id", handle.removeprefix("id="), *arguments, "--signature-file", str(tmp_path / "signature")]
    assert "Signature is valid" in store.tool(*verify, "--input-file", str(tmp_path / "message"))
    assert "Invalid signature" in store.tool(*verify, "--input-file", str(tmp_path / "other"))


def test_private_keys_cannot_leave(store: SoftHsm) -> None:
    with opened(store.config()) as backend:
        handles = [backend.create("k", n, algorithm) for n, algorithm in enumerate(Algorithm, 1)]
    shown = store.tool("--list-objects", "--type", "privkey")
    assert shown.count("Private Key Object") == 5
    assert shown.count("sensitive, always sensitive, never extractable, local") == 5
    assert re.findall(r"label: +(\S+)", shown) and set(re.findall(r"label: +(\S+)", shown)) == {
        f"keyd:k:{n}" for n in range(1, 6)
    }
    assert {f"id={shown_id}" for shown_id in re.findall(r"ID: +([0-9a-f]+)", shown)} == set(handles)
    assert set(re.findall(r"Usage: +(.*)", shown)) == {"sign"}


def test_keys_that_cannot_be_used_are_left_out(store: SoftHsm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pair = ("--keypairgen", "--key-type", "EC:prime256v1")
    store.tool(*pair, "--id", "01", "--label", "good", "--usage-sign")
    store.tool(*pair, "--id", "02", "--label", "twice", "--usage-sign")
    store.tool(*pair, "--id", "02", "--label", "twice too", "--usage-sign")
    store.tool(*pair, "--id", "03", "--label", "half", "--usage-sign")
    store.tool("--delete-object", "--type", "pubkey", "--id", "03")
    store.tool(*pair, "--id", "04", "--label", "disabled", "--usage-sign")
    store.tool("--keypairgen", "--key-type", "EC:secp256k1", "--id", "05", "--label", "other curve", "--usage-sign")
    store.tool(*pair, "--label", "no id", "--usage-sign")
    with opened(store.config()) as backend:
        (disabled,) = find(backend._connection._session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: "disabled"})
        disabled[Attribute.SIGN] = False
        assert [key.handle for key in backend.list()] == ["id=01"]
        for number, complaint in ((2, "several keys"), (3, "no public object"), (4, "CKA_SIGN"), (5, "curve")):
            expected = errors.BackendAccessError if number == 4 else errors.BackendIntegrityError
            for call in (backend.public_key, lambda handle: backend.sign(handle, Algorithm.ES256, M)):
                with pytest.raises(expected, match=complaint):
                    call(f"id=0{number}")
        with pytest.raises(errors.BackendIntegrityError, match="destroy it by hand"):
            backend.destroy("id=02")
        assert [*backend.list()]
    for reason in (
        "another key has the same CKA_ID",
        "no public object",
        "its CKA_SIGN is not true",
        "its curve",
        "it has no CKA_ID",
    ):
        assert reason in caplog.text
    assert caplog.text.count("its curve") == 1, "said at every listing"


def test_a_key_that_is_disabled_while_it_is_used(store: SoftHsm) -> None:
    with opened(store.config()) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
        backend.sign(handle, Algorithm.ES256, M)
        (key,) = find(backend._connection._session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        key[Attribute.SIGN] = False
        with pytest.raises(errors.BackendAccessError, match="CKA_SIGN is not true"):
            backend.sign(handle, Algorithm.ES256, M)
        key[Attribute.SIGN] = True
        backend.sign(handle, Algorithm.ES256, M)


@pytest.mark.parametrize("others", [0, 1], ids=["the last key", "one of two"])
def test_destroyed_by_another_program(store: SoftHsm, others: int) -> None:
    with opened(store.config()) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
        for number in range(others):
            backend.create("other", number + 1, Algorithm.ES256)
        backend.sign(handle, Algorithm.ES256, M)
        time.sleep(0.2)  # reopen_interval: the module may be opened anew at once
        store.tool("--delete-object", "--type", "privkey", "--id", handle.removeprefix("id="))
        with pytest.raises(errors.KeyNotFoundError):
            backend.sign(handle, Algorithm.ES256, M)
        assert len([*backend.list()]) == others
        backend.destroy(handle)
        assert "keyd:k:1" not in store.tool("--list-objects")


def test_another_key_under_the_same_id(store: SoftHsm) -> None:
    with opened(store.config()) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
        backend.sign(handle, Algorithm.ES256, M)
        key_id = handle.removeprefix("id=")
        for kind in ("privkey", "pubkey"):
            store.tool("--delete-object", "--type", kind, "--id", key_id)
        store.tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", key_id, "--usage-sign")
        for _ in range(2):
            with pytest.raises(errors.BackendIntegrityError, match="another key than before"):
                backend.sign(handle, Algorithm.ES256, M)
            with pytest.raises(errors.BackendIntegrityError, match="another key than before"):
                backend.public_key(handle)


def test_initialised_anew_under_us(store: SoftHsm) -> None:
    """The token is there, and the PIN is right: so the keys are really gone."""
    with opened(store.config()) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
        backend.sign(handle, Algorithm.ES256, M)
        time.sleep(0.2)
        store.init_token(LABEL, "--token", LABEL)
        with pytest.raises(errors.KeyNotFoundError):
            backend.sign(handle, Algorithm.ES256, M)
        assert [*backend.list()] == []
        backend.sign(backend.create("k", 1, Algorithm.ES256), Algorithm.ES256, M)


# --- the token comes and goes -----------------------------------------------------------------------------------------------


def test_starts_without_its_token(store: SoftHsm, caplog: pytest.LogCaptureFixture) -> None:
    with opened(store.config()) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
    with store.gone():
        backend = Pkcs11Backend.open(store.config(), CONTEXT)
        assert "starts without its token" in caplog.text
        assert backend.capabilities.algorithms == set(Algorithm)
        calls: list[Callable[[], object]] = [
            lambda: backend.sign(handle, Algorithm.ES256, M),
            lambda: backend.public_key(handle),
            backend.list,
            lambda: backend.create("k", 2, Algorithm.ES256),
            lambda: backend.destroy(handle),
        ]
        for call in calls:
            with pytest.raises(errors.BackendUnavailableError, match="there is no token"):
                call()
    sign_until_well(backend, handle)
    assert [(key.name, key.version) for key in backend.list()] == [("k", 1)]
    backend.close()


def test_an_empty_token_that_is_gone_is_not_empty(store: SoftHsm) -> None:
    with opened(store.config()) as backend:
        assert [*backend.list()] == []
        with store.gone(), pytest.raises(errors.BackendUnavailableError):
            backend.list()


def test_a_fake_token_that_shows_nothing_any_more(store: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """SoftHSM fails in other ways, too, when it is gone; this stands for tokens that only go silent."""
    with opened(store.config(reopen_interval=3600)) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
        calls: list[Callable[[], object]] = [
            backend.list,
            lambda: backend.public_key(handle),
            lambda: backend.destroy(handle),
            lambda: backend.sign(handle, Algorithm.ES256, M),
            lambda: backend.create("k", 2, Algorithm.ES256),
        ]
        with monkeypatch.context() as patch:
            patch.setattr(_pkcs11_token, "find", lambda session, template: [])
            for call in calls:
                with pytest.raises(errors.BackendUnavailableError, match="shows no keys any more"):
                    call()
        backend.sign(handle, Algorithm.ES256, M)


def test_the_module_is_opened_again_at_most_every_interval(store: SoftHsm, spy_log: Path) -> None:
    spy = Spy(store, spy_log)
    with opened(store.config(reopen_interval=0.5, **spy.settings)) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
        start = time.monotonic()
        with store.gone():
            calls = 0
            while time.monotonic() < start + 1.2 or calls < 20:
                with pytest.raises(errors.BackendUnavailableError):
                    backend.sign(handle, Algorithm.ES256, M)
                calls += 1
        attempts = spy.calls("C_Initialize")
        assert 2 <= attempts <= 2 + (time.monotonic() - start) / 0.5
        sign_until_well(backend, handle)


def test_a_signature_that_does_not_end_holds_nobody_up_for_longer_than_the_deadline(store: SoftHsm) -> None:
    with opened(store.config(reopen_interval=0.05)) as backend:
        handle = backend.create("k", 1, Algorithm.ES256)
        backend.sign(handle, Algorithm.ES256, M)
        worker = backend._connection.idle[0]
        time.sleep(0.05)
        with worker.lock:  # as its owner does while C_Sign lasts
            for call in (lambda: backend.destroy(handle), lambda: backend.sign(handle, Algorithm.ES256, M)):
                start = time.monotonic()
                with deadline.within(0.2), pytest.raises(errors.BackendUnavailableError):
                    call()
                assert time.monotonic() - start < 1
            with backend._module.exclusively(), deadline.within(0.2), pytest.raises(errors.BackendUnavailableError):
                backend._module.reopen(0, RuntimeError("test"))
        backend.sign(handle, Algorithm.ES256, M)


# --- the PIN ----------------------------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_tried_once(store: SoftHsm, spy_log: Path) -> None:
    spy = Spy(store, spy_log)
    store.write_pin("9876-wrong")
    for _ in range(3):
        with pytest.raises(errors.BackendAccessError, match=r"refuses the PIN in the file .*CKR_PIN_INCORRECT") as caught:
            Pkcs11Backend.open(store.config(**spy.settings), CONTEXT)
        assert "9876" not in f"{caught.value!r}{caught.value.__cause__!r}"
    assert spy.calls("C_Login") == 1
    store.write_pin(PIN)
    with opened(store.config(**spy.settings)):
        assert spy.calls("C_Login") == 2


def test_a_wrong_pin_that_is_found_out_later_is_tried_once(store: SoftHsm, spy_log: Path) -> None:
    spy = Spy(store, spy_log)
    store.write_pin("9876-late")
    with store.gone():
        backend = Pkcs11Backend.open(store.config(reopen_interval=0.05, **spy.settings), CONTEXT)
    end = time.monotonic() + 10
    refused = 0
    while refused < 5:
        assert time.monotonic() < end
        time.sleep(0.05)
        try:
            backend.list()
        except errors.BackendAccessError:
            refused += 1
        except errors.BackendUnavailableError:
            continue
    assert spy.calls("C_Login") == 1
    backend.close()


@pytest.mark.parametrize(
    ("flag", "complaint"), [(TokenFlag.USER_PIN_LOCKED, "is locked"), (TokenFlag.USER_PIN_FINAL_TRY, "one more wrong PIN")]
)
def test_a_fake_token_near_its_lock_is_not_tried(tmp_path: Path, flag: TokenFlag, complaint: str) -> None:
    """SoftHSM never locks; this stands for tokens that do."""
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text("1234")
    token = SimpleNamespace(label="card", serial=b"1", flags=flag, slot=SimpleNamespace(slot_id=0))  # and no method open
    with pytest.raises(errors.BackendAccessError, match=complaint):
        _pkcs11_login.log_in(SimpleNamespace(path="/m", logins={}), token, SecretRef(file=tmp_path / "pin"))


def test_pins_that_cannot_be(store: SoftHsm) -> None:
    store.pin.write_bytes(b"\xff\xfe9876\n")
    with pytest.raises(errors.BackendConfigError, match="not UTF-8") as caught:
        Pkcs11Backend.open(store.config(), CONTEXT)
    assert caught.value.__cause__ is None
    store.pin.unlink()
    with store.gone(), pytest.raises(errors.BackendConfigError, match="cannot read the file"):
        Pkcs11Backend.open(store.config(), CONTEXT)


# --- modules ----------------------------------------------------------------------------------------------------------------


def test_two_backends_on_one_module(store: SoftHsm) -> None:
    store.init_token("second")
    first = Pkcs11Backend.open(store.config(), CONTEXT)
    second = Pkcs11Backend.open(store.config(uri="pkcs11:token=second"), CONTEXT)
    third = Pkcs11Backend.open(store.config(), CONTEXT)  # on the same token as the first
    handle = first.create("k", 1, Algorithm.ES256)
    other = second.create("k", 1, Algorithm.ES256)
    assert third.public_key(handle) == first.public_key(handle)
    with pytest.raises(errors.KeyExistsError):
        third.create("k", 1, Algorithm.ES256)
    with pytest.raises(errors.KeyNotFoundError):
        second.sign(handle, Algorithm.ES256, M)
    with first._module.exclusively():
        first._module.reopen(0, RuntimeError("test"))
    for backend, its in ((first, handle), (second, other), (third, handle)):
        verify_raw(backend.public_key(its), Algorithm.ES256, backend.sign(its, Algorithm.ES256, M), M)
    first.close()
    for backend, its in ((second, other), (third, handle)):
        backend.sign(its, Algorithm.ES256, M)
    second.close()
    third.sign(handle, Algorithm.ES256, M)
    third.close()


def test_two_backends_that_contradict_each_other(store: SoftHsm, tmp_path: Path) -> None:
    with opened(store.config()):
        with pytest.raises(errors.BackendConfigError, match="another environment or library_parameters"):
            Pkcs11Backend.open(store.config(environment={}), CONTEXT)
        with pytest.raises(errors.BackendConfigError, match="sets the environment variable SOFTHSM2_CONF"):
            Pkcs11Backend.open(store.config(module=SPY, environment={"SOFTHSM2_CONF": "/elsewhere"}), CONTEXT)
        wrong = tmp_path / "other-pin"
        wrong.touch(mode=0o600)
        wrong.write_text("4321")
        with pytest.raises(errors.BackendConfigError, match="with different PINs"):
            Pkcs11Backend.open(store.config(pin=SecretRef(file=wrong)), CONTEXT)
    with opened(store.config()) as backend:
        backend.create("k", 1, Algorithm.ES256)


def test_several_tokens_of_one_name(store: SoftHsm) -> None:
    store.init_token(LABEL)
    with pytest.raises(errors.BackendConfigError, match="name one by its serial"):
        Pkcs11Backend.open(store.config(), CONTEXT)
    serials = re.findall(r"serial num +: (\S+)", store.run("pkcs11-tool", "--module", str(MODULE), "--list-token-slots"))
    assert len(serials) == 2
    with opened(store.config(uri=f"pkcs11:serial={serials[0]}")) as backend:
        backend.create("k", 1, Algorithm.ES256)
    with opened(store.config(uri=f"pkcs11:serial={serials[1]}")) as backend:
        assert [*backend.list()] == []


@pytest.mark.parametrize(
    ("module", "complaint"),
    [("/nonexistent.so", "cannot load the module"), (sys.executable, "cannot load|is not a PKCS#11 module")],
)
def test_modules_that_are_none(store: SoftHsm, module: str, complaint: str) -> None:
    with pytest.raises(errors.BackendConfigError, match=complaint):
        Pkcs11Backend.open(store.config(module=Path(module)), CONTEXT)


def test_nss_wants_its_parameters_and_has_no_ed25519(tmp_path: Path) -> None:
    nss = Nss(tmp_path)
    with pytest.raises(errors.BackendConfigError, match="library_parameters"):
        Pkcs11Backend.open(nss.config(library_parameters=None), CONTEXT)
    with pytest.raises(errors.BackendConfigError, match="does not do Ed25519; of keyd's algorithms it does ES256, ES384, PS512"):
        Pkcs11Backend.open(nss.config(algorithms={Algorithm.ED25519, Algorithm.ES256}), CONTEXT)


def test_algorithms_can_be_narrowed(store: SoftHsm) -> None:
    store.tool("--keypairgen", "--key-type", "rsa:2048", "--id", "01", "--usage-sign")
    with opened(store.config(algorithms={Algorithm.RS256})) as backend:
        assert backend.capabilities.algorithms == {Algorithm.RS256}
        backend.sign("id=01", Algorithm.RS256, M)
        for call in (lambda: backend.sign("id=01", Algorithm.PS512, M), lambda: backend.create("k", 1, Algorithm.ES256)):
            with pytest.raises(errors.UnsupportedAlgorithmError):
                call()


def test_initialised_by_something_else(store: SoftHsm, tmp_path: Path) -> None:
    """Then it is without locks, and would crash."""
    program = (
        "import sys, pkcs11; from pathlib import Path; from backends.pkcs11 import *; from backends.api import BackendContext\n"
        "pkcs11.lib(sys.argv[1])\n"
        "Pkcs11Backend.open(Pkcs11Config.model_validate_json(Path(sys.argv[2]).read_text()), BackendContext('hsm', Path('/x')))\n"
    )
    done = _run([sys.executable, "-c", program, str(MODULE), str(_written(store, tmp_path))], store)
    assert done.returncode == 1
    assert "BackendConfigError: something else in this process uses the module" in done.stderr


def test_threads(store: SoftHsm, tmp_path: Path) -> None:
    """In a process of its own: what this is about ends in a crash."""
    program = ROOT / "tests/components/pkcs11_threads.py"
    done = _run([sys.executable, str(program), str(_written(store, tmp_path)), "2"], store)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    assert "ignored" not in done.stderr, "a destructor of the library complains"


def _written(store: SoftHsm, directory: Path) -> Path:
    path = directory / "config.json"
    path.write_text(store.config().model_dump_json(exclude_none=True))
    return path


def _run(command: list[str], store: SoftHsm) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **store.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_fake_token_that_lets_keys_leave(store: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token at hand disobeys; so one that obeys is told wrongly."""
    with opened(store.config()) as backend:
        obeyed = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True}
        connection: Connection = backend._connection
        with monkeypatch.context() as patch:
            patch.setattr(_pkcs11_token, "_PRIVATE_TEMPLATE", obeyed)
            connection.generate(GENERATORS[Algorithm.ES256], b"\1", "told so", 2048)
        destroyed = backend.public_key("id=01")
        real_read = _pkcs11_token.read
        monkeypatch.setattr(
            _pkcs11_token, "read", lambda thing, attributes: {**real_read(thing, attributes), Attribute.EXTRACTABLE: True}
        )
        with pytest.raises(errors.BackendIntegrityError, match="another EXTRACTABLE than it was told"):
            backend.create("k", 1, Algorithm.ES256)
        monkeypatch.undo()
        assert [key.handle for key in backend.list()] == ["id=01"]
        assert destroyed


# --- configuration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"uri": "pkcs11:token=t"}, "name the module once"),
        ({"uri": "pkcs11:token=t?module-path=/m", "module": Path("/m")}, "name the module once"),
        ({"uri": "pkcs11:token=t?pin-source=/p", "module": Path("/m"), "pin": SecretRef(env="P")}, "refer to the PIN once"),
        ({"uri": "pkcs11:token=t", "module": Path("/m")}, "refer to the PIN once"),
        ({"uri": "pkcs11:token=t", "module": Path("m"), "pin": SecretRef(env="P")}, "not an absolute path"),
        ({"uri": "pkcs11:token=t?pin-value=9876&module-path=/m"}, "a PIN has no place"),
        ({"uri": "pkcs11:token=t?module-path=/m&pin-source=/p", "environment": {"A=B": "x"}}, "pattern"),
        ({"uri": "pkcs11:token=t?module-path=/m&pin-source=/p", "environment": {"A": "x\0"}}, "pattern"),
        ({"uri": "pkcs11:token=t?module-path=/m&pin-source=/p", "algorithms": set()}, "at least 1"),
        ({"uri": "pkcs11:token=t?module-path=/m&pin-source=/p", "reopen_interval": 0}, "greater than"),
        ({"uri": "pkcs11:token=t?module-path=/m&pin-source=/p", "slot": 1}, "Extra inputs"),
    ],
)
def test_configurations_that_are_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Pkcs11Config(**fields)
    assert "9876" not in str(caught.value)


def test_everything_in_the_uri(store: SoftHsm, tmp_path: Path) -> None:
    uri = f"pkcs11:token={LABEL.replace(' ', '%20')};manufacturer=SoftHSM%20project?module-path={MODULE}&pin-source=file:{store.pin}"
    with opened(Pkcs11Config(uri=uri, environment=dict(store.environment))) as backend:
        backend.sign(backend.create("k", 1, Algorithm.ED25519), Algorithm.ED25519, M)


def _serve(section: str, path: Path) -> None:
    """Load a configuration as the daemon does, and use its backend."""
    path.write_text(section)
    config = load(path).backends["hsm"]
    with opened(config.options) as backend:
        handle = backend.create("k", 1, Algorithm.ED25519)
        verify_raw(backend.public_key(handle), Algorithm.ED25519, backend.sign(handle, Algorithm.ED25519, M), M)


def test_softhsm_setup(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "SoftHSM-setup.sh", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    directory = tmp_path / "a token"
    first = run("a token")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("[backends.hsm]\n")
    _serve(first.stdout, tmp_path / "keyd.toml")
    before = {path: path.stat().st_mode & 0o777 for path in directory.rglob("*")}
    assert {mode & 0o077 for mode in before.values()} == {0}
    again = run(str(directory))
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert {path: path.stat().st_mode & 0o777 for path in directory.rglob("*")} == before
    pin = (directory / "pin").read_text().strip()
    assert len(pin) == 32 and pin not in first.stdout + first.stderr

    (directory / "pin").unlink()
    lost = run("a token")
    assert lost.returncode == 1 and lost.stdout == "" and "put it back" in lost.stderr
    assert run(str(tmp_path)).returncode == 1, "took a directory that is used for something else"
    assert run('a"b').returncode == 1
    assert run("a", "b").returncode == 2
    assert run("--helpp").returncode == 2
    helped = run("--help")
    assert helped.returncode == 0 and "Usage:" in helped.stdout


def test_the_demos_store(tmp_path: Path) -> None:
    with demo_store.start(tmp_path) as store:
        assert "SoftHSM 2" in store.description
        assert not store.environment
        assert store.algorithm == "Ed25519"
        _serve("[backends.hsm]\n" + store.section, tmp_path / "keyd.toml")


def test_the_demos_store_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(demo_store.StoreMissingError, match="apt install softhsm2"), demo_store.start(tmp_path):
        pass


def test_half_of_a_pair_that_was_whole_is_a_token_in_trouble(store: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that goes away, or comes back, can show the private key alone for a moment: that is no damaged key."""
    with opened(store.config(reopen_interval=0.05)) as backend:
        handle = backend.create("k", 1, Algorithm.ED25519)
        public = backend.public_key(handle)
        connection = backend._connection
        whole = connection._pair
        monkeypatch.setattr(connection, "_pair", lambda key_id: ([], whole(key_id)[1]))
        time.sleep(0.1)  # reopen_interval: the module may be opened anew at once
        assert backend.public_key(handle) == public
        assert backend._connection is not connection
