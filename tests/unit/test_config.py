"""The configuration: what is taken, and that everything else is refused, with its place and without its value."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, model_validator

from backends.api import Algorithm
from backends.secrets import SecretRef
from keyd import config, plugins
from keyd.config import ConfigError, durations, file, places
from keyd.core.grants import GROUPS
from keyd.core.model import KidFormat
from keyd.core.planner import Rules
from keyd.core.policy import Allowance
from keyd.core.profile import BUILT_IN, Profile
from keyd.core.rates import Rate

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "configs"
BAD = sorted((CONFIGS / "bad").glob("*.toml"))
GOOD = sorted((CONFIGS / "good").glob("*.toml"))


@pytest.fixture
def write(tmp_path: Path):
    def to(content: str | bytes) -> Path:
        path = tmp_path / "keyd.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_configurations_are_refused_with_the_reason(path):
    expected = path.read_text().splitlines()[0].removeprefix("# ")
    found = problems(path)
    assert len(found) == 1, found
    assert expected in found[0]
    assert not found[0].endswith(".")


@pytest.mark.parametrize("path", [p for p in BAD if p.stem.startswith("secret_pasted")], ids=lambda path: path.stem)
def test_a_pasted_secret_is_never_echoed(path):
    assert "hunter2" in path.read_text()
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert "hunter2" not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None or "hunter2" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_configurations_are_taken_and_rendered_to_the_same(path, write):
    loaded = config.load(path)
    rendered = config.render(loaded)
    assert config.load(write(rendered)) == loaded
    assert config.render(config.load(write(rendered))) == rendered


def test_every_field_arrives():
    loaded = config.load(CONFIGS / "good" / "everything.toml")
    assert loaded.server.max_concurrent_calls == 100
    assert (loaded.http.host, loaded.http.port) == ("0.0.0.0", 8470)
    assert loaded.store.url is not None and loaded.store.url.startswith("postgresql://keyd@db.example:5433/keyd?")
    assert (loaded.store.password, loaded.store.replica) == (SecretRef(credential="keyd-db"), "signer-1.example")
    assert loaded.metrics.address == ("127.0.0.1", 8480)
    fleet = loaded.tcp["fleet"]
    assert (fleet.host, fleet.port, fleet.certificate) == ("0.0.0.0", 8471, Path("/etc/keyd/tls.pem"))
    assert (fleet.trust_domain, fleet.dns, fleet.max_connection_age) == ("example.org", False, 1800.0)
    assert (loaded.tcp["partners"].host, loaded.tcp["partners"].workload_api) == ("::", "unix:/run/spire/agent.sock")
    cluster = loaded.kubernetes
    assert cluster is not None
    assert (cluster.socket, cluster.socket_mode, cluster.socket_group) == (Path("@keyd-kubernetes"), "0660", "1001")
    assert (cluster.key, cluster.max_token_expiration, cluster.refresh_hint) == ("service-accounts", 3600.0, 60.0)
    assert [(keys.file.name, keys.kid) for keys in cluster.previous_keys] == [("sa.pub", None), ("older.pem", "older")]
    assert cluster.exclude_from_oidc_discovery == ("older",)
    assert loaded.jwks.max_age == 600.0
    issuers = config.publication(loaded).issuers
    assert issuers["shop"].hosts == {"keys.shop.example", "keys.shop.example:8443", "[2001:db8::2]"}
    assert (issuers["shop"].style, issuers["shop"].max_age) == ("omit", 60.0)
    assert (issuers["plain"].style, issuers["plain"].max_age) == ("legacy", 600.0)  # as [jwks] has it
    assert loaded.defaults.algorithm is Algorithm.ES256
    assert loaded.defaults.kid_format is KidFormat.NAME_VERSION
    assert loaded.defaults.retention == 1.5 * 86400
    assert loaded.log.format == "json"
    assert loaded.rotation.to_rules() == Rules(enabled=False, jitter=0.25, create_ahead=43200.0, per_minute=10)
    assert loaded.audit.path == Path("/var/log/keyd")
    assert loaded.audit.to == ("file", "syslog")
    assert loaded.audit.backend == "spare"
    rules = loaded.audit.to_rules()
    assert (rules.sync_interval, rules.max_file_age, rules.keep) == (0.025, 86400.0, 30)
    gateway = loaded.profiles["gateway"]
    assert gateway.required_components == ("@method", "@authority")
    assert gateway.max_created_age is None
    assert gateway.max_jwt_lifetime == 7 * 86400.0
    assert gateway.jwt_types == frozenset()
    assert loaded.limits.to_allowance() == Allowance(Rate(200, 400), 10, 4)
    assert (loaded.policy.operations, loaded.policy.approval_window) == ({"destroy_version", "compromise_version"}, 600)
    grant = loaded.grants["shop-agent"].grant
    assert (grant.principals[0].uid, grant.principals[0].gid, len(grant.principals)) == (0, 0, 7)
    assert (grant.rate, grant.max_jwt_lifetime, grant.jwt_types) == (Rate(0.5, 10), 300, {"jwt"})
    assert loaded.grants["operators"].grant.operations == GROUPS["read"] | {"rotate_key"}
    assert gateway.jwt_lifetimes == {"aa-agent+jwt": 3600.0, "other": 60.0}
    assert gateway.signature_key_schemes == {"jwks_uri", "jkt-jwt"}
    assert loaded.profiles["lumoauth-legacy"].unsigned_parameters
    assert loaded.backends["main"].type == "file"
    assert loaded.backends["main"].options.model_dump()["kek"]["file"] == Path("/etc/keyd/kek")
    assert not loaded.first_run_allowed


def test_all_problems_are_listed_at_once_in_the_order_of_the_file(write):
    path = write(
        '[server]\nsokcet = "/x"\nmax_message_bytes = "5"\n'
        '[defaults]\npublish_lead = "1m"\nretention = "1s"\nprofile = "nope"\n'
        '[backends.main]\ntype = "file"\nkek = "hunter2"\nrsa_bits = 7\n'
        '[backends.other]\ntype = "nope"\n'
        "[nope]\n"
    )
    where = [problem.split(": ")[1] for problem in problems(path)]
    assert where == [
        "server.sokcet",
        "server.max_message_bytes",
        "defaults.backend",
        "defaults.publish_lead",
        "defaults.retention",
        "defaults.profile",
        "backends.main.kek",
        "backends.main.rsa_bits",
        "backends.other.type",
        "nope",
    ]


def test_a_field_that_is_wrong_itself_is_in_no_conflict(write):
    found = problems(write('[jwks]\nmax_age = "soon"\n[defaults]\npublish_lead = 1\nretention = 1\n'))
    assert [problem.split(": ")[1] for problem in found] == ["jwks.max_age"]


def test_a_section_does_not_lack_what_was_left_out_as_wrong(write, monkeypatch):
    class Backend:
        class Config(BaseModel):
            model_config = ConfigDict(extra="forbid")
            pin: SecretRef | None = None

            @model_validator(mode="after")
            def _needs_pin(self):
                if self.pin is None:
                    raise ValueError("give a pin")
                return self

    monkeypatch.setattr(plugins, "load", lambda name: Backend)
    where = [problem.split(": ")[1:3] for problem in problems(write('[backends.a]\ntype = "x"\npin = "1234"\n'))]
    assert where == [["backends.a.pin", where[0][1]]]
    assert problems(write('[backends.a]\ntype = "x"\n')) == ["line 1: backends.a: give a pin"]


def test_publish_lead_at_its_floor_is_taken(write):
    loaded = config.load(write('[jwks]\nmax_age = "1h"\n[defaults]\npublish_lead = "2h"\nretention = "1h"\n'))
    assert (loaded.defaults.publish_lead, loaded.defaults.retention) == (7200.0, 3600.0)


def test_without_a_file_there_is_a_file_backend_and_a_first_run():
    loaded = config.load(None)
    assert loaded.first_run_allowed
    assert {name: backend.type for name, backend in loaded.backends.items()} == {"file": "file"}
    assert loaded.defaults.backend == "file"
    assert dict(loaded.profiles) == dict(BUILT_IN)


def test_an_empty_file_allows_no_first_run(write):
    assert not config.load(write("")).first_run_allowed


def test_first_run_cannot_be_had_from_the_file(write):
    assert "first_run_allowed: unknown section" in problems(write("first_run_allowed = true"))[0]


@pytest.mark.parametrize(
    ("http", "apart"),
    [
        ("", False),
        ('listen = "[::1]:1"', False),
        ('listen = "0.0.0.0:1"', True),
        ('listen = "keys.example:1"', True),
        ('listen = "localhost:1"', True),
        ("own_process = true", True),
        ('listen = "[::]:1"\nown_process = false', False),
    ],
)
def test_what_others_reach_is_served_from_a_process_of_its_own(http, apart, write):
    loaded = config.load(write(f"[http]\n{http}\n"))
    assert loaded.http.own_process is apart
    # It is shown, and who writes down what is shown reloads the same.
    assert f"own_process = {str(apart).lower()}\n" in config.render(loaded)
    assert config.reload_conflicts(loaded, config.load(write(config.render(loaded)))) == []


def test_an_address_that_is_wrong_is_one_mistake(write):
    (problem,) = problems(write('[http]\nlisten = "nowhere"\n'))
    assert problem.startswith("line 2: http.listen: not host:port")


def test_configuration_is_frozen():
    loaded = config.load(None)
    with pytest.raises(ValueError, match="frozen"):
        loaded.server.drain_timeout = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.first_run_allowed = False
    with pytest.raises(TypeError):
        loaded.backends["x"] = loaded.backends["file"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[server]\n\xff = 1\n", "line 2: the configuration file is not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_refused(write, content, expected):
    assert expected in problems(write(content))[0]


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert problems(tmp_path / "absent.toml") == ["cannot read the configuration file: No such file or directory"]
    assert problems(tmp_path) == ["cannot read the configuration file: Is a directory"]


def test_the_message_names_the_file(write):
    path = write("[nope]")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value) == f"{path}: line 1: nope: unknown section"


class TestFind:
    def test_the_option_comes_first(self, monkeypatch):
        monkeypatch.setenv("KEYD_CONFIG", "/b")
        assert config.find(Path("/a")) == Path("/a")

    def test_then_the_environment_even_if_nothing_is_there(self, monkeypatch, tmp_path):
        monkeypatch.setenv("KEYD_CONFIG", str(tmp_path / "absent"))
        assert config.find() == tmp_path / "absent"

    def test_then_the_default_if_it_is_there(self, monkeypatch, tmp_path):
        monkeypatch.setenv("KEYD_CONFIG", "")
        monkeypatch.setattr(file, "DEFAULT_PATH", tmp_path / "keyd.toml")
        assert config.find() is None
        (tmp_path / "keyd.toml").symlink_to(tmp_path / "absent")  # meant to be there: not a first run
        assert config.find() == tmp_path / "keyd.toml"


class TestPlaces:
    @pytest.fixture(autouse=True)
    def _nothing_set(self, monkeypatch):
        for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "/home/u")

    def as_user(self, monkeypatch, uid: int, **environment: str) -> tuple[str, str]:
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        server = config.load(None).server
        return str(server.state_dir), str(server.socket)

    def test_root(self, monkeypatch):
        found = self.as_user(monkeypatch, 0, XDG_RUNTIME_DIR="/run/user/0", XDG_STATE_HOME="/x")
        assert found == ("/var/lib/keyd", "/run/keyd/keyd.sock")

    def test_user(self, monkeypatch):
        found = self.as_user(monkeypatch, 1000, XDG_RUNTIME_DIR="/run/user/1000", XDG_STATE_HOME="/home/u/state")
        assert found == ("/home/u/state/keyd", "/run/user/1000/keyd/keyd.sock")

    def test_user_without_runtime_directory(self, monkeypatch):
        assert self.as_user(monkeypatch, 1000) == ("/home/u/.local/state/keyd", "/home/u/.local/state/keyd/keyd.sock")

    def test_relative_xdg_paths_are_ignored(self, monkeypatch):
        found = self.as_user(monkeypatch, 1000, XDG_RUNTIME_DIR="run", XDG_STATE_HOME="state")
        assert found == ("/home/u/.local/state/keyd", "/home/u/.local/state/keyd/keyd.sock")

    def test_systemd(self, monkeypatch):
        assert self.as_user(monkeypatch, 1000, STATE_DIRECTORY="/var/lib/a:/var/lib/b")[0] == "/var/lib/a"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10s", 10.0),
        ("5m", 300.0),
        ("24h", 86400.0),
        ("2d", 172800.0),
        ("1.5h", 5400.0),
        ("10ms", 0.01),
        ("1.5ms", 0.0015),
        (0, 0.0),
        (2.5, 2.5),
    ],
)
def test_durations(value, expected):
    assert durations.seconds(value) == expected
    assert durations.seconds(durations.text(expected)) == expected


@pytest.mark.parametrize(
    "value", ["", "10", "s", "-1s", "1 h", "1H", "1h30m", "10s\n", "1e3s", "\u0661s", "99999999d", -0.1, True, None, []]
)
def test_what_is_no_duration(value):
    with pytest.raises(ValueError, match="duration"):
        durations.seconds(value)


def test_lines_are_found_around_strings_that_look_like_toml():
    text = 'a = """\n[b]\nc = 1 \\"""" # ]\n"""\n[t."x.y".z]\nk = [ # [\n  "[u]",\n]\n[v] # end\nw.x = {y = "}"}'
    found = places.lines(text)
    assert found[("t", "x.y", "z")] == 5
    assert found[("t", "x.y", "z", "k")] == 6
    assert found[("v", "w", "x")] == 10
    assert ("b",) not in found
    assert ("u",) not in found
    assert places.line_of(found, ("v", "w", "x", "y")) == 10
    assert places.line_of(found, ("absent",)) is None


class TestReload:
    def load(self, write, content: str) -> config.Config:
        return config.load(write(content))

    def test_what_may_change(self, write):
        old = self.load(write, "")
        new = self.load(
            write,
            '[log]\nlevel = "debug"\n[jwks]\nmax_age = "1m"\n[defaults]\nretention = "9d"\n[profiles.p]\n'
            '[issuers.a]\nhosts = ["a.example"]\nkeys = ["a"]\n',
        )
        assert config.reload_conflicts(old, new) == []

    def test_listeners_may_not(self, write):
        tcp = '[tcp.{}]\nlisten = "127.0.0.1:{}"\nplaintext = true\n'
        old = self.load(write, tcp.format("a", 1) + tcp.format("b", 2))
        new = self.load(write, tcp.format("b", 3) + tcp.format("c", 4))
        assert [(p.where, p.message) for p in config.reload_conflicts(old, new)] == [
            ("tcp.a", "cannot be removed without a restart"),
            ("tcp.b.listen", "cannot change without a restart"),
            ("tcp.c", "cannot be added without a restart"),
        ]
        assert config.reload_conflicts(old, old) == []

    def test_of_kubernetes_the_socket_may_not_and_the_key_may(self, write):
        cluster = '[kubernetes]\nsocket = "/run/{}"\nkey = "{}"\n'
        old, plain = self.load(write, cluster.format("a", "a")), self.load(write, "")
        assert config.reload_conflicts(old, self.load(write, cluster.format("a", "b"))) == []
        for new, expected in (
            (self.load(write, cluster.format("b", "a")), ("kubernetes.socket", "cannot change without a restart")),
            (plain, ("kubernetes", "cannot be removed without a restart")),
        ):
            assert [(p.where, p.message) for p in config.reload_conflicts(old, new)] == [expected]
        assert [p.message for p in config.reload_conflicts(plain, old)] == ["cannot be added without a restart"]

    def test_how_the_trail_is_kept_may_change_and_where_it_goes_may_not(self, write):
        old = self.load(write, '[backends.file]\ntype = "file"\n[backends.b]\ntype = "file"\n')
        kept = '[audit]\nwait_for_sync = true\nkeep = 3\n[defaults]\nbackend = "b"\n'
        new = self.load(write, kept + '[backends.file]\ntype = "file"\n[backends.b]\ntype = "file"\n')
        assert config.reload_conflicts(old, new) == []
        moved = '[audit]\npath = "/elsewhere"\nto = ["syslog"]\nkey = "k"\nenabled = false\n'
        new = self.load(write, moved + '[backends.file]\ntype = "file"\n[backends.b]\ntype = "file"\n')
        assert [p.where for p in config.reload_conflicts(old, new)] == ["audit.enabled", "audit.key", "audit.path", "audit.to"]

    def test_what_may_not_is_named_field_by_field(self, write):
        old = self.load(write, '[backends.a]\ntype = "file"\n[backends.file]\ntype = "file"\n[backends.c]\ntype = "file"\n')
        new = self.load(
            write,
            "[server]\ndrain_timeout = 1\n[http]\nenabled = false\n"
            '[backends.b]\ntype = "file"\n[backends.file]\ntype = "file"\nrsa_bits = 4096\n[backends.c]\ntype = "memory"\n',
        )
        assert [(p.where, p.message) for p in config.reload_conflicts(old, new)] == [
            ("server.drain_timeout", "cannot change without a restart"),
            ("http.enabled", "cannot change without a restart"),
            ("backends.a", "cannot be removed without a restart"),
            ("backends.b", "cannot be added without a restart"),
            ("backends.c.type", "cannot change without a restart"),
            ("backends.file.rsa_bits", "cannot change without a restart"),
        ]


def test_render_shows_references_and_not_what_they_lead_to(write, tmp_path):
    secret = tmp_path / "kek"
    secret.write_text("hunter2")
    rendered = config.render(config.load(write(f'[backends.file]\ntype = "file"\nkek = {{ file = "{secret}" }}\n')))
    assert f'kek = {{ file = "{secret}" }}' in rendered
    assert "hunter2" not in rendered


def _models() -> list[type[BaseModel]]:
    return [
        config.Server,
        config.Connections,
        config.OwnSocket,
        config.Http,
        config.Tcp,
        config.Jwks,
        config.Defaults,
        config.Log,
        config.Audit,
        config.Store,
        config.ProfileSection,
        config.GrantSection,
        config.PrincipalSection,
        config.IssuerSection,
        config.Limits,
        config.PolicySection,
        SecretRef,
        plugins.load("file").Config,
    ]


@pytest.mark.parametrize("model", _models(), ids=lambda model: model.__name__)
def test_every_field_is_documented(model):
    pages = [ROOT / "docs" / "configuration.md", *(ROOT / "docs" / "backends").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    assert [name for name in model.model_fields if f"`{name}`" not in text] == []


def test_every_profile_field_can_be_configured():
    fields = {field.name for field in dataclasses.fields(Profile)}
    assert set(config.ProfileSection.model_fields) == fields - {"name"}
    assert Profile("x", **dict(config.ProfileSection())) == Profile("x")


def test_the_example_in_the_documentation_works(write):
    example = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "configuration.md").read_text(), re.DOTALL)[-1]
    assert config.load(write(example)).profiles["gateway"].max_created_age == 10.0
