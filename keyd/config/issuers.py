"""``[issuers.NAME]``: keys that are published together, at hosts of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, Field

from keyd.config.durations import Duration, text
from keyd.config.grants import KeyGlob
from keyd.config.providers import AgentMetadata, ResourceMetadata
from keyd.config.section import Section
from keyd.config.sessions import https_origin
from keyd.core import authorities
from keyd.core.jwks import AlgStyle
from keyd.core.publication import DirectoryForm, Issuer


def _host(value: str) -> str:
    if "*" in value:
        raise ValueError("a host is written out; there are no wildcards here")
    # Host names have no case (RFC 3986 section 3.2.2). That of other letters than ASCII is for whoever writes the A-labels.
    host = value.lower() if value.isascii() else value
    authorities.check(host)
    return host


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("a host is there twice")
    return values


class IssuerSection(Section):
    """``[issuers.NAME]``. Durations in seconds; what is None is as [jwks] has it."""

    hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_host)], ...], Field(min_length=1, max_length=256), AfterValidator(_once)
    ]
    keys: Annotated[tuple[KeyGlob, ...], Field(min_length=1, max_length=256)]
    alg: AlgStyle | None = None
    max_age: Annotated[Duration, Field(ge=1)] | None = None
    origin: Annotated[str, AfterValidator(https_origin)] | None = None
    directory: DirectoryForm = "off"
    agent: AgentMetadata | None = None
    resource: ResourceMetadata | None = None

    def to_issuer(self, name: str, alg: AlgStyle, max_age: float) -> Issuer:
        """Return it as the core has it; ``alg`` and ``max_age`` are those of [jwks]."""
        own_age = max_age if self.max_age is None else self.max_age
        described = [each.documents() for each in (self.agent, self.resource) if each is not None]
        metadata = MappingProxyType({name: members for each in described for name, members in each.items()})
        style = self.alg or alg
        return Issuer(
            name, frozenset(self.hosts), self.keys, style, own_age, self.origin, directory=self.directory, metadata=metadata
        )


def contradictions(
    issuers: Mapping[str, IssuerSection], max_age: float | None, alg: AlgStyle | None
) -> Iterator[tuple[str, str, str]]:
    """Tell what issuers have that another has too, or that [jwks] does not allow: the issuer, the field, and what is wrong.

    ``max_age`` and ``alg`` are those of [jwks]; None where they are not known.
    """
    taken: dict[str, str] = {}
    for name, section in issuers.items():
        for host in section.hosts:
            if host in taken:
                yield name, "hosts", f"issuer {taken[host]!r} has one of these hosts too; each belongs to one issuer"
            taken[host] = name
        if section.origin is not None and section.origin.removeprefix("https://") not in section.hosts:
            yield name, "origin", "its host is none of the issuer's hosts, so nobody would find there what tokens say"
        yield from _undescribable(name, section, section.alg or alg)
        if max_age is not None and section.max_age is not None and section.max_age > max_age:
            message = f"more than {text(max_age)}, which is jwks.max_age: how long a version is published before it signs depends on that"
            yield name, "max_age", message


def _undescribable(name: str, section: IssuerSection, alg: AlgStyle | None) -> Iterator[tuple[str, str, str]]:
    for field in ("agent", "resource"):
        if getattr(section, field) is None:
            continue
        if section.origin is None:
            yield name, field, "a document that says who the issuer is has to say its origin; add origin"
        elif alg not in (None, "jose"):
            yield name, field, 'AAuth takes only keys that name their algorithm in full; set alg = "jose" for this issuer'
