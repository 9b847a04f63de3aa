"""``keyd policy check`` and ``keyd policy explain``: the verdicts of the daemon, without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.fake_daemon import FakeDaemon, Run
from support import signature_base

from keyd.core import advice, jws
from keyd.core.grants import OPERATIONS, Grant, PrincipalPattern
from keyd.v1 import types_pb2

GRANTS = """
[grants.shop-agent]
principals = [{ uid = 1001, executable = "/usr/bin/shop" }, { spiffe = "spiffe://example.org/agents/*" }, { dns = "*.agents.example" }]
keys = ["shop-*"]
purposes = ["http"]
authorities = ["api.shop.example"]
methods = ["GET"]
paths = ["/v1/"]

[grants.issuer]
principals = [{ socket = "shop" }, { loopback = true }, { uid = 1001, gid = 7 }]
keys = ["issuer"]
purposes = ["jwt"]
audiences = ["https://api.example"]

[grants.operators]
principals = [{ uid = 0 }]
keys = ["*"]
operations = ["lifecycle", "list_keys"]
"""
OPERATORS = Grant("ops", (PrincipalPattern(uid=1),), ("*",), operations=OPERATIONS)
AGENT = "uid=1001,executable=/usr/bin/shop"


@pytest.fixture(autouse=True)
def _no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYD_ADDRESS", f"unix:{tmp_path}/none.sock")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "keyd.toml"
    path.write_text(f'[server]\nstate_dir = "{tmp_path}/state"\n{GRANTS}')
    return path


def base(authority: str = "api.shop.example", path: str = "/v1/orders") -> bytes:
    return signature_base(time.time(), authority=authority).replace(b'"@path": /\n', f'"@path": {path}\n'.encode())


def token(**claims: object) -> bytes:
    payload = {"iat": 1_700_000_000, "exp": 1_700_000_060, **claims}
    return ".".join(jws.b64url(json.dumps(part).encode()) for part in ({"alg": "Ed25519", "typ": "JWT"}, payload)).encode()


class TestCheck:
    def test_good(self, config: Path, run: Run) -> None:
        result = run("policy", "check", str(config))
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{config}: ok, 3 grants\n", "")

    def test_without_grants(self, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "keyd.toml"
        path.write_text("")
        assert "no grants; the daemon's user and root may do everything" in run("policy", "check", str(path)).stdout

    def test_every_problem(self, config: Path, run: Run) -> None:
        config.write_text(
            config.read_text() + '[grants.a]\nkeys = ["x"]\n[grants.b]\nprincipals = [{}]\nkeys = ["x"]\npurposes = ["http"]\n'
        )
        result = run("policy", "check", str(config))
        assert (result.exit_code, result.stdout) == (8, "")
        assert len(result.stderr.splitlines()) == 2
        assert "grants.a" in result.stderr and "grants.b" in result.stderr

    @pytest.mark.parametrize(
        ("principals", "more", "warning"),
        [
            ("{ uid = 1, spiffe = 'spiffe://e.org/a' }", "", "never matches"),
            ("{ uid = 1, loopback = true }", "", "never matches"),
            ("{ socket = 'a', dns = 'a.example' }", "", "never matches"),
            ("{ executable = '/usr/bin/python3.11' }", "", "names an interpreter"),
            ("{ uid = 1, executable = '/usr/local/bin/node' }", "", "names an interpreter"),
            ("{ executable = '/usr/bin/python3', unit = 'a.service' }", "", None),
            ("{ executable = '/usr/bin/pythonic' }", "", None),
            ("{ uid = 1 }", 'authorities = ["*"]', "any authority"),
            ("{ uid = 1 }", "", None),
        ],
    )
    def test_what_is_odd(self, principals: str, more: str, warning: str | None, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "keyd.toml"
        authorities = "" if more else 'authorities = ["a.example"]'
        path.write_text(f'[grants.g]\nprincipals = [{principals}]\nkeys = ["x"]\npurposes = ["http"]\n{authorities}{more}\n')
        result = run("policy", "check", str(path))
        assert result.exit_code == 0
        assert result.stderr == "" if warning is None else warning in result.stderr

    @pytest.mark.parametrize(
        ("second", "shadowed"),
        [
            ('keys = ["shop-1"]\nmethods = ["GET"]', True),
            ('keys = ["shop-*"]\nmethods = ["GET", "POST"]\npaths = ["/"]', True),
            ('keys = ["till"]\nmethods = ["GET"]', False),
            ('keys = ["shop-1"]', False),
            ('keys = ["shop-1"]\nmethods = ["DELETE"]', False),
        ],
    )
    def test_a_grant_that_adds_nothing(self, second: str, shadowed: bool, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "keyd.toml"
        rest = 'authorities = ["a.example"]\npurposes = ["http"]\n'
        path.write_text(
            f'[grants.a]\nprincipals = [{{ uid = 1 }}]\nkeys = ["shop-*"]\nmethods = ["GET", "POST"]\n{rest}'
            f"[grants.b]\nprincipals = [{{ uid = 1, executable = '/bin/x' }}]\n{second}\n{rest}"
        )
        assert ("grant 'b': it adds nothing, grant 'a'" in run("policy", "check", str(path)).stderr) is shadowed

    def test_two_that_are_the_same_are_one_too_many(self, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "keyd.toml"
        same = 'principals = [{ uid = 1 }]\nkeys = ["a"]\npurposes = ["jwt"]\n'
        path.write_text(f"[grants.a]\n{same}[grants.b]\n{same}")
        assert run("policy", "check", str(path)).stderr.count("adds nothing") == 1

    @pytest.mark.parametrize(
        ("owners", "grants", "odd"),
        [({0}, (), True), ({0, 500}, (), False), ({0}, (OPERATORS,), False)],
    )
    def test_dual_control_with_one_operator(self, owners: set[int], grants: tuple[Grant, ...], odd: bool) -> None:
        assert bool(advice.warnings(grants, frozenset({"destroy_version"}), owners)) is odd


class TestCheckOfSessions:
    @pytest.mark.parametrize(
        ("sessions", "warning"),
        [
            ('issuer_keys = ["ap-*"]\nsubjects = ["aauth:shop@agents.example"]', None),
            ('issuer_keys = ["ap-1"]\nsubjects = ["aauth:shop@agents.example", "aauth:*@*"]', None),
            ('issuer_keys = ["*"]\nsubjects = ["aauth:shop+*@agents.example"]\nsub_agents = true', None),
            ('issuer_keys = ["shop-*"]\nsubjects = ["aauth:shop@agents.example"]', "no issuer with an origin"),
            ('issuer_keys = ["apart"]\nsubjects = ["aauth:shop@agents.example"]', "no issuer with an origin"),
            ('issuer_keys = ["bare"]\nsubjects = ["aauth:shop@agents.example"]', "no issuer with an origin"),
            ('issuer_keys = ["shop-*"]\nkinds = ["jkt-jwt"]', None),
            ('issuer_keys = ["ap-*"]\nsubjects = ["aauth:shop@other.example"]', "of another domain"),
            ('issuer_keys = ["ap-*"]\nsubjects = ["aauth:shop@agents.example"]\nsub_agents = true', "no sub-agent is among"),
        ],
    )
    def test_what_no_session_can_be_of(self, sessions: str, warning: str | None, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "keyd.toml"
        path.write_text(
            '[issuers.ap]\nhosts = ["agents.example"]\nkeys = ["ap-?"]\norigin = "https://agents.example"\n'
            '[issuers.bare]\nhosts = ["bare.example"]\nkeys = ["bare"]\n'
            '[grants.all]\nprincipals = [{ uid = 1 }]\nkeys = ["*"]\npurposes = ["http"]\nauthorities = ["a.example"]\n'
            f'[grants.g]\nprincipals = [{{ uid = 1 }}]\nauthorities = ["a.example"]\n[grants.g.sessions]\n{sessions}\n'
        )
        result = run("policy", "check", str(path))
        assert result.exit_code == 0
        assert result.stderr == "" if warning is None else warning in result.stderr, result.stderr

    def test_sessions_that_sign_for_any_authority(self, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "keyd.toml"
        path.write_text('[grants.g]\nprincipals = [{ uid = 1 }]\nsessions = { issuer_keys = ["x"], kinds = ["jkt-jwt"] }\n')
        assert "any authority" in run("policy", "check", str(path)).stderr


class TestExplainOfSessions:
    @pytest.mark.parametrize(
        ("who", "data", "more", "expected"),
        [
            ("uid=5", "api.example", [], "allowed by grant first"),
            ("uid=5", "api.example", ["--key", "ap-1", "--subject", "aauth:shop@agents.example"], "allowed by grant first"),
            ("uid=5", "other.example", [], "refused, AUTHORITY"),
            ("uid=5", "other.example", ["--subject", "aauth:till@agents.example"], "allowed by grant second"),
            ("uid=5", "api.example", ["--key", "shop-1"], "refused, GRANT"),
            ("uid=6", "api.example", [], "refused, GRANT"),
            ("uid=5", "", [], "refused, MALFORMED"),
        ],
    )
    def test_the_first_grant_that_allows_the_session_decides(
        self, who: str, data: str, more: list[str], expected: str, tmp_path: Path, run: Run
    ) -> None:
        path = tmp_path / "keyd.toml"
        shop, till = (f'issuer_keys = ["ap-*"], subjects = ["aauth:{name}@agents.example"]' for name in ("shop", "till"))
        path.write_text(
            f'[server]\nstate_dir = "{tmp_path}/state"\n'
            f'[grants.first]\nprincipals = [{{ uid = 5 }}]\nauthorities = ["api.example"]\nsessions = {{ {shop} }}\n'
            f'[grants.second]\nprincipals = [{{ uid = 5 }}]\nauthorities = ["other.example"]\nsessions = {{ {till} }}\n'
        )
        text = base_of_session(data) if data else b"junk"
        arguments = ("policy", "explain", "--config", str(path), "--as", who, "--session", "aauth", *more)
        result = run(*arguments, stdin=text)
        assert result.stdout.splitlines()[-1].startswith(expected), result.output
        assert result.exit_code == (0 if expected.startswith("allowed") else 4)
        assert run(*arguments, "--purpose", "http", stdin=text).exit_code == 2
        assert run(*arguments, "--session", "jkt-jwt", stdin=text).stdout.splitlines()[-1].startswith("refused, GRANT")

    def test_operations_on_sessions_name_no_key(self, config: Path, run: Run) -> None:
        arguments = ("policy", "explain", "--config", str(config), "--as", "uid=0", "--operation")
        assert run(*arguments, "revoke_session").exit_code == 4
        assert run(*arguments, "list_sessions").exit_code == 4


def base_of_session(authority: str) -> bytes:
    names = ("@method", "@authority", "@path", "signature-key")
    lines = [f'"{name}": {value}' for name, value in zip(names, ("GET", authority, "/", 'sig=jwt;jwt="a"'), strict=True)]
    covered = " ".join(f'"{name}"' for name in names)
    return "\n".join([*lines, f'"@signature-params": ({covered});created={int(time.time())}']).encode()


class TestExplain:
    @pytest.mark.parametrize(
        ("who", "key", "data", "more", "expected"),
        [
            (AGENT, "shop-1", base(), [], "allowed by grant shop-agent"),
            (AGENT, "shop-1", base() + b"\n", [], "allowed by grant shop-agent"),
            ("spiffe://example.org/agents/7", "shop-1", base(), [], "allowed by grant shop-agent"),
            ("dns:a.agents.example", "shop-1", base(), [], "allowed by grant shop-agent"),
            ("spiffe://example.org/agents/7/x", "shop-1", base(), [], "refused, GRANT"),
            ("uid=1001", "shop-1", base(), [], "refused, GRANT"),
            ("user=root", "shop-1", base(), [], "refused, GRANT"),
            (AGENT, "other", base(), [], "refused, GRANT"),
            (AGENT, "shop-1", base("evil.example"), [], "refused, AUTHORITY"),
            (AGENT, "shop-1", base("api.shop.example:443"), [], "refused, AUTHORITY"),
            (AGENT, "shop-1", base().replace(b"GET", b"POST"), [], "refused, METHOD"),
            (AGENT, "shop-1", base(path="/v1/../admin"), [], "refused, PATH"),
            (AGENT, "shop-1", b"junk", [], "refused, MALFORMED"),
            (AGENT, "shop-1", base(), ["--profile", "web-bot-auth"], "refused, TAG"),
            (AGENT, "shop-1", b"", ["--purpose", "jwt"], "refused, PURPOSE"),
            ("socket:shop", "issuer", token(aud="https://api.example"), ["--jwt"], "allowed by grant issuer"),
            ("loopback", "issuer", token(aud="https://api.example") + b".c2ln", ["--jwt"], "allowed by grant issuer"),
            ("uid=1001,group=root,gid=7", "issuer", token(aud="https://api.example"), ["--jwt"], "allowed by grant issuer"),
            ("socket:shop", "issuer", token(aud="https://evil.example"), ["--jwt"], "refused, AUDIENCE"),
            ("socket:shop", "issuer", token(aud="https://api.example", iat=10**400), ["--jwt"], "refused, FRESHNESS"),
            ("socket:shop", "issuer", token(aud="https://api.example"), ["--jwt", "--algorithm", "ES256"], "refused, ALGORITHM"),
            ("uid=0", "shop-1", b"", ["--operation", "rotate_key"], "allowed by grant operators"),
            ("uid=0", "shop-1", b"", ["--operation", "destroy_version"], "refused, GRANT"),
            (AGENT, "shop-1", b"", ["--operation", "rotate_key"], "refused, GRANT"),
        ],
    )
    def test_verdicts(self, who: str, key: str, data: bytes, more: list[str], expected: str, config: Path, run: Run) -> None:
        result = run("policy", "explain", "--config", str(config), "--as", who, "--key", key, *more, stdin=data)
        assert result.stdout.splitlines()[-1].startswith(expected), result.output
        assert result.exit_code == (0 if expected.startswith("allowed") else 4)

    def test_each_grant_and_what_stopped_it(self, config: Path, run: Run) -> None:
        arguments = ("policy", "explain", "--config", str(config), "--as", AGENT, "--key", "shop-1")
        result = run(*arguments, "--json", stdin=base("evil.example"))
        document = json.loads(result.stdout)
        assert (document["allowed"], document["grant"], document["reason"]) == (False, None, "AUTHORITY")
        assert [[(c["name"], c["met"]) for c in grant["conditions"]] for grant in document["grants"]] == [
            [("principals", True), ("keys", True), ("purposes", True), ("authorities", False)],
            [("principals", False)],
            [("principals", False)],
        ]
        assert "gid" in document["grants"][1]["conditions"][0]["words"]
        text = run(*arguments, stdin=base("evil.example")).stdout
        assert "grant shop-agent\n  principals        ok  uid=1001,executable=/usr/bin/shop\n" in text
        assert "evil.example" not in text

    def test_a_call_that_names_no_key(self, config: Path, run: Run) -> None:
        arguments = ("policy", "explain", "--config", str(config), "--as", "uid=0", "--operation")
        assert run(*arguments, "list_keys").exit_code == 0
        assert run(*arguments, "list_backends").exit_code == 4
        assert run(*arguments, "rotate_key").exit_code == 2

    def test_without_grants_the_owner_of_the_state_directory_may(self, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "keyd.toml"
        path.write_text(f'[server]\nstate_dir = "{tmp_path}"\n')
        arguments = ("policy", "explain", "--config", str(path), "--key", "any", "--as")
        assert "allowed by grant (owner)" in run(*arguments, f"uid={os.geteuid()}", stdin=base()).stdout
        assert "allowed by grant (owner)" in run(*arguments, "uid=0", stdin=base()).stdout
        assert run(*arguments, "uid=54321", stdin=base()).exit_code == 4
        assert run(*arguments, "socket:x", stdin=base()).exit_code == 4

    def test_a_base_of_yesterday_is_explained_as_if_fresh(self, config: Path, run: Run) -> None:
        old = signature_base(1_700_000_000, authority="api.shop.example").replace(b'"@path": /\n', b'"@path": /v1/x\n')
        assert run("policy", "explain", "--config", str(config), "--as", AGENT, "--key", "shop-1", stdin=old).exit_code == 0

    def test_a_daemon_that_answers_is_asked_for_the_profile(
        self, config: Path, run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.add("shop-1").profile = "web-bot-auth"
        daemon.keys["shop-1"].algorithm = types_pb2.ALGORITHM_ES256
        arguments = ("policy", "explain", "--config", str(config), "--as", AGENT, "--key", "shop-1")
        assert "refused, TAG" in run(*arguments, stdin=base()).stdout
        assert run(*arguments, "--profile", "rfc9421", stdin=base()).exit_code == 0
        daemon.keys["shop-1"].purposes[:] = [types_pb2.PURPOSE_JWT]
        assert "refused, PURPOSE: the key has not purpose http" in run(*arguments, stdin=base()).stdout
        assert "refused, PURPOSE: the key has not purpose http" in run(*arguments, "--purpose", "http").stdout
        monkeypatch.setenv("KEYD_ADDRESS", "unix:/nowhere.sock")
        assert run(*arguments, stdin=base()).exit_code == 0

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--as", "uid=x", "--key", "k"],
            ["--as", "uid=1,uid=2", "--key", "k"],
            ["--as", "colour=red", "--key", "k"],
            ["--as", "mail:a@b", "--key", "k"],
            ["--as", "nobody", "--key", "k"],
            ["--as", "user=nobody-here", "--key", "k"],
            ["--as", "", "--key", "k"],
            ["--as", "uid=1"],
            ["--as", "uid=1", "--operation", "explode", "--key", "k"],
            ["--as", "uid=1", "--key", "k", "--profile", "nope"],
        ],
    )
    def test_wrong_usage(self, arguments: list[str], config: Path, run: Run) -> None:
        assert run("policy", "explain", "--config", str(config), *arguments, stdin=base()).exit_code == 2

    def test_a_bad_configuration(self, tmp_path: Path, run: Run) -> None:
        (tmp_path / "bad.toml").write_text("[nope]\n")
        result = run("policy", "explain", "--config", str(tmp_path / "bad.toml"), "--as", AGENT, "--key", "k", stdin=base())
        assert result.exit_code == 8


def test_needs_no_daemon_and_no_grpc_to_check(config: Path) -> None:
    script = (
        f"import sys\nfrom keyd.cli import cli\n"
        f"try: cli(['policy', 'check', {str(config)!r}], prog_name='keyd')\n"
        "except SystemExit as exc: assert not exc.code\n"
        "print('grpc' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == "False\n"
