"""What ``keyd bench`` has signed, held to the rules of each profile."""

from __future__ import annotations

import json
from math import inf

import click
import pytest

from backends.api import Algorithm
from keyd.cli.bench_inputs import Inputs, maker
from keyd.client.inputs import InputKind
from keyd.client.model import VersionInfo
from keyd.core.binding import Signing
from keyd.core.errors import RefusedError
from keyd.core.profile import BUILT_IN, check_base, read_base

NOW = 1_800_000_000.25
KID, THUMBPRINT = "key-1", "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"
VERSION = VersionInfo(1, KID, THUMBPRINT, json.dumps({}), "active", True, 0.0, 0.0, None, None, None)
URL = "https://API.example.com:8443/v1/orders?page=2"
SIGNING = Signing(Algorithm.ED25519, KID, THUMBPRINT)
#: Those of session keys and of kube-apiserver's tokens sign no bases of named keys.
PROFILES = sorted(BUILT_IN.keys() - {"kubernetes", "aauth-delegate"})


def check(data: bytes, profile: str, now: float) -> None:
    check_base(read_base(data, BUILT_IN[profile]), BUILT_IN[profile], SIGNING, now=now, not_after=inf)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("age", [0, 20])
def test_every_profile_takes_its_base(profile: str, age: float) -> None:
    check(Inputs(VERSION, profile, "GET", URL).base(NOW), profile, NOW + age)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_base_is_of_its_time(profile: str) -> None:
    data = Inputs(VERSION, profile, "GET", URL).base(NOW)
    for now in (NOW + 32, NOW - 7):
        with pytest.raises(RefusedError):
            check(data, profile, now)


@pytest.mark.parametrize("profile", PROFILES)
def test_no_base_is_that_of_before(profile: str) -> None:
    inputs = [Inputs(VERSION, profile, "GET", URL) for _ in range(2)]
    assert len({each.base(NOW) for each in inputs for _ in range(50)}) == 100


def test_the_base_is_for_the_request_that_was_asked_for() -> None:
    base = read_base(Inputs(VERSION, "of-my-own", "post", URL).base(NOW), BUILT_IN["rfc9421"])
    values = {component.name: component.value for component in base.components}
    assert values == {"@method": "POST", "@authority": "api.example.com:8443", "@path": "/v1/orders"}
    assert base.keyid == KID


@pytest.mark.parametrize("url", ["", "/v1", "ftp://example.com/", "https://", "https://exämple.com/"])
def test_no_url(url: str) -> None:
    with pytest.raises(click.UsageError, match="URL"):
        Inputs(VERSION, "rfc9421", "GET", url)


def test_what_a_key_signs() -> None:
    inputs = Inputs(VERSION, "rfc9421", "GET", URL)
    kind, make = maker(inputs, frozenset({"http", "jwt"}))
    assert (kind, make(NOW)[:1]) == (InputKind.SIGNATURE_BASE, b'"')
    kind, make = maker(inputs, frozenset({"raw"}))
    assert kind is InputKind.MESSAGE
    assert make(NOW) != make(NOW)
    with pytest.raises(click.UsageError, match="neither purpose http nor raw"):
        maker(inputs, frozenset({"jwt"}))
