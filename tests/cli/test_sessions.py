"""``keyd session`` and ``keyd token``."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import grpc
import pytest
from cli.fake_daemon import CREATED, FakeDaemon, Run
from google.protobuf.timestamp_pb2 import Timestamp

from keyd.v1 import session_service_pb2 as pb

ISSUER = "https://agents.example"


def jwt(**claims: object) -> str:
    parts = ({"alg": "Ed25519", "typ": "aa-agent+jwt"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "c2ln"])


TOKEN = jwt(iss=ISSUER, jti="jti-1", exp=CREATED + 600, sub="aauth:shop@agents.example")


@pytest.fixture
def open_sessions(daemon: FakeDaemon) -> None:
    at = Timestamp(seconds=CREATED)
    daemon.sessions = [
        pb.SessionInfo(
            name="5f1c",
            kind=pb.SESSION_KIND_AAUTH,
            issuer_key="agents-1",
            issuer=ISSUER,
            subject="aauth:shop@agents.example",
            grant="shop",
            principal="uid:1001 \x1b[2J",
            create_time=at,
            last_use_time=at,
            token_expire_time=at,
            signatures=7,
            tokens=1,
        ),
        pb.SessionInfo(name="77aa", kind=pb.SESSION_KIND_JKT_JWT, issuer_key="own", renewal_error="the backend does not answer"),
    ]
    daemon.revoked = [pb.RevokedToken(issuer=ISSUER, token_id="jti-1", expire_time=at, revoke_time=at)]


def test_list_shows_who_has_a_session(daemon: FakeDaemon, run: Run, open_sessions: None) -> None:
    result = run("session", "list", "--issuer-key", "agents-1")
    first, second = result.stdout.splitlines()[1:]
    assert first.split()[:5] == ["5f1c", "aauth:shop@agents.example", "aauth", "agents-1", "shop"]
    assert "\\x1b[2J" in first
    assert second.split()[:3] == ["77aa", "-", "jkt-jwt"]
    assert second.endswith("the backend does not answer")
    assert daemon.requests[-1].issuer_key == "agents-1"
    listed = json.loads(run("session", "list", "--json").stdout)["sessions"]
    assert (listed[0]["created"], listed[0]["signatures"], listed[1]["kind"]) == ("2023-11-14T22:13:20Z", 7, "jkt-jwt")


def test_nothing_to_list(daemon: FakeDaemon, run: Run) -> None:
    for command, said in (("session", "there is no open session"), ("token", "no token is revoked")):
        result = run(command, "list")
        assert (result.exit_code, result.stdout) == (0, "")
        assert said in result.stderr
        assert json.loads(run(command, "list", "--json").stdout) == {f"{command}s": []}


def test_revoke_asks_first(daemon: FakeDaemon, run: Run, open_sessions: None, terminal: None) -> None:
    refused = run("session", "revoke", "5f1c", stdin="n\n")
    assert (refused.exit_code, daemon.requests) == (1, [])
    assert run("session", "revoke", "5f1c", stdin="y\n").stdout == "5f1c: ended; 1 of its tokens are revoked\n"
    assert daemon.requests[-1].session == "5f1c"


def test_revoke_without_a_terminal_needs_yes(daemon: FakeDaemon, run: Run, open_sessions: None) -> None:
    assert run("session", "revoke", "5f1c").exit_code == 2
    tokens = json.loads(run("session", "revoke", "5f1c", "--yes", "--json").stdout)["tokens"]
    assert tokens == [
        {"issuer": ISSUER, "token_id": "jti-1", "expires": "2023-11-14T22:13:20Z", "revoked": "2023-11-14T22:13:20Z"}
    ]


def test_a_session_that_there_is_not(daemon: FakeDaemon, run: Run) -> None:
    daemon.fail(grpc.StatusCode.NOT_FOUND, "SESSION", "there is no session '5f1c' here")
    result = run("session", "revoke", "5f1c", "--yes")
    assert result.exit_code == 3
    assert "there is no session" in result.stderr


@pytest.mark.parametrize("how", [[TOKEN], ["-"]])
def test_a_token_is_revoked_by_what_is_in_it(daemon: FakeDaemon, run: Run, how: list[str]) -> None:
    result = run("token", "revoke", *how, stdin=f"{TOKEN}\n")
    assert result.exit_code == 0, result.stderr
    request = daemon.requests[-1]
    assert (request.issuer, request.token_id, request.expire_time.seconds) == (ISSUER, "jti-1", CREATED + 600)
    assert request.ByteSize() < 60, "nothing else of it is sent"
    assert "token jti-1 of https://agents.example: revoked" in result.stdout
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("given", "seconds"), [("2023-11-14T22:23:20Z", 600), ("2023-11-14T22:23:20", 600), (str(CREATED + 1), 1)]
)
def test_a_token_is_revoked_by_its_name(daemon: FakeDaemon, run: Run, given: str, seconds: int) -> None:
    result = run("token", "revoke", "--issuer", ISSUER, "--jti", "a", "--expires", given, "--json")
    assert json.loads(result.stdout)["token"]["token_id"] == "a"
    assert "warnings" not in json.loads(result.stdout)["token"]
    assert daemon.requests[-1].expire_time.seconds == CREATED + seconds


@pytest.mark.parametrize(("issuer", "warned"), [(f"{ISSUER}/", True), (ISSUER, False)])
def test_an_issuer_that_publishes_no_list_is_pointed_out(daemon: FakeDaemon, run: Run, issuer: str, warned: bool) -> None:
    result = run("token", "revoke", "--issuer", issuer, "--jti", "a", "--expires", str(CREATED + 1))
    assert result.exit_code == 0
    assert ("published nowhere" in result.stderr) is warned


@pytest.mark.parametrize(
    "text",
    [
        *("", "xyz", "a.b", "a.b.c", "a.b.c.d", f"{TOKEN}.x", "ä.ö.ü"),
        *(
            jwt(jti="a", exp=1),
            jwt(iss="a", exp=1),
            jwt(iss="a", jti="a"),
            jwt(iss=1, jti="a", exp=1),
            jwt(iss="a", jti="a", exp="1"),
        ),
        *(jwt(iss="a", jti="a", exp=True), jwt(iss="a", jti="a", exp=1e300), jwt(iss="a", jti="a", exp=-1)),
        *(jwt(iss="a", jti="a", exp=10**400), jwt(iss="\ud800", jti="a", exp=1), jwt(iss="a", jti="\ud800", exp=1)),
        "a." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".c",
    ],
)
def test_what_is_no_token_is_refused_and_not_repeated(daemon: FakeDaemon, run: Run, text: str) -> None:
    result = run("token", "revoke", "-", stdin=text)
    assert (result.exit_code, daemon.requests) == (4, [])
    assert len(result.stderr) < 200
    assert not text or text not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--issuer", ISSUER],
        ["--issuer", ISSUER, "--jti", "a"],
        ["--issuer", ISSUER, "--jti", "a", "--expires", "soon"],
        [TOKEN, "--jti", "a"],
    ],
)
def test_what_is_to_be_revoked_has_to_be_said(daemon: FakeDaemon, run: Run, arguments: list[str]) -> None:
    assert (run("token", "revoke", *arguments).exit_code, daemon.requests) == (2, [])


def test_list_of_revoked_tokens(daemon: FakeDaemon, run: Run, open_sessions: None) -> None:
    assert run("token", "list", "--issuer", ISSUER).stdout.splitlines()[1].split()[:2] == [ISSUER, "jti-1"]
    assert daemon.requests[-1].issuer == ISSUER


def test_issue(daemon: FakeDaemon, run: Run, tmp_path: Path) -> None:
    (tmp_path / "claims").write_text('{"tenant": "shop"}')
    options = ("--lifetime", "1h", "--claims", str(tmp_path / "claims"), "--kind", "lumoauth", "--audience", "https://a.example")
    result = run(
        "token", "issue", "--issuer-key", "agents-1", "--subject", "aauth:shop@agents.example", "--key", "shop-1", *options
    )
    assert result.stdout == "header.claims.signature\n", result.stderr
    request = daemon.requests[-1]
    assert (request.issuer_key, request.subject, request.key, request.lifetime.seconds) == (
        *("agents-1", "aauth:shop@agents.example", "shop-1"),
        3600,
    )
    assert (request.kind, request.claims, list(request.audiences)) == (
        *(pb.SESSION_KIND_LUMOAUTH, '{"tenant":"shop"}'),
        ["https://a.example"],
    )
    found = json.loads(run("token", "issue", "--issuer-key", "agents-1", "--key", "shop-1", "--json").stdout)
    assert (found["token_id"], found["expires"]) == ("jti-1", "2023-11-14T22:14:20Z")


def test_issue_for_a_key_elsewhere(daemon: FakeDaemon, run: Run) -> None:
    public = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert run("token", "issue", "--issuer-key", "k", "--jwk", "-", stdin=json.dumps(public)).exit_code == 0
    assert json.loads(daemon.requests[-1].public_jwk) == public
    before = len(daemon.requests)
    for text, complaint in (
        (json.dumps({**public, "d": "c2VjcmV0"}), "has a private key (member d)"),
        ("[]", "not a JSON object"),
    ):
        result = run("token", "issue", "--issuer-key", "k", "--jwk", "-", stdin=text)
        assert (result.exit_code, len(daemon.requests)) == (4, before)
        assert complaint in result.stderr
        assert "c2VjcmV0" not in result.output


@pytest.mark.parametrize("which", [[], ["--key", "a", "--jwk", "-"]])
def test_issue_binds_exactly_one_key(daemon: FakeDaemon, run: Run, which: list[str]) -> None:
    assert (run("token", "issue", "--issuer-key", "k", *which).exit_code, daemon.requests) == (2, [])
