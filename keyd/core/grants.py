"""Grants: who may sign what, and which operators' calls. Values only; :mod:`keyd.core.policy` evaluates them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType

from keyd.core import globs
from keyd.core.authorities import suffix_matcher
from keyd.core.model import Purpose
from keyd.core.principal import Principal
from keyd.core.rates import Rate
from keyd.core.sessions.grant import SessionGrant, SessionKind

#: The operators' calls by group. A grant names groups, single calls, or ``*``.
GROUPS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "read": frozenset(
            {
                "list_keys",
                "get_key",
                "plan_rotations",
                "list_backends",
                "list_stored_keys",
                "list_sessions",
                "list_revoked_tokens",
            }
        ),
        "create": frozenset({"create_key", "import_key", "adopt_key"}),
        "lifecycle": frozenset(
            {"rotate_key", "rollback_key", "pause_key", "resume_key", "update_key", "disable_key", "enable_key"}
        ),
        "destroy": frozenset({"compromise_version", "destroy_version"}),
        "revoke": frozenset({"revoke_session", "revoke_token"}),
        "audit": frozenset({"get_head"}),
    }
)
OPERATIONS = frozenset().union(*GROUPS.values())
_LONGEST_NAME = 255
_PROVED_BY_KERNEL = ("uid", "gid", "executable", "cgroup", "unit", "user_unit", "container")


@dataclass(frozen=True)
class PrincipalPattern:
    """Callers that have all of these; what is None is not asked for.

    Attributes:
        gid: of the caller's group or one of the supplementary ones.
        executable: absolute path.
        cgroup: a glob, like ``unit`` and ``user_unit``.
        spiffe: a glob whose ``*`` stays within one segment; ``/**`` at the end is a subtree.
        dns: exact, or ``*.`` and a suffix.
        socket: name of a ``[sockets.NAME]``.
        loopback: True: nothing is known of the caller but that it is on this machine.
    """

    uid: int | None = None
    gid: int | None = None
    executable: str | None = None
    cgroup: str | None = None
    unit: str | None = None
    user_unit: str | None = None
    container: str | None = None
    spiffe: str | None = None
    dns: str | None = None
    socket: str | None = None
    loopback: bool | None = None

    @property
    def conditions(self) -> Mapping[str, object]:
        """What it asks for, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def matches(self, principal: Principal) -> bool:
        """Say whether ``principal`` has all of it."""
        return bool(self._tests) and all(test(principal) for _, test in self._tests)

    def unmet(self, principal: Principal) -> str | None:
        """Return the first condition that ``principal`` does not meet; None when it matches."""
        return next((name for name, test in self._tests if not test(principal)), None)

    def can_match(self) -> bool:
        """Say whether any caller can have all of it: nobody comes over two transports."""
        kinds = [any(getattr(self, name) is not None for name in _PROVED_BY_KERNEL), self.spiffe or self.dns, self.loopback]
        return sum(map(bool, kinds)) + (self.socket is not None and not kinds[0]) <= 1

    @cached_property
    def _tests(self) -> tuple[tuple[str, Callable[[Principal], bool]], ...]:
        return tuple((name, _TESTS[name](value)) for name, value in self.conditions.items())

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.conditions.items())


def _equal(attribute: str) -> Callable[[object], Callable[[Principal], bool]]:
    return lambda wanted: lambda principal: getattr(principal, attribute) == wanted


def _like(attribute: str, matcher: Callable[[str], globs.Matcher]) -> Callable[..., Callable[[Principal], bool]]:
    def compiled(glob: str) -> Callable[[Principal], bool]:
        matches = matcher(glob)

        def test(principal: Principal) -> bool:
            value = getattr(principal, attribute)
            return value is not None and matches(value)

        return test

    return compiled


def _gid(wanted: int) -> Callable[[Principal], bool]:
    return lambda principal: principal.gid == wanted or wanted in principal.groups


def _dns(wanted: str) -> Callable[[Principal], bool]:
    matches = suffix_matcher(wanted)
    return lambda principal: any(matches(name) for name in principal.dns_names)


def _loopback(wanted: bool) -> Callable[[Principal], bool]:
    return lambda principal: principal.account == "loopback"


_TESTS: Mapping[str, Callable[..., Callable[[Principal], bool]]] = {
    "uid": _equal("uid"),
    "gid": _gid,
    "executable": _equal("executable"),
    "cgroup": _like("cgroup", globs.matcher),
    "unit": _like("unit", globs.matcher),
    "user_unit": _like("user_unit", globs.matcher),
    "container": _equal("container"),
    "spiffe": _like("spiffe_id", globs.segments_matcher),
    "dns": _dns,
    "socket": _equal("socket"),
    "loopback": _loopback,
}


@dataclass(frozen=True)
class Grant:
    """What some callers may do. A limit that is None does not limit.

    Attributes:
        principals: one of them has to match.
        keys: globs of key names; one has to match. Of no account for the keys of sessions.
        purposes: what the keys may be used for; empty: the grant signs nothing with them.
        authorities: exact ``host[:port]``, ``*.`` and a suffix, or ``*``. For purposes ``http`` and ``directory``.
        paths: prefixes, whole segments each; for purpose ``http``, like ``methods``.
        jwt_types: in lower case; for purpose ``jwt``, like all below.
        max_jwt_lifetime: from ``iat``, and from now, to ``exp``, in seconds.
        rate: of its signatures, for each principal; None: only the limit of the principal itself holds.
        operations: names of operators' calls.
        sessions: which sessions may be opened, whose keys sign within the other limits here; None: none.
    """

    name: str
    principals: tuple[PrincipalPattern, ...]
    keys: tuple[str, ...]
    purposes: frozenset[Purpose] = frozenset()
    profiles: frozenset[str] | None = None
    authorities: tuple[str, ...] | None = None
    methods: frozenset[str] | None = None
    paths: tuple[str, ...] | None = None
    jwt_types: frozenset[str] | None = None
    issuers: frozenset[str] | None = None
    audiences: frozenset[str] | None = None
    max_jwt_lifetime: float | None = None
    rate: Rate | None = None
    operations: frozenset[str] = frozenset()
    sessions: SessionGrant | None = None

    def has_key(self, name: str) -> bool:
        """Say whether one of the globs matches."""
        if len(name) > _LONGEST_NAME:  # no key has such a name; "*" lets it on, to be told so
            return "*" in self.keys
        return any(matches(name) for matches in self._key_matchers)

    def has_principal(self, principal: Principal) -> bool:
        """Say whether one of the patterns matches."""
        return any(pattern.matches(principal) for pattern in self.principals)

    def allows_authority(self, authority: str) -> bool:
        """Say whether a request may be for this ``host[:port]``, in the form of RFC 9421 section 2.2.3."""
        return authority in self._authorities or any(matches(authority) for matches in self._authority_suffixes)

    def allows_path(self, path: str) -> bool:
        """Say whether a path begins with one of the prefixes, in whole segments. Odd paths are for the caller to refuse."""
        return self.paths is None or path.startswith(self._path_prefixes) or path in self.paths

    @cached_property
    def _key_matchers(self) -> tuple[globs.Matcher, ...]:
        return tuple(globs.matcher(glob) for glob in self.keys)

    @cached_property
    def _path_prefixes(self) -> tuple[str, ...]:
        return tuple(path if path.endswith("/") else f"{path}/" for path in self.paths or ())

    @cached_property
    def _authorities(self) -> frozenset[str]:
        return frozenset(self.authorities or ())

    @cached_property
    def _authority_suffixes(self) -> tuple[globs.Matcher, ...]:
        return tuple(suffix_matcher(authority) for authority in self.authorities or () if authority.startswith("*"))


#: The name of the grant that is in no configuration; no other can have it.
OWNER = "(owner)"


class OwnerGrant(Grant):
    """What holds without configuration: the daemon's own user and root may, over the Unix socket that is theirs."""

    @classmethod
    def of(cls, uids: Iterable[int], *, signs: bool) -> OwnerGrant:
        """Return the grant of every operators' call, and with ``signs`` of every signature and session."""
        purposes = frozenset(Purpose) if signs else frozenset()
        patterns = tuple(PrincipalPattern(uid=uid) for uid in sorted(set(uids)))
        sessions = SessionGrant(("*",), frozenset(SessionKind), ("*",), max_sessions=1000, sub_agents=True, foreign_keys=True)
        return cls(OWNER, patterns, ("*",), purposes, operations=OPERATIONS, sessions=sessions if signs else None)

    def has_principal(self, principal: Principal) -> bool:
        """Say whether one of the users calls, and over no socket that was made for somebody else."""
        return principal.account == f"uid:{principal.uid}" and super().has_principal(principal)
