"""Grants through the real daemon: what holds, and what a reload changes."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import grpc
import pytest
from service_conftest import Refusal, Running, refused
from support import START, signature_base

from keyd import app
from keyd.v1 import backend_service_pb2 as backends_pb
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2 as pb

ME = f"uid = {os.geteuid()}"
HTTP = 'purposes = ["http"]\n'


def reload(running: Running, sections: str) -> None:
    """Write the configuration anew, with ``sections`` behind what it began with, and reload as SIGHUP does."""
    path = running.directory / "keyd.toml"
    original = running.directory / "original.toml"
    if not original.exists():
        original.write_bytes(path.read_bytes())
    text = original.read_text()
    if "[limits]" in sections:
        text = re.sub(r"\[limits\]\n(\w.*\n)*", "", text)
    path.write_text(text + sections)
    app.reload(running.daemon, path)


def grant(name: str, more: str, keys: str = "agent", principal: str = ME) -> str:
    return f'[grants.{name}]\nprincipals = [{{ {principal} }}]\nkeys = ["{keys}"]\n{more}'


#: Administration is somebody else's, so that the daemon's own user has what its grants say and no more.
OPERATED = grant("ops", 'operations = ["read"]\n', keys="*", principal="uid = 54321")


@pytest.fixture
async def with_keys(running: Running) -> Running:
    for name in ("agent", "other"):
        await running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name=name)))
    return running


async def sign(running: Running, key: str = "agent", authority: str = "example.com") -> pb.SignResponse:
    return await running.signing.Sign(pb.SignRequest(key=key, signature_base=signature_base(START, authority=authority)))


async def test_without_grants_the_daemons_user_may_do_everything(with_keys: Running) -> None:
    assert (await sign(with_keys)).signature
    assert (await sign(with_keys, "other", "anywhere.example")).signature


async def test_with_one_signing_is_by_grants_alone(with_keys: Running) -> None:
    reload(with_keys, grant("mine", HTTP + 'authorities = ["example.com"]\n'))
    assert (await sign(with_keys)).signature
    other = await refused(sign(with_keys, "other"))
    assert (other.code, other.reason) == (grpc.StatusCode.PERMISSION_DENIED, "GRANT")
    nothing = await refused(sign(with_keys, "nothing"))
    assert nothing == Refusal(other.code, other.reason, other.message.replace("other", "nothing"), {})
    evil = await refused(sign(with_keys, authority="evil.example"))
    assert (evil.code, evil.reason, evil.metadata) == (grpc.StatusCode.PERMISSION_DENIED, "AUTHORITY", {"grant": "mine"})
    await with_keys.keys.DisableKey(keys_pb.DisableKeyRequest(name="other"))  # administration is the owner's as before


async def test_with_an_operator_grant_administration_is_by_grants_alone(with_keys: Running) -> None:
    reload(with_keys, grant("ops", 'operations = ["read"]\n'))
    assert [key.name for key in (await with_keys.keys.ListKeys(keys_pb.ListKeysRequest())).keys] == ["agent"]
    assert (await with_keys.backends.ListBackends(backends_pb.ListBackendsRequest())).backends
    for call in (
        with_keys.keys.DisableKey(keys_pb.DisableKeyRequest(name="agent")),
        with_keys.keys.GetKey(keys_pb.KeyServiceGetKeyRequest(name="other")),
        with_keys.keys.CreateKey(keys_pb.CreateKeyRequest(spec=keys_pb.KeySpec(name="new"))),
    ):
        assert (await refused(call)).reason == "GRANT"


async def test_the_first_of_two_operators_is_told_to_wait(with_keys: Running) -> None:
    reload(with_keys, '[policy]\ndual_control = ["disable_key"]\n')
    for _ in range(2):
        refusal = await refused(with_keys.keys.DisableKey(keys_pb.DisableKeyRequest(name="agent")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "APPROVAL_NEEDED")
        assert refusal.metadata == {"until": "2027-01-15T08:15:00Z", "requested_by": f"uid:{os.geteuid()}"}
    assert (await sign(with_keys)).signature


async def test_over_the_rate(with_keys: Running) -> None:
    reload(with_keys, "[limits]\nrate = 0.001\nburst = 2\n")
    results = await asyncio.gather(*(sign(with_keys) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, pb.SignResponse) for result in results) == 2
    refusal = await refused(sign(with_keys))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE")
    assert 900 < float(refusal.metadata["retry_after"]) <= 1000


async def test_a_reload_takes_a_grant_away(with_keys: Running) -> None:
    reload(with_keys, OPERATED + grant("mine", HTTP) + grant("too", HTTP, keys="other"))
    watch = with_keys.signing.WatchKeys(pb.WatchKeysRequest(keys=["agent", "other"]))
    for _ in range(2):
        await watch.read()
    assert (await sign(with_keys)).signature
    reload(with_keys, OPERATED + grant("too", HTTP, keys="other"))
    assert (await refused(sign(with_keys))).reason == "GRANT"
    assert (await sign(with_keys, "other")).signature
    async with asyncio.timeout(20):
        assert (await refused(watch.read())).reason == "GRANT"


@pytest.mark.parametrize(
    "sections",
    [
        grant("mine", HTTP) + grant("broken", 'purposes = ["https"]\n', keys="*"),
        grant("mine", HTTP + "methods = []\n"),
        grant("mine", HTTP, principal='user = "nobody-here"'),
        grant("any", HTTP, keys="*") + "[server]\ndrain_timeout = 5\n",
        "not TOML",
    ],
)
async def test_a_broken_reload_changes_nothing(with_keys: Running, sections: str) -> None:
    reload(with_keys, grant("mine", HTTP + 'authorities = ["example.com"]\n'))
    reload(with_keys, sections)
    assert (await sign(with_keys)).signature
    assert (await refused(sign(with_keys, authority="evil.example"))).reason == "AUTHORITY"
    assert (await refused(sign(with_keys, "other"))).reason == "GRANT"


async def test_reloads_under_load_are_all_or_nothing(with_keys: Running) -> None:
    """One policy has example.com under one name, the next has it under the other; no moment has neither, or a mix."""
    policies = [grant(name, HTTP + 'authorities = ["example.com"]\n') for name in ("one", "two")]
    reload(with_keys, policies[0])
    done = asyncio.Event()

    async def load() -> int:
        count = 0
        while not done.is_set():
            assert (await sign(with_keys)).signature
            assert (await refused(sign(with_keys, authority="evil.example"))).reason == "AUTHORITY"
            count += 1
        return count

    loads = [asyncio.create_task(load()) for _ in range(4)]
    for number in range(10):
        reload(with_keys, policies[number % 2])
        await asyncio.sleep(0.01)
    done.set()
    assert all(count > 0 for count in await asyncio.gather(*loads))


async def test_the_jwk_set_is_public_and_that_of_a_key_is_not(with_keys: Running) -> None:
    reload(with_keys, OPERATED + grant("mine", HTTP, keys="agent"))
    everything = json.loads((await with_keys.signing.GetJWKS(pb.GetJWKSRequest())).document)
    assert len(everything["keys"]) == 2
    assert len(json.loads((await with_keys.signing.GetJWKS(pb.GetJWKSRequest(key="agent"))).document)["keys"]) == 1
    assert (await refused(with_keys.signing.GetJWKS(pb.GetJWKSRequest(key="other")))).reason == "GRANT"


async def test_what_explain_says_is_what_the_daemon_does(with_keys: Running, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from keyd.cli import cli

    reload(with_keys, grant("mine", HTTP + 'authorities = ["example.com", "*.pay.example"]\nmethods = ["GET"]\n'))
    for authority in ("example.com", "evil.example", "a.pay.example", "pay.example", "example.com:443"):
        base = signature_base(START, authority=authority)
        arguments = ["policy", "explain", "--config", str(with_keys.directory / "keyd.toml"), "--as", ME.replace(" ", "")]
        arguments += ["--profile", "rfc9421", "--algorithm", "Ed25519", "--key", "agent"]
        told = await asyncio.to_thread(lambda a=arguments, b=base: CliRunner().invoke(cli, a, input=b, prog_name="keyd"))
        try:
            await sign(with_keys, authority=authority)
        except grpc.aio.AioRpcError:
            assert (told.exit_code, told.stdout.splitlines()[-1][:18]) == (4, "refused, AUTHORITY")
        else:
            assert (told.exit_code, told.stdout.splitlines()[-1]) == (0, "allowed by grant mine")
