"""``[grants.NAME]``, ``[limits]`` and ``[policy]``: who may do what."""

from __future__ import annotations

import dataclasses
import grp
import pwd
import re
from typing import Annotated, Literal, NoReturn

from pydantic import AfterValidator, Field, model_validator

from keyd.config.durations import Duration
from keyd.config.section import Section
from keyd.config.sessions import GrantSessions
from keyd.core import authorities
from keyd.core.grants import GROUPS, OPERATIONS, Grant, PrincipalPattern
from keyd.core.model import Purpose
from keyd.core.policy import Allowance
from keyd.core.rates import Rate

_MAX_LIST = 256
_SPIFFE = re.compile(r"spiffe://[a-z0-9._\-]{1,255}+(?:/[A-Za-z0-9._\-*?]++)++")
_METHOD = re.compile(r"[A-Z][A-Z0-9_\-]{0,31}")
_PATH = re.compile(r"/[!-~]*+")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_GLOB = re.compile(r"[A-Za-z0-9._\-*?]{1,255}")
_TEXT = re.compile(r"[ -~]{1,1024}")


def _fail(message: str) -> NoReturn:
    raise ValueError(message)


def _key_glob(value: str) -> str:
    return value if _GLOB.fullmatch(value) else _fail("a glob of key names has A-Z a-z 0-9 . _ - and the signs * and ?")


def _spiffe(value: str) -> str:
    if not _SPIFFE.fullmatch(value) or "**" in value.removesuffix("/**"):
        _fail(
            'not a SPIFFE ID; write "spiffe://trust-domain/path"; in the path, * stays within a segment, and /** at the end is all below'
        )
    return value


def _absolute(value: str) -> str:
    segments = value.split("/")[1:]
    if not value.startswith("/") or not all(segments) or not {".", ".."}.isdisjoint(segments) or not value.isprintable():
        _fail("not an absolute path without . and .. segments")
    return value


def _cgroup(value: str) -> str:
    return value if value.startswith("/") and _TEXT.fullmatch(value) else _fail("a cgroup is a path from /, or a glob of it")


def _unit(value: str) -> str:
    return value if _TEXT.fullmatch(value) and "." in value else _fail('a unit is a name with its type, such as "shop.service"')


def _container(value: str) -> str:
    return value if _HEX64.fullmatch(value) else _fail("a container id has 64 hexadecimal digits, in lower case")


def _dns(value: str) -> str:
    authorities.check_dns(value)
    return value


def _authority(value: str) -> str:
    authorities.check(value)
    return value


def _method(value: str) -> str:
    return value if _METHOD.fullmatch(value) else _fail("a method is written as requests have it, in upper case")


def _path(value: str) -> str:
    if not _PATH.fullmatch(value) or re.search(r"[?#*\\%]|//|/\.\.?(?:/|$)", value):
        _fail("a path starts with / and is in plain form: no ?, #, %, *, \\, // and no dot segments")
    return value


def _operation(value: str) -> str:
    if value not in OPERATIONS and value not in GROUPS and value != "*":
        _fail(f'no such operation; there are "*", the groups {", ".join(sorted(GROUPS))}, and {", ".join(sorted(OPERATIONS))}')
    return value


def _plain(value: str) -> str:
    return value if _TEXT.fullmatch(value) else _fail("1 to 1024 printable ASCII characters, and no others")


_Some = Field(min_length=1, max_length=_MAX_LIST)
_Uid = Annotated[int, Field(ge=0, le=2**32 - 2)]
_Plain = Annotated[str, AfterValidator(_plain)]
#: A glob of key names.
KeyGlob = Annotated[str, AfterValidator(_key_glob)]


class PrincipalSection(Section):
    """One pattern of ``principals``: all that it has must be so."""

    uid: _Uid | None = None
    user: _Plain | None = None
    gid: _Uid | None = None
    group: _Plain | None = None
    executable: Annotated[str, AfterValidator(_absolute)] | None = None
    cgroup: Annotated[str, AfterValidator(_cgroup)] | None = None
    unit: Annotated[str, AfterValidator(_unit)] | None = None
    user_unit: Annotated[str, AfterValidator(_unit)] | None = None
    container: Annotated[str, AfterValidator(_container)] | None = None
    spiffe: Annotated[str, AfterValidator(_spiffe)] | None = None
    dns: Annotated[str, AfterValidator(_dns)] | None = None
    socket: Annotated[str, AfterValidator(_plain)] | None = None
    loopback: Literal[True] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PrincipalSection:
        if not self.model_dump(exclude_none=True):
            raise ValueError("a principal pattern is empty; say who may, for example { uid = 1001 }")
        if self.uid is not None and self.user is not None:
            raise ValueError("a principal pattern has uid and user; leave one of them out")
        if self.gid is not None and self.group is not None:
            raise ValueError("a principal pattern has gid and group; leave one of them out")
        if self.user_unit is not None and self.uid is None and self.user is None:
            raise ValueError("a principal pattern with user_unit needs uid or user: each user can have a unit of that name")
        return self

    def to_pattern(self) -> PrincipalPattern:
        """Return it as the core has it, with names resolved. Raises ValueError when there is no such user or group."""
        values = self.model_dump(exclude_none=True, exclude={"user", "group"})
        try:
            if self.user is not None:
                values["uid"] = pwd.getpwnam(self.user).pw_uid
            if self.group is not None:
                values["gid"] = grp.getgrnam(self.group).gr_gid
        except KeyError:
            raise ValueError("a principal pattern names a user or group that this machine does not have") from None
        return PrincipalPattern(**values)


class RateSection(Section):
    """The fields that make a rate."""

    rate: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: Annotated[int, Field(ge=1, le=1_000_000)]

    def to_rate(self) -> Rate:
        """Return it as the core has it."""
        return Rate(self.rate, self.burst)


class GrantSection(Section):
    """``[grants.NAME]``. Durations in seconds."""

    principals: Annotated[tuple[PrincipalSection, ...], _Some]
    keys: Annotated[tuple[KeyGlob, ...], _Some] | None = None
    purposes: Annotated[frozenset[Purpose], _Some] | None = None
    profiles: Annotated[frozenset[str], _Some] | None = None
    authorities: Annotated[tuple[Annotated[str, AfterValidator(_authority)], ...], _Some] | None = None
    methods: Annotated[frozenset[Annotated[str, AfterValidator(_method)]], _Some] | None = None
    paths: Annotated[tuple[Annotated[str, AfterValidator(_path)], ...], _Some] | None = None
    jwt_types: Annotated[frozenset[_Plain], _Some] | None = None
    issuers: Annotated[frozenset[_Plain], _Some] | None = None
    audiences: Annotated[frozenset[_Plain], _Some] | None = None
    max_jwt_lifetime: Annotated[Duration, Field(ge=1)] | None = None
    rate: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    operations: Annotated[frozenset[Annotated[str, AfterValidator(_operation)]], _Some] | None = None
    sessions: GrantSessions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GrantSection:
        purposes = self.purposes or frozenset()
        if not purposes and self.operations is None and self.sessions is None:
            raise ValueError('a grant without purposes and operations allows nothing; write for example purposes = ["http"]')
        if self.keys is None and (purposes or self.operations is not None):
            raise ValueError('keys is missing: of which keys? for example ["shop-*"]')
        if self.sessions is not None:
            purposes |= {Purpose.HTTP}  # which is what the keys of sessions sign
        limits = {
            Purpose.HTTP: ("methods", "paths"),
            Purpose.JWT: ("jwt_types", "issuers", "audiences", "max_jwt_lifetime"),
        }
        for purpose, names in limits.items():
            for name in names:
                if getattr(self, name) is not None and purpose not in purposes:
                    raise ValueError(f"{name} limits nothing without purpose {purpose.value}")
        self._check_wider_limits(purposes)
        if self.burst is not None and self.rate is None:
            raise ValueError("burst says nothing without rate")
        return self

    def _check_wider_limits(self, purposes: frozenset[Purpose]) -> None:
        if self.authorities is not None and purposes.isdisjoint({Purpose.HTTP, Purpose.DIRECTORY}):
            raise ValueError("authorities limits nothing without purpose http or directory")
        if not purposes and (self.profiles is not None or self.rate is not None):
            raise ValueError("profiles and rate limit nothing without purposes: they are for signatures")
        if Purpose.RAW in purposes and len(purposes) > 1:
            raise ValueError("purpose raw signs anything, so no limit holds for it; write a grant of its own for it")

    def to_grant(self, name: str) -> Grant:
        """Return it as the core has it, with names resolved. Raises ValueError when there is no such user or group."""
        return Grant(
            name=name,
            principals=tuple(pattern.to_pattern() for pattern in self.principals),
            keys=self.keys or (),
            purposes=self.purposes or frozenset(),
            profiles=self.profiles,
            authorities=self.authorities,
            methods=self.methods,
            paths=self.paths,
            jwt_types=None if self.jwt_types is None else frozenset(typ.lower() for typ in self.jwt_types),
            issuers=self.issuers,
            audiences=self.audiences,
            max_jwt_lifetime=self.max_jwt_lifetime,
            rate=None if self.rate is None else Rate(self.rate, self.burst or max(1, round(self.rate))),
            operations=_operations(self.operations or frozenset()),
            sessions=None if self.sessions is None else self.sessions.to_grant(),
        )


def _operations(names: frozenset[str]) -> frozenset[str]:
    found: set[str] = set()
    for name in names:
        found |= OPERATIONS if name == "*" else GROUPS.get(name, frozenset({name}))
    return frozenset(found)


@dataclasses.dataclass(frozen=True, slots=True)
class GrantConfig:
    """One ``[grants.NAME]``: as it is written, and as it was when its users and groups were looked up."""

    section: GrantSection
    grant: Grant


class Limits(RateSection):
    """``[limits]``: what one principal may use up. The rate is per second."""

    rate: Annotated[float, Field(gt=0, le=1_000_000)] = 1000.0
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    max_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    max_signatures: Annotated[int, Field(ge=1, le=10_000)] = 8

    def to_allowance(self) -> Allowance:
        """Return it as the core has it."""
        return Allowance(self.to_rate(), self.max_calls, self.max_signatures)


class PolicySection(Section):
    """``[policy]``: which operators' calls need two operators. Durations in seconds."""

    dual_control: frozenset[Annotated[str, AfterValidator(_operation)]] = frozenset()
    approval_window: Annotated[Duration, Field(ge=1, le=86400)] = 900.0

    @property
    def operations(self) -> frozenset[str]:
        """The calls that need two operators, groups resolved."""
        return _operations(self.dual_control)
