"""``keyd sign``, ``keyd jwt`` and ``keyd jwks``."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cli.fake_daemon import FakeDaemon, Run

BASE = b'"@method": GET\n"@signature-params": ("@method")'


def b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize(
    ("option", "field", "data"),
    [("--base", "signature_base", BASE), ("--jws", "jws_signing_input", b"eyJ9.e30"), ("--message", "message", b"\0\xff")],
)
@pytest.mark.parametrize("source", ["stdin", "file"])
def test_sign(option: str, field: str, data: bytes, source: str, tmp_path: Path, daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    (tmp_path / "input").write_bytes(data)
    arguments = [str(tmp_path / "input")] if source == "file" else []
    result = run("sign", "agent", *arguments, option, "--kid", "k", stdin=data if source == "stdin" else None)
    assert (result.exit_code, result.stderr) == (0, "")
    request = daemon.requests[0]
    assert (request.WhichOneof("input"), getattr(request, field), request.kid) == (field, data, "k")
    text = result.stdout.strip()
    signature = b64url(text) if option == "--jws" else base64.b64decode(text, validate=True)
    assert ("=" in text) == (option != "--jws")
    daemon.private["agent"].public_key().verify(signature, data)


def test_sign_raw(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("sign", "agent", "--base", "--raw", stdin=BASE)
    daemon.private["agent"].public_key().verify(result.stdout_bytes, BASE)


def test_sign_json(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    document = json.loads(run("sign", "agent", "--base", "--json", stdin=BASE).stdout)
    daemon.private["agent"].public_key().verify(base64.b64decode(document.pop("signature")), BASE)
    kid = daemon.keys["agent"].versions[0].kid
    assert document == {"kid": kid, "version": 1, "http_algorithm": "ed25519", "jose_algorithm": "Ed25519"}


def test_a_line_end_is_signed_as_it_stands_but_warned_of(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("sign", "agent", "--base", stdin=BASE + b"\n")
    assert "warning: the input ends with a line end" in result.stderr
    assert daemon.requests[0].signature_base == BASE + b"\n"
    assert run("sign", "agent", "--message", stdin=b"text\n").stderr == ""


@pytest.mark.parametrize("options", [[], ["--base", "--raw", "--json"]])
def test_sign_usage(options: list[str], daemon: FakeDaemon, run: Run) -> None:
    assert run("sign", "agent", *options, stdin=BASE).exit_code == 2
    assert daemon.requests == []


def test_endless_input(daemon: FakeDaemon, run: Run) -> None:
    assert run("sign", "agent", "--message", "/dev/zero").exit_code == 4
    assert daemon.requests == []


def test_jwt(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("issuer")
    result = run(
        "jwt", "issuer", "--typ", "JWT", "--lifetime", "5m", "--kid", "k", stdin='{"sub": "a", "n": 12345678901234567890}'
    )
    assert result.exit_code == 0, result.stderr
    request = daemon.requests[0]
    assert (request.typ, request.lifetime.seconds, request.kid) == ("JWT", 300, "k")
    assert json.loads(request.claims) == {"sub": "a", "n": 12345678901234567890}
    assert json.loads(b64url(result.stdout.split(".")[0]))["typ"] == "JWT"


def test_jwt_json(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("issuer")
    document = json.loads(run("jwt", "issuer", "--typ", "JWT", "--json", stdin='{"sub": "a"}').stdout)
    assert document["claims"] == {"sub": "a"}
    assert document["header"]["kid"] == daemon.keys["issuer"].versions[0].kid
    assert document["token"].count(".") == 2


@pytest.mark.parametrize(
    "claims",
    [
        "",
        "[]",
        '"sub"',
        "{",
        '{"sub": 1, "sub": 2}',
        '{"a": {"b": 1, "b": 1}}',
        "\udcff",
        '{"a": NaN}',
        '{"a": 1e999}',
        "[" * 100_000,
    ],
)
def test_claims_that_are_none(claims: str, daemon: FakeDaemon, run: Run) -> None:
    result = run("jwt", "issuer", "--typ", "JWT", stdin=claims.encode("utf-8", "surrogateescape"))
    assert result.exit_code == 4
    assert "are not a JSON object" in result.stderr
    assert daemon.requests == []


def test_jwt_needs_a_typ(daemon: FakeDaemon, run: Run) -> None:
    assert run("jwt", "issuer", stdin="{}").exit_code == 2


def test_jwks(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("agent")
    result = run("jwks", "agent")
    assert json.loads(result.stdout) == json.loads(run("jwks", "--json").stdout)
    assert json.loads(result.stdout)["keys"][0]["kty"] == "OKP"
    assert [request.key for request in daemon.requests] == ["agent", ""]
    assert len(run("jwks", "--json").stdout.splitlines()) == 1
