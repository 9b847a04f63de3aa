"""``keyd key import``: what is read, what is refused, and that nothing of it is shown or left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.fake_daemon import FakeDaemon, Run
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from keyd.cli.private_key import Material, from_env_file

KEY = ed25519.Ed25519PrivateKey.generate()


def pem(form: PrivateFormat = PrivateFormat.PKCS8, encryption: KeySerializationEncryption | None = None) -> bytes:
    return KEY.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


PEM = pem().decode()
SECRET_LINE = PEM.splitlines()[1]
JWK = json.dumps({"kty": "OKP", "crv": "Ed25519", "x": "eA", "d": "c2VjcmV0"})


def write(path: Path, content: str | bytes, mode: int = 0o600) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return str(path)


def test_pem_file(tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    path = write(tmp_path / "key's.pem", PEM)
    result = run("key", "import", "agent", path, "--kid", "old", "--purpose", "jwt", "--backend", "vault")
    assert result.exit_code == 0, result.stderr
    request = daemon.requests[0]
    assert (request.WhichOneof("material"), request.pkcs8_pem, request.kid) == ("pkcs8_pem", PEM.encode(), "old")
    assert (request.spec.name, request.spec.backend, len(request.spec.purposes)) == ("agent", "vault", 1)
    assert f"remove it with: shred -u '{tmp_path}/key'\"'\"'s.pem'" in result.stderr
    assert "warning" not in result.stderr
    assert SECRET_LINE not in result.output
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".sock"] == ["key's.pem"]


def test_jwk_from_a_pipe(daemon: FakeDaemon, run: Run) -> None:
    result = run("key", "import", "agent", "-", "--json", stdin=f"\n {JWK}\n")
    assert result.exit_code == 0, result.stderr
    assert (daemon.requests[0].WhichOneof("material"), daemon.requests[0].private_jwk) == ("private_jwk", JWK.encode())
    assert json.loads(result.stdout)["key"]["name"] == "agent"
    assert "still holds the private key" in result.stderr
    assert "shred" not in result.stderr


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_a_file_open_to_others_is_warned_of(mode: int, tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    result = run("key", "import", "agent", write(tmp_path / "key.pem", PEM, mode))
    assert result.exit_code == 0
    assert f"key.pem can be read or changed by others (mode {mode:04o})" in result.stderr


ENV_FILES = {
    "escapes in double quotes": 'KEY="{escaped}"',
    "no quotes": "KEY={escaped}",
    "single quotes": "KEY='{escaped}'",
    "export and spaces": '  export KEY = "{escaped}"  # the key',
    "lines in double quotes": 'A=1\nKEY="{pem}"\nB=2',
    "lines in single quotes": "KEY='{pem}'",
    "among others": 'A="x=\\"\nKEY=no\n"\n#KEY=no\nMY_KEY=no\nKEY_2=no\nKEY="{escaped}"\n',
    "byte order mark and CRLF": '\ufeffA=1\r\nKEY="{escaped}"\r\n',
    "CRLF without quotes": "KEY={escaped}\r\nB=1\r\n",
    "escaped CRLF": 'KEY="{crlf}"',
}


@pytest.mark.parametrize("form", ENV_FILES)
def test_env_file_with_a_pem(form: str, tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    text = ENV_FILES[form].replace("{escaped}", PEM.replace("\n", "\\n")).replace("{crlf}", PEM.replace("\n", "\\r\\n"))
    path = write(tmp_path / ".env", text.replace("{pem}", PEM))
    result = run("key", "import", "agent", "--env-file", path, "--var", "KEY")
    assert result.exit_code == 0, result.stderr
    assert daemon.requests[0].pkcs8_pem.replace(b"\r", b"").decode() == PEM
    assert f"{path} still holds the private key; delete KEY there" in result.stderr
    assert "shred" not in result.stderr


@pytest.mark.parametrize("line", ["KEY={jwk}", "KEY='{jwk}'", 'KEY="{escaped}"'])
def test_env_file_with_a_jwk(line: str, tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    path = write(tmp_path / ".env", line.replace("{jwk}", JWK).replace("{escaped}", JWK.replace('"', '\\"')))
    assert run("key", "import", "agent", "--env-file", path, "--var", "KEY").exit_code == 0
    assert json.loads(daemon.requests[0].private_jwk) == json.loads(JWK)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=1\n", "sets KEY 0 times"),
        ("# KEY=1\n", "sets KEY 0 times"),
        ("KEY={pem}\nKEY={pem}\n", "sets KEY 2 times"),
        ("KEY=sk-verysecret\n", "neither"),
        ('KEY="sk-verysecret', "neither"),
        (b"KEY=\xff\n", "not UTF-8"),
    ],
)
def test_env_files_that_are_refused(text: str | bytes, says: str, tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    if isinstance(text, str):
        text = text.replace("{pem}", PEM.replace("\n", "\\n"))
    result = run("key", "import", "agent", "--env-file", write(tmp_path / ".env", text), "--var", "KEY")
    assert result.exit_code == 4
    assert says in result.stderr
    assert "verysecret" not in result.output and SECRET_LINE not in result.output
    assert daemon.requests == []


def test_a_value_is_taken_once() -> None:
    r"""An escaped backslash before n is a backslash and an n, not a line end, where it is no PEM."""
    assert from_env_file(rb'K="a\\nb"', "K", "f") == rb"a\nb"
    assert from_env_file(rb'K="a\nb"', "K", "f") == b"a\nb"
    assert from_env_file(rb"K='a\nb'", "K", "f") == rb"a\nb"


def test_encrypted_pem_says_how_to_decrypt_it_on_the_fly(tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    path = write(tmp_path / "key.pem", pem(encryption=BestAvailableEncryption(b"pw")))
    result = run("key", "import", "agent", path)
    assert result.exit_code == 4
    assert f"openssl pkey -in {path} | keyd key import NAME -" in result.stderr
    assert daemon.requests == []


RSA = rsa.generate_private_key(65537, 2048)
OTHERS = {
    "PKCS#1": (RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()), "older form (RSA PRIVATE KEY)"),
    "encrypted PKCS#1": (
        RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"pw")),
        "encrypted PEM",
    ),
    "OpenSSH": (pem(PrivateFormat.OpenSSH), "OpenSSH"),
    "public": (KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "no private key, but: PUBLIC KEY"),
    "two": (pem() * 2, "2 PEM blocks"),
    "nothing": (b"", "neither"),
    "DER": (KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "neither"),
    "endless": (b"A" * 70_000, "larger than"),
}


@pytest.mark.parametrize("form", OTHERS)
def test_what_is_no_pkcs8_is_refused_here(form: str, tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    data, says = OTHERS[form]
    result = run("key", "import", "agent", write(tmp_path / "key", data))
    assert result.exit_code == 4
    assert says in result.stderr
    assert daemon.requests == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["f", "--env-file", "e", "--var", "V"], ["--env-file", "e"], ["f", "--var", "V"], ["f", "--algorithm", "none"]],
)
def test_usage(arguments: list[str], daemon: FakeDaemon, run: Run) -> None:
    assert run("key", "import", "agent", *arguments).exit_code == 2
    assert daemon.requests == []


def test_a_file_that_is_not_there(tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    result = run("key", "import", "agent", str(tmp_path / "no"))
    assert result.exit_code == 1
    assert result.stderr == f"keyd: cannot read {tmp_path}/no: No such file or directory\n"


def test_when_the_daemon_refuses_nothing_is_said_of_removing(tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    import grpc

    daemon.fail(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", "there is a key 'agent' already")
    result = run("key", "import", "agent", write(tmp_path / "key.pem", PEM))
    assert result.exit_code == 7
    assert "shred" not in result.stderr


def test_repr_hides_the_material() -> None:
    assert SECRET_LINE not in repr(Material("pkcs8_pem", PEM.encode()))
