"""From a file to a configuration, or to the list of all that is wrong with it."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from keyd import plugins
from keyd.config import places
from keyd.config.audit import Audit
from keyd.config.durations import text
from keyd.config.grants import GrantConfig, GrantSection, Limits, PolicySection
from keyd.config.issuers import IssuerSection
from keyd.config.issuers import contradictions as issuer_contradictions
from keyd.config.kubernetes import Kubernetes
from keyd.config.kubernetes import contradictions as kubernetes_contradictions
from keyd.config.listeners import Connections, OwnSocket
from keyd.config.model import (
    BackendConfig,
    BackendLimits,
    Config,
    Defaults,
    Http,
    Jwks,
    Log,
    Metrics,
    ProfileSection,
    Server,
)
from keyd.config.problems import ConfigError, Problem, did_you_mean, dotted, from_validation
from keyd.config.rotation import Rotation
from keyd.config.section import Section
from keyd.config.sessions import Sessions
from keyd.config.store import Store
from keyd.config.tcp import Tcp
from keyd.core.profile import BUILT_IN, Profile

DEFAULT_PATH = Path("/etc/keyd/keyd.toml")

_MAX_SIZE = 1024 * 1024
_TOO_DEEP = "arrays or tables are nested too deep"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_SECTIONS: Mapping[str, type[Section]] = {
    "server": Server,
    "store": Store,
    "connections": Connections,
    "http": Http,
    "metrics": Metrics,
    "jwks": Jwks,
    "defaults": Defaults,
    "rotation": Rotation,
    "sessions": Sessions,
    "log": Log,
    "limits": Limits,
    "policy": PolicySection,
}
_TABLES = (*_SECTIONS, "audit", "sockets", "tcp", "kubernetes", "grants", "issuers", "profiles", "backends")

_M = TypeVar("_M", bound=BaseModel)
_Where = tuple[str, ...]


def find(option: Path | None = None) -> Path | None:
    """Return the configuration file: ``option``, else ``$KEYD_CONFIG``, else /etc/keyd/keyd.toml if that is there, else None.

    Only the last may be absent. What was named but cannot be read is for :func:`load` to refuse.
    """
    if option is not None:
        return option
    named = os.environ.get("KEYD_CONFIG", "")
    if named:
        return Path(named)
    try:
        DEFAULT_PATH.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may be there, and to run without it would be to run without its rules
    return DEFAULT_PATH


def load(path: Path | None) -> Config:
    """Read, check and complete the configuration. None stands for no file: every default, and a first run allowed.

    Raises:
        ConfigError: with every problem there is, not just the first.
    """
    return loads(read(path) if path is not None else "", path)


def loads(content: str, path: Path | None) -> Config:
    """Check and complete a configuration that was read from ``path`` before. Raises as :func:`load`."""
    try:
        data = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(content, error)], path) from None
    except RecursionError:
        raise ConfigError([Problem("", _TOO_DEEP)], path) from None
    except ValueError:  # from int(), which has a limit
        raise ConfigError([Problem("", "a number is too long")], path) from None
    try:
        return _Loader(path, places.lines(content)).load(data)
    except RecursionError:
        raise ConfigError([Problem("", _TOO_DEEP)], path) from None


def read(path: Path) -> str:
    """Return the text of a configuration file. Raises ConfigError when it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a path"
        raise ConfigError([Problem("", f"cannot read the configuration file: {reason}")], path) from error
    if len(content) > _MAX_SIZE:
        raise ConfigError([Problem("", f"the configuration file is larger than {_MAX_SIZE} bytes")], path)
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem("", "the configuration file is not UTF-8", line=line)], path) from None


def _syntax(content: str, error: tomllib.TOMLDecodeError) -> Problem:
    message, _, place = str(error).partition(" (at ")
    match = re.fullmatch(r"line (\d+), column (\d+)\)", place)
    line, column = (int(match[1]), int(match[2])) if match else (content.count("\n") + 1, len(content.rpartition("\n")[2]) + 1)
    # Some messages end with a character or key of the file. The line is enough to find it.
    message = re.split(r"[:'\"(]", message)[0].strip()
    return Problem("", f"not TOML: {message[:1].lower()}{message[1:]} at column {column}", line=line)


class _Loader:
    """Collects problems, so that one mistake does not hide the next."""

    def __init__(self, path: Path | None, lines: Mapping[places.Path, int]) -> None:
        self._path = path
        self._lines = lines
        self._problems: list[Problem] = []
        self._bad: set[_Where] = set()

    def load(self, data: dict[str, Any]) -> Config:
        self._refuse_dates((), data)
        for name in data.keys() - set(_TABLES):
            self._problem((name,), "unknown section", did_you_mean(name, _TABLES))
        backends = self._backends(data)
        profiles = self._profiles(data)
        tables = {name: self._table(data, name) for name in _SECTIONS}
        chosen = "backend" in tables["defaults"]
        if not chosen and len(backends) == 1:
            tables["defaults"]["backend"] = next(iter(backends))
        sections: dict[str, Any] = {name: self._section(model, (name,), tables[name]) for name, model in _SECTIONS.items()}
        sockets, tcp = self._sockets(data, sections["server"]), self._tcp(data)
        kubernetes = self._kubernetes(data, sections["server"], sockets, sections["jwks"])
        issuers = self._issuers(data, sections["jwks"])
        grants, audit = self._grants(data, profiles), self._audit(data, sections["server"], sections["defaults"])
        if sections["defaults"] is not None and sections["jwks"] is not None:
            self._check_periods(sections["defaults"], sections["jwks"])
        if sections["defaults"] is not None:
            self._check_names(sections["defaults"], profiles, backends, chosen=chosen)
        if audit is not None and audit.backend is not None:
            self._check_backend(("audit", "backend"), audit.backend, backends)
        if sections["server"] is not None and sections["server"].workers > 1:
            self._check_shareable(backends)
        if self._problems or audit is None or None in sections.values():
            raise ConfigError(sorted(self._problems, key=lambda p: (p.line is None, p.line or 0, p.where)), self._path)
        return Config(
            **sections,
            audit=audit,
            sockets=MappingProxyType(sockets),
            tcp=MappingProxyType(tcp),
            kubernetes=kubernetes,
            grants=MappingProxyType({name: g for name, g in grants.items() if g is not None}),
            issuers=MappingProxyType(issuers),
            profiles=MappingProxyType({name: p for name, p in profiles.items() if p is not None}),
            backends=MappingProxyType({name: b for name, b in backends.items() if b is not None}),
            first_run_allowed=self._path is None,
        )

    def _problem(self, where: _Where, message: str, hint: str = "") -> None:
        self._bad.add(where)
        self._problems.append(Problem(dotted(where), message, hint, places.line_of(self._lines, where)))

    def _refuse_dates(self, where: _Where, value: object) -> None:
        """Refuse what JSON cannot carry to the models; nothing here is a date."""
        if isinstance(value, dict):
            for key, item in value.items():
                self._refuse_dates((*where, key), item)
        elif isinstance(value, list):
            for item in value:
                self._refuse_dates(where, item)
        elif isinstance(value, (dt.date, dt.time)):
            self._problem(where, "a date or time, which no field takes")

    def _table(self, data: dict[str, Any], *where: str) -> dict[str, Any]:
        """Return a copy of the table, empty if it is absent or no table."""
        found = data.get(where[-1], {})
        if isinstance(found, dict):
            return dict(found)
        if where not in self._bad:
            self._problem(where, f"not a table; write [{dotted(where)}]")
        return {}

    def _section(self, model: type[_M], where: _Where, data: dict[str, Any]) -> _M | None:
        """Validate a section. Leaves out fields that are wrong, so that the others can still be compared with other sections."""
        dropped = False
        while True:
            try:
                # As JSON, in which a strict model takes lists for sets and strings for paths. Dates are refused already.
                return model.model_validate_json(json.dumps(data, default=str), strict=True)
            except ValidationError as error:
                before = len(data)
                for path, message, hint in from_validation(error, model):
                    # What a section lacks as a whole, it may lack because a field was left out here.
                    if (*where, *path) not in self._bad and not (dropped and not path):
                        self._problem((*where, *path), message, hint or self._elsewhere(message, path))
                    self._bad.add((*where, *path[:1]))
                    if path:
                        data.pop(path[0], None)
                if len(data) == before:
                    return None
                dropped = True

    @staticmethod
    def _elsewhere(message: str, path: _Where) -> str:
        """Say which section a misplaced field belongs to."""
        if message != "unknown field":
            return ""
        homes = (name for name, model in _SECTIONS.items() if len(path) == 1 and path[0] in model.model_fields)
        return next((f"it belongs in [{name}]" for name in homes), "")

    def _sockets(self, data: dict[str, Any], server: Server | None) -> dict[str, OwnSocket]:
        table = self._table(data, "sockets")
        sockets: dict[str, OwnSocket] = {}
        taken = {} if server is None else {server.socket: "server.socket"}
        for name in table:
            where = ("sockets", name)
            if not _NAME.fullmatch(name):
                self._problem(where, "a socket name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            section = self._section(OwnSocket, where, self._table(table, *where))
            if section is None:
                continue
            if section.path in taken:
                self._problem((*where, "path"), f"{taken[section.path]} has the same path")
            taken[section.path] = dotted((*where, "path"))
            sockets[name] = section
        return sockets

    def _tcp(self, data: dict[str, Any]) -> dict[str, Tcp]:
        table = self._table(data, "tcp")
        listeners: dict[str, Tcp] = {}
        for name in table:
            where = ("tcp", name)
            if not _NAME.fullmatch(name):
                self._problem(where, "the name of a listener is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            section = self._table(table, *where)
            listener = self._section(Tcp, where, section) if section or where not in self._bad else None
            if listener is not None:
                listeners[name] = listener
        return listeners

    def _kubernetes(
        self, data: dict[str, Any], server: Server | None, sockets: Mapping[str, OwnSocket], jwks: Jwks | None
    ) -> Kubernetes | None:
        if "kubernetes" not in data:
            return None
        where = ("kubernetes",)
        table = self._table(data, *where)
        section = self._section(Kubernetes, where, table) if table or where not in self._bad else None
        if section is None:
            return None
        taken = {own.path: dotted(("sockets", name, "path")) for name, own in sockets.items()}
        taken |= {} if server is None else {server.socket: "server.socket"}
        max_age = jwks.max_age if jwks is not None and self._sound(("jwks", "max_age")) else None
        for field, message in kubernetes_contradictions(section, taken, max_age):
            self._problem((*where, field), message)
        return section

    def _backends(self, data: dict[str, Any]) -> dict[str, BackendConfig | None]:
        """Return the backends by name; None for those with problems."""
        table = self._table(data, "backends")
        if "backends" not in data:
            table = {"file": {"type": "file"}}
        elif not table and ("backends",) not in self._bad:
            self._problem(
                ("backends",), "no backend is configured; write [backends.NAME], or remove the section for a file backend"
            )
        return {name: self._backend(name, table) for name in table}

    def _backend(self, name: str, table: dict[str, Any]) -> BackendConfig | None:
        where = ("backends", name)
        if not _NAME.fullmatch(name):
            self._problem(where, "a backend name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
        section = self._table(table, *where)
        if where in self._bad and not section:
            return None
        type_name = section.pop("type", None)
        if not isinstance(type_name, str):
            self._problem(
                (*where, "type"), "not a string" if type_name is not None else 'missing; write for example type = "file"'
            )
            return None
        try:
            model = plugins.load(type_name).Config
        except plugins.UnknownTypeError as error:
            self._problem((*where, "type"), str(error), did_you_mean(type_name, plugins.backend_types()))
            return None
        except plugins.PluginError as error:
            self._problem((*where, "type"), str(error))
            return None
        known = len(self._problems)
        own = {field: section.pop(field) for field in BackendLimits.model_fields if field in section}
        limits, options = self._section(BackendLimits, where, own), self._section(model, where, section)
        if limits is None or options is None or len(self._problems) > known:
            return None
        return BackendConfig(name, type_name, options, limits)

    def _profiles(self, data: dict[str, Any]) -> dict[str, Profile | None]:
        """Return built-in and configured profiles by name; None for those with problems."""
        profiles: dict[str, Profile | None] = dict(BUILT_IN)
        table = self._table(data, "profiles")
        for name in table:
            where = ("profiles", name)
            if name in BUILT_IN:
                self._problem(where, "the built-in profile of this name cannot be changed; choose another name")
            elif not _NAME.fullmatch(name):
                self._problem(where, "a profile name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            section = self._section(ProfileSection, where, self._table(table, *where))
            profile = Profile(name=name, **dict(section)) if section is not None else None
            if profile is not None:
                self._check_profile(where, profile)
            if name not in BUILT_IN:
                profiles[name] = profile
        return profiles

    def _grants(self, data: dict[str, Any], profiles: Mapping[str, object]) -> dict[str, GrantConfig | None]:
        """Return the grants by name; None for those with problems."""
        table = self._table(data, "grants")
        return {name: self._grant(name, table, profiles) for name in table}

    def _grant(self, name: str, table: dict[str, Any], profiles: Mapping[str, object]) -> GrantConfig | None:
        where = ("grants", name)
        if not _NAME.fullmatch(name):
            self._problem(where, "a grant name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
        data = self._table(table, *where)
        section = None if where in self._bad and not data else self._section(GrantSection, where, data)
        if section is None:
            return None
        for profile in sorted(section.profiles or ()):
            if profile not in profiles:
                message = f"there is no such profile; there are: {_listed(profiles)}"
                self._problem((*where, "profiles"), message, did_you_mean(profile, profiles))
        try:
            return GrantConfig(section, section.to_grant(name))
        except ValueError as error:
            self._problem((*where, "principals"), str(error))
            return None

    def _issuers(self, data: dict[str, Any], jwks: Jwks | None) -> dict[str, IssuerSection]:
        table = self._table(data, "issuers")
        issuers: dict[str, IssuerSection] = {}
        for name in table:
            where = ("issuers", name)
            if not _NAME.fullmatch(name):
                self._problem(where, "an issuer name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            fields = self._table(table, *where)
            section = None if where in self._bad and not fields else self._section(IssuerSection, where, fields)
            if section is not None:
                issuers[name] = section
        max_age = jwks.max_age if jwks is not None and self._sound(("jwks", "max_age")) else None
        alg = jwks.alg if jwks is not None and self._sound(("jwks", "alg")) else None
        for name, field, message in issuer_contradictions(issuers, max_age, alg):
            self._problem(("issuers", name, field), message)
        return issuers

    def _check_profile(self, where: _Where, profile: Profile) -> None:
        if profile.required_parameters & profile.forbidden_parameters:
            self._problem((*where, "forbidden_parameters"), "a parameter is required as well as forbidden")
        if profile.unsigned_parameters and (profile.required_parameters or profile.tag is not None):
            # So whoever turns this on has said with it that nothing is checked for freshness.
            self._problem(
                (*where, "unsigned_parameters"),
                "such a base has no parameter that could be checked; write required_parameters = [], and no tag",
            )

    def _check_periods(self, defaults: Defaults, jwks: Jwks) -> None:
        floor = 2 * jwks.max_age
        if defaults.publish_lead < floor and self._sound(("defaults", "publish_lead"), ("jwks", "max_age")):
            self._problem(
                ("defaults", "publish_lead"),
                f"less than {text(floor)}, which is twice jwks.max_age: a cached JWK Set would lack a key that signs",
            )
        if defaults.retention < jwks.max_age and self._sound(("defaults", "retention"), ("jwks", "max_age")):
            self._problem(
                ("defaults", "retention"),
                f"less than {text(jwks.max_age)}, which is jwks.max_age: a key would leave the JWK Set while it is needed",
            )

        shortest = 2 * defaults.publish_lead
        if (defaults.rotation_period or shortest) < shortest and self._sound(
            ("defaults", "rotation_period"), ("defaults", "publish_lead")
        ):
            self._problem(
                ("defaults", "rotation_period"),
                f"less than {text(shortest)}, which is twice defaults.publish_lead: there would be no time to make the next version",
            )

    def _check_names(
        self, defaults: Defaults, profiles: Mapping[str, object], backends: Mapping[str, object], *, chosen: bool
    ) -> None:
        where = ("defaults", "profile")
        if defaults.profile not in profiles and self._sound(where):
            message = f"there is no such profile; there are: {_listed(profiles)}"
            self._problem(where, message, did_you_mean(defaults.profile, profiles))
        where = ("defaults", "backend")
        if defaults.backend not in backends and backends and self._sound(where):
            wrong = "there is no such backend" if chosen else "say which backend is the default, as none is named file"
            hint = did_you_mean(defaults.backend, backends) if chosen else ""
            self._problem(where, f"{wrong}; there are: {_listed(backends)}", hint)

    def _audit(self, data: dict[str, Any], server: Server | None, defaults: Defaults | None) -> Audit | None:
        """Return [audit], with what it takes from other sections."""
        table = self._table(data, "audit")
        if server is not None:
            table.setdefault("path", str(server.state_dir / "audit"))
        if defaults is not None and self._sound(("defaults", "backend")):
            table.setdefault("backend", defaults.backend)
        return self._section(Audit, ("audit",), table)

    def _check_backend(self, where: _Where, name: str, backends: Mapping[str, object]) -> None:
        if name not in backends and backends and self._sound(where, ("defaults", "backend")):
            self._problem(where, f"there is no such backend; there are: {_listed(backends)}", did_you_mean(name, backends))

    def _check_shareable(self, backends: Mapping[str, BackendConfig | None]) -> None:
        for name, backend in backends.items():
            declared = None if backend is None else getattr(plugins.load(backend.type), "capabilities", None)
            if declared is not None and declared.one_process:
                message = "its keys live in one process, which other workers cannot sign with; set server.workers = 1, or take another type"
                self._problem(("backends", name, "type"), message)

    def _sound(self, *fields: _Where) -> bool:
        """Say whether none of the fields was left out as wrong, with its default in its place."""
        return self._bad.isdisjoint(fields) and self._bad.isdisjoint(field[:1] for field in fields)


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(dotted((name,)) for name in sorted(names))
