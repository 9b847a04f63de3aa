from pathlib import Path

import pytest

from keyd import config as keyd_config

SECTION = """
[backends.vault]
type = "vault"
address = "https://vault.example:8200"
"""
GOOD = (
    SECTION
    + """\
auth = { approle = { role_id = "keyd", secret_id = { credential = "secret-id" } } }
"""
)


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "keyd.toml"
    path.write_text(text)
    try:
        keyd_config.load(path)
    except keyd_config.ConfigError as error:
        return [f"{problem.where}: {problem.message}" for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "lines",
    [
        GOOD,
        GOOD.replace("https://vault.example:8200", "unix:/run/bao.sock"),
        GOOD.replace("https://vault.example:8200", "http://127.0.0.1:8200"),
        GOOD.replace("https://vault.example:8200", "http://[::1]:8200"),
        GOOD.replace("https://vault.example:8200", "https://[2001:db8::1]:8200/"),
        GOOD.replace("https://", "http://") + "allow_plaintext = true",
        GOOD.replace('"keyd"', '"keyd", wrapped = true, mount = "team/approle"'),
        GOOD + 'mount = "team/sign"\nprefix = "a-"\nnamespace = "ns1/ns2"\nread_timeout = 2\nca_file = "/ca.pem"',
        SECTION + 'auth = { kubernetes = { role = "keyd" } }',
        SECTION + 'auth = { token_file = "/run/token" }',
        SECTION + 'auth = { token = { env = "TOKEN" } }',
        SECTION + 'auth = { cert = {} }\nclient_certificate = "/c.pem"\nclient_key = "/k.pem"',
        SECTION + '[backends.vault.auth.approle]\nrole_id = "keyd"\nsecret_id.file = "/s"',
    ],
    ids=range(13),
)
def test_taken(tmp_path: Path, lines: str) -> None:
    assert problems(tmp_path, lines) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("https://", "ftp://", "address: give https://HOST:PORT"),
        ("https://vault.example:8200", "vault.example:8200", "address: give https://HOST:PORT"),
        ("https://vault.example:8200", "https://vault.example/ui", "address: give nothing but scheme, host and port"),
        ("https://vault.example:8200", "https://me:secret@vault.example", "address: give nothing but scheme, host and port"),
        ("https://vault.example:8200", "https://vault.example:99999", "address: port out of range"),
        ("https://vault.example:8200", "unix://run/bao.sock", "address: write the absolute path"),
        ("https://", "http://", ": address is http:// to another machine"),
        ('"https://vault.example:8200"', "5", "address: input should be a valid string"),
        ('{ credential = "secret-id" }', "{}", "auth.approle.secret_id: give exactly one of file, env and credential"),
        ('{ credential = "secret-id" }', '"hvs.XYZ"', "auth.approle.secret_id: not a reference to a secret"),
        ("role_id", "roleid", "auth.approle.roleid: unknown field"),
        ("approle = {", 'token_file = "/t", approle = {', "auth: give exactly one of token_file, token, approle"),
        ('{ approle = { role_id = "keyd", secret_id = { credential = "secret-id" } } }', "{}", "auth: give exactly one of"),
        ('approle = { role_id = "keyd", secret_id = { credential = "secret-id" } }', "cert = {}", ": auth.cert needs"),
        (
            'approle = { role_id = "keyd", secret_id = { credential = "secret-id" } }',
            'token = "x"',
            "auth.token: not a reference",
        ),
        ("auth =", "auht =", "auht: unknown field"),
        ("auth =", 'mount = "/transit"\nauth =', "mount: string should match"),
        ("auth =", 'mount = "a/../b"\nauth =', "mount: string should match"),
        ("auth =", 'prefix = ""\nauth =', "prefix: string should match"),
        ("auth =", 'prefix = "a/b"\nauth =', "prefix: string should match"),
        ("auth =", "rsa_bits = 1024\nauth =", "rsa_bits: input should be 2048, 3072 or 4096"),
        ("auth =", "read_timeout = 0\nauth =", "read_timeout: input should be greater than 0"),
        ("auth =", 'client_key = "/k"\nauth =', ": client_certificate and client_key go together"),
    ],
    ids=range(23),
)
def test_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    where, _, message = expected.partition(": ")
    path = f"backends.vault.{where}" if where else "backends.vault"
    assert any(problem.startswith(f"{path}: {message}") for problem in found), found
    assert "hvs.XYZ" not in str(found) and "secret@" not in str(found)


def test_tls_needs_https(tmp_path: Path) -> None:
    text = GOOD.replace("https://vault.example:8200", "unix:/run/bao.sock").replace("auth =", 'ca_file = "/ca.pem"\nauth =')
    assert "need an address with https://" in str(problems(tmp_path, text))
