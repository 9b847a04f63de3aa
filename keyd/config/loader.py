"""From a file to a configuration, or to the list of all that is wrong with it.

:mod:`keyd.config.file` finds and reads it, :mod:`keyd.config.section_reader` makes each of its tables a section. Here is which sections
there are, what each takes from another, and where they contradict each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keyd import plugins
from keyd.config import file, places
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
from keyd.config.problems import ConfigError, Problem, did_you_mean, dotted
from keyd.config.rotation import Rotation
from keyd.config.section import Section
from keyd.config.section_reader import SectionReader, Where
from keyd.config.sessions import Sessions
from keyd.config.store import Store
from keyd.config.tcp import Tcp
from keyd.core.profile import BUILT_IN, Profile

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


def load(path: Path | None) -> Config:
    """Read, check and complete the configuration. None stands for no file: every default, and a first run allowed.

    Raises:
        ConfigError: with every problem there is, not just the first.
    """
    return loads(file.read(path) if path is not None else "", path)


def loads(content: str, path: Path | None) -> Config:
    """Check and complete a configuration that was read from ``path`` before. Raises as :func:`load`."""
    data = file.parse(content, path)
    try:
        return _Loader(path, places.lines(content)).load(data)
    except RecursionError:
        raise ConfigError([Problem("", file.TOO_DEEP)], path) from None


class _Loader:
    """Reads each section, and compares those that can contradict each other."""

    def __init__(self, path: Path | None, lines: Mapping[places.Path, int]) -> None:
        self._path = path
        self._reader = SectionReader(lines, _SECTIONS)

    def load(self, data: dict[str, Any]) -> Config:
        self._reader.refuse_dates((), data)
        for name in data.keys() - set(_TABLES):
            self._reader.problem((name,), "unknown section", did_you_mean(name, _TABLES))
        backends = self._backends(data)
        profiles = self._profiles(data)
        tables = {name: self._reader.table(data, name) for name in _SECTIONS}
        chosen = "backend" in tables["defaults"]
        if not chosen and len(backends) == 1:
            tables["defaults"]["backend"] = next(iter(backends))
        sections: dict[str, Any] = {name: self._reader.section(model, (name,), tables[name]) for name, model in _SECTIONS.items()}
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
        if self._reader.count or audit is None or None in sections.values():
            raise ConfigError(self._reader.problems, self._path)
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

    def _sockets(self, data: dict[str, Any], server: Server | None) -> dict[str, OwnSocket]:
        table = self._reader.table(data, "sockets")
        sockets: dict[str, OwnSocket] = {}
        taken = {} if server is None else {server.socket: "server.socket"}
        for name in table:
            where = ("sockets", name)
            if not _NAME.fullmatch(name):
                self._reader.problem(where, "a socket name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            section = self._reader.section(OwnSocket, where, self._reader.table(table, *where))
            if section is None:
                continue
            if section.path in taken:
                self._reader.problem((*where, "path"), f"{taken[section.path]} has the same path")
            taken[section.path] = dotted((*where, "path"))
            sockets[name] = section
        return sockets

    def _tcp(self, data: dict[str, Any]) -> dict[str, Tcp]:
        table = self._reader.table(data, "tcp")
        listeners: dict[str, Tcp] = {}
        for name in table:
            where = ("tcp", name)
            if not _NAME.fullmatch(name):
                self._reader.problem(where, "the name of a listener is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            section = self._reader.table(table, *where)
            listener = self._reader.section(Tcp, where, section) if section or not self._reader.is_wrong(where) else None
            if listener is not None:
                listeners[name] = listener
        return listeners

    def _kubernetes(
        self, data: dict[str, Any], server: Server | None, sockets: Mapping[str, OwnSocket], jwks: Jwks | None
    ) -> Kubernetes | None:
        if "kubernetes" not in data:
            return None
        where = ("kubernetes",)
        table = self._reader.table(data, *where)
        section = self._reader.section(Kubernetes, where, table) if table or not self._reader.is_wrong(where) else None
        if section is None:
            return None
        taken = {own.path: dotted(("sockets", name, "path")) for name, own in sockets.items()}
        taken |= {} if server is None else {server.socket: "server.socket"}
        max_age = jwks.max_age if jwks is not None and self._reader.sound(("jwks", "max_age")) else None
        for field, message in kubernetes_contradictions(section, taken, max_age):
            self._reader.problem((*where, field), message)
        return section

    def _backends(self, data: dict[str, Any]) -> dict[str, BackendConfig | None]:
        """Return the backends by name; None for those with problems."""
        table = self._reader.table(data, "backends")
        if "backends" not in data:
            table = {"file": {"type": "file"}}
        elif not table and not self._reader.is_wrong(("backends",)):
            self._reader.problem(
                ("backends",), "no backend is configured; write [backends.NAME], or remove the section for a file backend"
            )
        return {name: self._backend(name, table) for name in table}

    def _backend(self, name: str, table: dict[str, Any]) -> BackendConfig | None:
        where = ("backends", name)
        if not _NAME.fullmatch(name):
            self._reader.problem(where, "a backend name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
        section = self._reader.table(table, *where)
        if self._reader.is_wrong(where) and not section:
            return None
        type_name = section.pop("type", None)
        if not isinstance(type_name, str):
            self._reader.problem(
                (*where, "type"), "not a string" if type_name is not None else 'missing; write for example type = "file"'
            )
            return None
        try:
            model = plugins.load(type_name).Config
        except plugins.UnknownTypeError as error:
            self._reader.problem((*where, "type"), str(error), did_you_mean(type_name, plugins.backend_types()))
            return None
        except plugins.PluginError as error:
            self._reader.problem((*where, "type"), str(error))
            return None
        known = self._reader.count
        own = {field: section.pop(field) for field in BackendLimits.model_fields if field in section}
        limits, options = self._reader.section(BackendLimits, where, own), self._reader.section(model, where, section)
        if limits is None or options is None or self._reader.count > known:
            return None
        return BackendConfig(name, type_name, options, limits)

    def _profiles(self, data: dict[str, Any]) -> dict[str, Profile | None]:
        """Return built-in and configured profiles by name; None for those with problems."""
        profiles: dict[str, Profile | None] = dict(BUILT_IN)
        table = self._reader.table(data, "profiles")
        for name in table:
            where = ("profiles", name)
            if name in BUILT_IN:
                self._reader.problem(where, "the built-in profile of this name cannot be changed; choose another name")
            elif not _NAME.fullmatch(name):
                self._reader.problem(where, "a profile name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            section = self._reader.section(ProfileSection, where, self._reader.table(table, *where))
            profile = Profile(name=name, **dict(section)) if section is not None else None
            if profile is not None:
                self._check_profile(where, profile)
            if name not in BUILT_IN:
                profiles[name] = profile
        return profiles

    def _grants(self, data: dict[str, Any], profiles: Mapping[str, object]) -> dict[str, GrantConfig | None]:
        """Return the grants by name; None for those with problems."""
        table = self._reader.table(data, "grants")
        return {name: self._grant(name, table, profiles) for name in table}

    def _grant(self, name: str, table: dict[str, Any], profiles: Mapping[str, object]) -> GrantConfig | None:
        where = ("grants", name)
        if not _NAME.fullmatch(name):
            self._reader.problem(where, "a grant name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
        data = self._reader.table(table, *where)
        section = None if self._reader.is_wrong(where) and not data else self._reader.section(GrantSection, where, data)
        if section is None:
            return None
        for profile in sorted(section.profiles or ()):
            if profile not in profiles:
                message = f"there is no such profile; there are: {_listed(profiles)}"
                self._reader.problem((*where, "profiles"), message, did_you_mean(profile, profiles))
        try:
            return GrantConfig(section, section.to_grant(name))
        except ValueError as error:
            self._reader.problem((*where, "principals"), str(error))
            return None

    def _issuers(self, data: dict[str, Any], jwks: Jwks | None) -> dict[str, IssuerSection]:
        table = self._reader.table(data, "issuers")
        issuers: dict[str, IssuerSection] = {}
        for name in table:
            where = ("issuers", name)
            if not _NAME.fullmatch(name):
                self._reader.problem(where, "an issuer name is 1 to 63 of a-z 0-9 _ - and starts with a letter or digit")
            fields = self._reader.table(table, *where)
            section = None if self._reader.is_wrong(where) and not fields else self._reader.section(IssuerSection, where, fields)
            if section is not None:
                issuers[name] = section
        max_age = jwks.max_age if jwks is not None and self._reader.sound(("jwks", "max_age")) else None
        alg = jwks.alg if jwks is not None and self._reader.sound(("jwks", "alg")) else None
        for name, field, message in issuer_contradictions(issuers, max_age, alg):
            self._reader.problem(("issuers", name, field), message)
        return issuers

    def _check_profile(self, where: Where, profile: Profile) -> None:
        if profile.required_parameters & profile.forbidden_parameters:
            self._reader.problem((*where, "forbidden_parameters"), "a parameter is required as well as forbidden")
        if profile.unsigned_parameters and (profile.required_parameters or profile.tag is not None):
            # So whoever turns this on has said with it that nothing is checked for freshness.
            self._reader.problem(
                (*where, "unsigned_parameters"),
                "such a base has no parameter that could be checked; write required_parameters = [], and no tag",
            )

    def _check_periods(self, defaults: Defaults, jwks: Jwks) -> None:
        floor = 2 * jwks.max_age
        if defaults.publish_lead < floor and self._reader.sound(("defaults", "publish_lead"), ("jwks", "max_age")):
            self._reader.problem(
                ("defaults", "publish_lead"),
                f"less than {text(floor)}, which is twice jwks.max_age: a cached JWK Set would lack a key that signs",
            )
        if defaults.retention < jwks.max_age and self._reader.sound(("defaults", "retention"), ("jwks", "max_age")):
            self._reader.problem(
                ("defaults", "retention"),
                f"less than {text(jwks.max_age)}, which is jwks.max_age: a key would leave the JWK Set while it is needed",
            )

        shortest = 2 * defaults.publish_lead
        if (defaults.rotation_period or shortest) < shortest and self._reader.sound(
            ("defaults", "rotation_period"), ("defaults", "publish_lead")
        ):
            self._reader.problem(
                ("defaults", "rotation_period"),
                f"less than {text(shortest)}, which is twice defaults.publish_lead: there would be no time to make the next version",
            )

    def _check_names(
        self, defaults: Defaults, profiles: Mapping[str, object], backends: Mapping[str, object], *, chosen: bool
    ) -> None:
        where = ("defaults", "profile")
        if defaults.profile not in profiles and self._reader.sound(where):
            message = f"there is no such profile; there are: {_listed(profiles)}"
            self._reader.problem(where, message, did_you_mean(defaults.profile, profiles))
        where = ("defaults", "backend")
        if defaults.backend not in backends and backends and self._reader.sound(where):
            wrong = "there is no such backend" if chosen else "say which backend is the default, as none is named file"
            hint = did_you_mean(defaults.backend, backends) if chosen else ""
            self._reader.problem(where, f"{wrong}; there are: {_listed(backends)}", hint)

    def _audit(self, data: dict[str, Any], server: Server | None, defaults: Defaults | None) -> Audit | None:
        """Return [audit], with what it takes from other sections."""
        table = self._reader.table(data, "audit")
        if server is not None:
            table.setdefault("path", str(server.state_dir / "audit"))
        if defaults is not None and self._reader.sound(("defaults", "backend")):
            table.setdefault("backend", defaults.backend)
        return self._reader.section(Audit, ("audit",), table)

    def _check_backend(self, where: Where, name: str, backends: Mapping[str, object]) -> None:
        if name not in backends and backends and self._reader.sound(where, ("defaults", "backend")):
            self._reader.problem(where, f"there is no such backend; there are: {_listed(backends)}", did_you_mean(name, backends))

    def _check_shareable(self, backends: Mapping[str, BackendConfig | None]) -> None:
        for name, backend in backends.items():
            declared = None if backend is None else getattr(plugins.load(backend.type), "capabilities", None)
            if declared is not None and declared.one_process:
                message = "its keys live in one process, which other workers cannot sign with; set server.workers = 1, or take another type"
                self._reader.problem(("backends", name, "type"), message)


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(dotted((name,)) for name in sorted(names))
