"""What is odd about grants that are well formed: each is allowed, and few are meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from keyd.core import globs
from keyd.core.grants import Grant, PrincipalPattern
from keyd.core.model import Purpose
from keyd.core.publication import Issuer
from keyd.core.sessions.grant import SessionGrant, SessionKind

_INTERPRETER = re.compile(
    r"(?:python|pypy|node|nodejs|deno|bun|ruby|perl|php|lua|bash|dash|zsh|ksh|fish|busybox|java|env|sh|tclsh|Rscript)[0-9.]*"
)
_LIMITS = ("profiles", "authorities", "methods", "paths", "jwt_types", "issuers", "audiences")


def warnings(
    grants: Iterable[Grant],
    dual_control: frozenset[str] = frozenset(),
    owners: Iterable[int] = (),
    issuers: Iterable[Issuer] = (),
) -> list[str]:
    """Return what whoever wrote the grants should know, for people, in the order of the grants."""
    grants, issuers = tuple(grants), tuple(issuers)
    found: list[str] = []
    for index, grant in enumerate(grants):
        about = [*_about(grant), *(_about_sessions(grant.sessions, issuers) if grant.sessions is not None else ())]
        found += [f"grant {grant.name!r}: {words}" for words in about]
        wider = next((other for other in (*grants[:index], *grants[index + 1 :]) if _covers(other, grant)), None)
        if wider is not None and (grants.index(wider) < index or not _covers(grant, wider)):
            found.append(f"grant {grant.name!r}: it adds nothing, grant {wider.name!r} allows all of it")
    if dual_control and not any(grant.operations for grant in grants) and len(set(owners)) < 2:
        found.append("policy.dual_control: only one user may call what operators call, so there is never a second one")
    return found


def _about(grant: Grant) -> Iterable[str]:
    for number, pattern in enumerate(grant.principals, 1):
        if not pattern.can_match():
            yield f"principal {number} never matches: nobody comes over a Unix socket, with a certificate, and unknown at once"
        if _is_any_script(pattern):
            yield f"principal {number} names an interpreter, so it is every script that the user runs with it; add a unit or cgroup"
    if (Purpose.HTTP in grant.purposes or grant.sessions is not None) and (grant.authorities is None or "*" in grant.authorities):
        yield "it signs requests for any authority; list those that are meant"
    if Purpose.RAW in grant.purposes:
        yield "purpose raw signs anything, unread"


def _about_sessions(sessions: SessionGrant, issuers: Iterable[Issuer]) -> Iterable[str]:
    if sessions.kinds == {SessionKind.JKT_JWT}:
        return
    named = [i for i in issuers if i.origin and any(_may_meet(a, b) for a in i.keys for b in sessions.issuer_keys)]
    if not named:
        yield "no issuer with an origin has a key that sessions.issuer_keys names, so there are no sessions; see [issuers.NAME]"
    hosts = {str(issuer.origin).removeprefix("https://") for issuer in named}
    for subject in sessions.subjects if named else ():
        domain = subject.rpartition("@")[2]
        if subject.startswith("aauth:") and not any(globs.matcher(domain)(host) for host in hosts):
            yield f"agent {subject!r} is of another domain than the origin of the issuer, and verifiers may refuse its tokens"
    may_be_sub_agents = any("+" in subject or "*" in subject for subject in sessions.subjects)
    if sessions.sub_agents and not may_be_sub_agents:
        yield 'no sub-agent is among sessions.subjects; they are named with a plus sign, such as "aauth:shop+*@agents.example"'


def _may_meet(one: str, other: str) -> bool:
    """Say whether two globs of key names may match the same name. Never wrong when it says that they do not."""
    heads = [re.split("[*?]", glob, maxsplit=1)[0] for glob in (one, other)]
    if one == heads[0] or other == heads[1]:  # one of them is a name
        return globs.matcher(one)(other) or globs.matcher(other)(one)
    return heads[0].startswith(heads[1]) or heads[1].startswith(heads[0])


def _is_any_script(pattern: PrincipalPattern) -> bool:
    """Say whether the pattern names an interpreter, and nothing that tells what it runs."""
    narrower = (pattern.unit, pattern.user_unit, pattern.cgroup, pattern.container)
    name = PurePosixPath(pattern.executable or "").name
    return _INTERPRETER.fullmatch(name) is not None and not any(narrower)


def _covers(wide: Grant, narrow: Grant) -> bool:
    """Say whether all that ``narrow`` allows, ``wide`` allows as well. May miss it; is never wrong."""
    return (
        wide.rate is None
        and narrow.purposes <= wide.purposes
        and narrow.operations <= wide.operations
        and narrow.sessions in (None, wide.sessions)
        and all(any(_pattern_covers(a, b) for a in wide.principals) for b in narrow.principals)
        and all(_key_covered(wide, glob) for glob in narrow.keys)
        and all(_within(getattr(wide, name), getattr(narrow, name)) for name in _LIMITS)
        and (wide.max_jwt_lifetime is None or (narrow.max_jwt_lifetime or float("inf")) <= wide.max_jwt_lifetime)
    )


def _pattern_covers(wide: PrincipalPattern, narrow: PrincipalPattern) -> bool:
    return wide.conditions.items() <= narrow.conditions.items()


def _key_covered(wide: Grant, glob: str) -> bool:
    return "*" in wide.keys or glob in wide.keys or ("*" not in glob and "?" not in glob and wide.has_key(glob))


def _within(wide: Iterable[str] | None, narrow: Iterable[str] | None) -> bool:
    return wide is None or (narrow is not None and set(narrow) <= set(wide))
