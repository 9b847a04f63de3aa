"""Signature-Agent in both forms, as it goes out; tests/examples has verifiers of others look at it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from keyd import client as keyd
from keyd.client import web_bot_auth
from keyd.client.http import OutgoingRequest, sign_request

AGENT = "https://agent.example"


def signed(daemon: Any, options: Any, *headers: tuple[str, str], body: bytes = b"") -> dict[str, str]:
    with keyd.Client(daemon.address) as client:
        return sign_request(client, "agent", OutgoingRequest("GET", "https://shop.example/x?y=1", headers, body), options)


@pytest.mark.parametrize(
    ("form", "field", "covered"),
    [
        ("string", '"https://agent.example"', '"signature-agent"'),
        ("dictionary", 'sig1="https://agent.example"', '"signature-agent";key="sig1"'),
    ],
)
def test_each_form_is_set_and_covered(daemon: Any, form: Any, field: str, covered: str) -> None:
    fields = signed(daemon, web_bot_auth.options(AGENT, form=form))
    assert fields["Signature-Agent"] == field
    listed, parameters = re.fullmatch(r"sig1=\((.*?)\)(.*)", fields["Signature-Input"]).groups()  # type: ignore[union-attr]
    assert listed == f'"@method" "@authority" "@path" {covered}'
    times = {name: int(value) for name, value in re.findall(r";(created|expires)=(\d+)", parameters)}
    assert times["expires"] - times["created"] == 60
    assert ';alg="ed25519"' in parameters
    assert ';tag="web-bot-auth"' in parameters
    assert re.search(r';nonce="[A-Za-z0-9_-]{43}"', parameters)


def test_keyid_is_the_thumbprint_whatever_the_kid(daemon: Any) -> None:
    with keyd.Client(daemon.address) as client:
        active = client.key_info("agent").active
    assert active is not None
    assert active.kid != active.thumbprint
    assert f'keyid="{active.thumbprint}"' in signed(daemon, web_bot_auth.options(AGENT))["Signature-Input"]
    assert f'keyid="{active.kid}"' in signed(daemon, {})["Signature-Input"]


def test_it_replaces_what_the_request_has(daemon: Any) -> None:
    fields = signed(daemon, web_bot_auth.options(AGENT), ("signature-agent", '"https://evil.example"'))
    assert fields["Signature-Agent"] == '"https://agent.example"'
    assert b'\n"signature-agent": "https://agent.example"\n' in daemon.requests[-1].signature_base


def test_a_body_is_covered_too(daemon: Any) -> None:
    fields = signed(daemon, web_bot_auth.options(AGENT, components=("@authority",)), body=b"x")
    assert '("@authority" "signature-agent" "content-digest")' in fields["Signature-Input"]
    assert fields.keys() == {"Signature-Agent", "Content-Digest", "Signature-Input", "Signature"}


@pytest.mark.parametrize(
    "agent", ["https://agent.example:8443", "https://[2001:db8::1]", "https://a:65535", "HTTPS://Agent.Example"]
)
def test_origins(agent: str) -> None:
    assert web_bot_auth.options(agent)["fields"] == {"Signature-Agent": f'"{agent.lower()}"'}


@pytest.mark.parametrize(
    "agent", ["http://agent.example", "agent.example", "data:application/json,{}", "", "ftp://agent.example"]
)
def test_what_is_not_https_is_refused_with_words(agent: str) -> None:
    with pytest.raises(ValueError, match=r"is not an https origin; verifiers fetch key directories over https alone"):
        web_bot_auth.options(agent)


@pytest.mark.parametrize(
    "agent",
    [
        "https://",
        "https:agent.example",
        "https://agent.example/",
        "https://agent.example/.well-known/http-message-signatures-directory",
        "https://agent.example?x",
        "https://agent.example#x",
        "https://user@agent.example",
        'https://agent.example"',
        "https://agent.example\r\nx: y",
        "https://bücher.example",
        "https://agent.example:port",
        "https://agent.example.",
        "https://.agent.example",
        "https://agent..example",
        "https://agent.example:0",
        "https://agent.example:65536",
    ],
)
def test_what_is_no_origin_is_refused_with_words(agent: str) -> None:
    with pytest.raises(ValueError, match="is not an origin such as"):
        web_bot_auth.options(agent)


@pytest.mark.parametrize("label", ["", "Sig", 'a"', "1a"])
def test_a_label_that_no_dictionary_has_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        web_bot_auth.options(AGENT, form="dictionary", label=label)
