"""Bases without signed parameters: read as strictly as others, and for no profile that does not ask for them."""

from __future__ import annotations

import math

import pytest

from backends.api import Algorithm
from keyd.core import signature_base, unsigned_base
from keyd.core.binding import Signing
from keyd.core.errors import CoverageError, KeydError, MalformedError
from keyd.core.profile import BUILT_IN, Profile, check_base, read_base

# As the documents of LumoAuth build them.
BODY = b'"@method": POST\n"@target-uri": https://App.lumoauth.dev:443/t/acme?x=1\n"content-type": application/json\n"content-digest": sha-256=:aGk=:'
TOKEN = b'"@method": GET\n"@target-uri": https://api.example/inbox\n"authorization": Bearer token'
SIGNING = Signing(Algorithm.ED25519, "k", "t")
LEGACY = Profile(
    "lumoauth-legacy",
    exact_components=("@method @target-uri content-type content-digest", "@method @target-uri authorization"),
    required_parameters=frozenset(),
    unsigned_parameters=True,
)


@pytest.mark.parametrize("data", [BODY, TOKEN])
def test_reads_what_the_documents_have_signed(data: bytes) -> None:
    base = read_base(data, LEGACY)
    assert base.serialise() == data
    check_base(base, LEGACY, SIGNING, now=0, not_after=math.inf)


def test_the_authority_is_that_of_the_target() -> None:
    base = unsigned_base.parse(BODY)
    assert (base.method, base.authority, base.path) == ("POST", "app.lumoauth.dev", "/t/acme")


@pytest.mark.parametrize("profile", BUILT_IN.values(), ids=BUILT_IN)
def test_no_built_in_profile_reads_them(profile: Profile) -> None:
    with pytest.raises(MalformedError):
        read_base(BODY, profile)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b'"',
        b'"@method"',
        BODY + b"\n",
        b"\n" + BODY,
        BODY.replace(b"\n", b"\r\n"),
        BODY.replace(b"\n", b"\n\n", 1),
        BODY + b'\n"@method": GET',
        BODY + b'\n"@signature-params": ()',
        BODY + b'\n"@signature-params": ("@method" "@target-uri" "content-type" "content-digest");created=1800000000',
        BODY.replace(b'"@method"', b'"@method";req'),
        BODY.replace(b'"content-type"', b'"content-type";sf'),
        BODY.replace(b'"content-type"', b'"Content-Type"'),
        BODY.replace(b"POST", b"PO ST"),
        BODY.replace(b"https://", b"https://user@"),
        BODY.replace(b": POST", b":POST"),
        b"eyJhbGciOiJFZDI1NTE5In0.e30",
        b'"x": \xff',
        b'"x": ' + b"y" * 16384,
    ],
)
def test_refuses(data: bytes) -> None:
    with pytest.raises(KeydError):
        unsigned_base.parse(data)


def test_other_lists_of_components_are_not_covered() -> None:
    for data in (b'"@method": GET', TOKEN.replace(b"authorization", b"cookie"), b"\n".join(TOKEN.split(b"\n")[::-1])):
        with pytest.raises(CoverageError):
            check_base(read_base(data, LEGACY), LEGACY, SIGNING, now=0, not_after=math.inf)


def test_nothing_is_a_base_of_both_kinds() -> None:
    for data in (BODY, TOKEN):
        with pytest.raises(MalformedError):
            signature_base.parse(data)
