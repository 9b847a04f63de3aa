"""kube-apiserver's part of the ExternalJWTSigner contract, in front of the whole daemon, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import jwt
import pytest
import structlog
from components.fake_apiserver import FakeApiserver, FatalError, RefusedError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from service_conftest import Refusal, Running, refused, running_in
from support import START, FakeClock

from backends.api import Algorithm
from backends.errors import BackendUnavailableError
from keyd import app
from keyd.config import ConfigError, Kubernetes, PreviousKeys
from keyd.externaljwt.v1 import api_pb2 as pb
from keyd.externaljwt.v1 import api_pb2_grpc
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2, signing_service_pb2_grpc, types_pb2

DAY = 86400.0
SECTION = '\n[kubernetes]\nsocket = "{directory}/run/kubernetes.sock"\nkey = "accounts"\n'
ES256 = types_pb2.ALGORITHM_ES256


def spec(name: str = "accounts", **changes: Any) -> keys_pb.KeySpec:
    fields = {"algorithm": ES256, "purposes": [types_pb2.PURPOSE_JWT], "profile": "kubernetes", **changes}
    return keys_pb.KeySpec(name=name, **fields)


@dataclass
class Cluster:
    running: Running
    channel: grpc.aio.Channel
    apiserver: FakeApiserver

    @property
    def clock(self) -> FakeClock:
        return self.running.clock

    @property
    def stub(self) -> Any:
        return api_pb2_grpc.ExternalJWTSignerStub(self.channel)  # type: ignore[arg-type]

    async def fetch(self) -> pb.FetchKeysResponse:
        return await self.stub.FetchKeys(pb.FetchKeysRequest())

    async def create(self, **changes: Any) -> None:
        await self.running.keys.CreateKey(keys_pb.CreateKeyRequest(spec=spec(**changes)))

    async def rotate(self, *, now: bool = False) -> str:
        answer = await self.running.keys.RotateKey(keys_pb.RotateKeyRequest(name="accounts", now=now))
        return str(next(version.kid for version in answer.key.versions if version.version == answer.version))

    async def compromise(self) -> None:
        request = keys_pb.CompromiseVersionRequest(name="accounts", version=1, reason="drill")
        await self.running.keys.CompromiseVersion(request)

    async def refused(self, claims: bytes | None = None) -> Refusal:
        claims = json.dumps({"exp": self.clock.now() + 3600}).encode() if claims is None else claims
        return await refused(self.apiserver.sign(claims))

    def reload(self, sections: str, key: str = "accounts") -> None:
        path = self.running.directory / "keyd.toml"
        before, _, _ = path.read_text().partition("\n[kubernetes]\n")
        section = SECTION.format(directory=self.running.directory).replace('"accounts"', f'"{key}"')
        path.write_text(before + section + sections)
        app.reload(self.running.daemon, path)

    def trail(self) -> list[dict[str, Any]]:
        lines = (self.running.directory / "state/audit/audit.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record.get("operation") == "sign"]


@asynccontextmanager
async def cluster_in(directory: Path, more: str = "", clock: FakeClock | None = None, **flags: Any) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        sections = SECTION.format(directory=directory) + more
        running = await stack.enter_async_context(running_in(directory, clock or FakeClock(), sections))
        channel = await stack.enter_async_context(FakeApiserver.dial(f"{directory}/run/kubernetes.sock"))
        yield Cluster(running, channel, FakeApiserver(channel, running.clock.now, **flags))


@pytest.fixture
def directory() -> Any:
    made = Path(tempfile.mkdtemp(prefix="keyd-k-"))
    (made / "kek").write_bytes(os.urandom(32))
    (made / "kek").chmod(0o400)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def empty(directory: Path) -> AsyncIterator[Cluster]:
    """A cluster whose key is not made yet."""
    async with cluster_in(directory) as made:
        yield made


@pytest.fixture
async def cluster(empty: Cluster) -> Cluster:
    await empty.create()
    await empty.apiserver.start()
    return empty


def static_key(directory: Path, name: str = "sa") -> tuple[rsa.RSAPrivateKey, str, Path]:
    """Return a key as kube-apiserver has it in files: private, its kid, and the file of its public half."""
    private = rsa.generate_private_key(65537, 2048)
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    path = directory / f"{name}.pub"
    path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode(), path


def static_token(private: rsa.RSAPrivateKey, kid: str, now: float) -> str:
    issuer = "https://kubernetes.default.svc"
    return jwt.encode({"iss": issuer, "aud": [issuer], "exp": int(now) + DAY}, private, "RS256", {"kid": kid})


class TestSigning:
    async def test_a_token_verifies_with_the_keys_that_were_fetched(self, empty: Cluster) -> None:
        for name in ("RS256", "ES256", "ES384"):
            await empty.create(name=name, algorithm=types_pb2.Algorithm.Value(f"ALGORITHM_{name}"))
            empty.reload("", key=name)
            await empty.apiserver.start()
            token = await empty.apiserver.token_request()
            assert jwt.get_unverified_header(token) == {"alg": name, "kid": empty.apiserver.discovery()[0], "typ": "JWT"}
            assert (await empty.apiserver.authenticate(token))["sub"] == "system:serviceaccount:shop:till"
            header, claims, signature = token.split(".")
            other = ("A" if signature[20] != "A" else "B").join((signature[:20], signature[21:]))
            with pytest.raises(RefusedError, match="invalid bearer token"):
                await empty.apiserver.authenticate(f"{header}.{claims}.{other}")

    async def test_claims_come_back_byte_for_byte(self, cluster: Cluster) -> None:
        issuer = "https:\\/\\/kubernetes.default.svc"
        payload = (
            f'\t{{ "z":1 , "exp" : {int(START) + 600}.0e0,\r\n"iss":"{issuer}", "aud":["{issuer}"],"":[[],{{}}, -0, 1E+2],'
            '"\\u00e9":"\u00e9\\ud83d\\ude00\U0001f600","n":123456789012345678901234567890, "kubernetes.io":{} }\n'
        ).encode()
        token = await cluster.apiserver.sign(payload)
        part = token.split(".")[1]
        assert base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) == payload
        assert (await cluster.apiserver.authenticate(token))["n"] == 123456789012345678901234567890

    async def test_what_is_no_claims_set_is_not_signed(self, cluster: Cluster) -> None:
        for claims, reason in (
            ("e30.e30", "MALFORMED"),  # {}.{}
            ("e30=", "MALFORMED"),
            ("", "MALFORMED"),
            ("\u00e9", "MALFORMED"),
            ("bm90IEpTT04", "MALFORMED"),  # not JSON
            ("W10", "MALFORMED"),  # []
            ("eyJleHAiOjEsImV4cCI6Mn0", "MALFORMED"),  # {"exp":1,"exp":2}
            ("e30", "FRESHNESS"),  # no exp
            ("A" * 70_000, "SIZE"),
        ):
            assert (await refused(cluster.stub.Sign(pb.SignJWTRequest(claims=claims)))).reason == reason
            assert cluster.trail()[-1]["reason"] == reason

    async def test_a_token_that_lives_too_long_is_not_signed(self, directory: Path) -> None:
        async with cluster_in(directory, 'max_token_expiration = "1h"\n') as cluster:
            await cluster.create()
            await cluster.apiserver.start()
            assert cluster.apiserver.max_expiration == 3600
            assert await cluster.apiserver.token_request(10 * 3600)  # capped by the API server
            for seconds, reason in ((3630, None), (3631, "FRESHNESS"), (-1, "FRESHNESS")):
                claims = json.dumps({"exp": int(START) + seconds}).encode()
                if reason is None:
                    assert await cluster.apiserver.sign(claims)
                else:
                    assert (await cluster.refused(claims)).reason == reason

    async def test_each_token_is_on_record_with_its_caller(self, cluster: Cluster) -> None:
        await cluster.apiserver.token_request()
        record = cluster.trail()[-1]
        assert (record["key"], record["typ"], record["iss"]) == ("accounts", "JWT", "https://kubernetes.default.svc")
        assert (record["principal"]["uid"], record["principal"]["pid"]) == (os.geteuid(), os.getpid())
        assert record["grant"] == "(owner)"

    async def test_who_has_no_grant_gets_nothing(self, directory: Path) -> None:
        more = '[grants.other]\nprincipals = [{ uid = 54321 }]\nkeys = ["*"]\npurposes = ["jwt"]\noperations = ["read"]\n'
        async with cluster_in(directory, more) as cluster:
            stub = cluster.stub
            for call in (
                stub.Sign(pb.SignJWTRequest(claims="e30")),
                stub.FetchKeys(pb.FetchKeysRequest()),
                stub.Metadata(pb.MetadataRequest()),
            ):
                assert (await refused(call)).reason == "GRANT"

    async def test_who_has_a_grant_for_the_key_gets_tokens(self, directory: Path) -> None:
        mine = f"principals = [{{ uid = {os.geteuid()} }}]\n"
        grants = f'[grants.mine]\n{mine}keys = ["accounts"]\npurposes = ["jwt"]\nissuers = ["https://kubernetes.default.svc"]\n'
        async with cluster_in(directory, grants) as cluster:
            await cluster.create()
            await cluster.apiserver.start()
            assert await cluster.apiserver.authenticate(await cluster.apiserver.token_request())
            assert (await refused(cluster.apiserver.token_request(iss="https://evil.example"))).reason == "ISSUER"

    async def test_a_key_that_kube_apiserver_does_not_take(self, cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
        for name, changes, words in (
            ("ed25519", {"algorithm": types_pb2.ALGORITHM_ED25519}, "has the algorithm Ed25519, and kube-apiserver takes RS256"),
            ("ps512", {"algorithm": types_pb2.ALGORITHM_PS512}, "has the algorithm PS512, and kube-apiserver takes RS256"),
            ("http", {"purposes": [types_pb2.PURPOSE_HTTP]}, "does not have the purpose jwt"),
            ("hidden", {"unpublished": True}, "is not published"),
            ("aauth", {"profile": "aauth"}, "has the profile 'aauth', which does not sign typ JWT"),
        ):
            await cluster.create(name=name, **changes)
            cluster.reload("", key=name)
            assert words in capfd.readouterr().err
            for call in (cluster.fetch(), cluster.stub.Metadata(pb.MetadataRequest())):
                found = await refused(call)
                assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_STATE")
                assert words in found.message
            assert (await cluster.refused()).reason in ("KEY_STATE", "PURPOSE")
            with pytest.raises(FatalError):
                await cluster.apiserver.start()

    async def test_a_key_that_is_not_there(self, empty: Cluster) -> None:
        assert (await refused(empty.fetch())).reason == "NOT_FOUND"
        assert (await empty.refused()).reason == "NOT_FOUND"

    async def test_the_profile_signs_no_base(self, empty: Cluster) -> None:
        await empty.create(purposes=[types_pb2.PURPOSE_JWT, types_pb2.PURPOSE_HTTP])
        base = f'"@method": GET\n"@signature-params": ("@method");created={int(START)}'.encode()
        found = await refused(empty.running.signing.Sign(signing_service_pb2.SignRequest(key="accounts", signature_base=base)))
        assert found.reason == "COVERAGE"


class TestTheSocket:
    async def test_it_has_this_service_and_no_other(self, cluster: Cluster) -> None:
        other = signing_service_pb2_grpc.SigningServiceStub(cluster.channel)  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await other.GetJWKS(signing_service_pb2.GetJWKSRequest())  # type: ignore[misc]
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        async with grpc.aio.insecure_channel(cluster.running.address) as main:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await api_pb2_grpc.ExternalJWTSignerStub(main).FetchKeys(pb.FetchKeysRequest())  # type: ignore[arg-type, misc]
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    async def test_its_health_is_told(self, cluster: Cluster) -> None:
        health = health_pb2_grpc.HealthStub(cluster.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="v1.ExternalJWTSigner"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def test_an_abstract_one_is_for_who_has_a_grant(self, directory: Path) -> None:
        name = f"@keyd-kube-{os.getpid()}"
        section = f'\n[kubernetes]\nsocket = "{name}"\nkey = "accounts"\n'
        grant = '[grants.g]\nprincipals = [{{ uid = {} }}]\nkeys = ["*"]\npurposes = ["jwt"]\noperations = ["read"]\n'
        for uid, reason in ((os.geteuid(), "NOT_FOUND"), (54321, "GRANT")):
            async with running_in(directory, FakeClock(), section + grant.format(uid)), FakeApiserver.dial(name) as channel:
                stub = api_pb2_grpc.ExternalJWTSignerStub(channel)  # type: ignore[arg-type]
                assert (await refused(stub.FetchKeys(pb.FetchKeysRequest()))).reason == reason

    async def test_it_belongs_to_whom_it_is_given(self, directory: Path) -> None:
        async with cluster_in(directory, 'socket_mode = "0660"\nsocket_group = "4711"\n'):
            found = (directory / "run/kubernetes.sock").stat()
            assert (found.st_mode & 0o777, found.st_gid) == (0o660, 4711)
        assert not (directory / "run/kubernetes.sock").exists()


class TestRotation:
    async def test_planned(self, cluster: Cluster) -> None:
        """A version is known before it signs, one token after the other verifies until it expires, and only changes are broadcast."""
        apiserver, clock = cluster.apiserver, cluster.clock
        old = apiserver.discovery()
        tokens = [(await apiserver.token_request(), clock.now() + 3600)]
        new = await cluster.rotate()
        used = set()
        for step in range(4 * 24):
            clock.advance(3600)
            await apiserver.tick()
            known, fetches = {key.kid for key in apiserver.cache.current.keys}, apiserver.cache.fetches
            token = await apiserver.token_request()
            used.add(kid := jwt.get_unverified_header(token)["kid"])
            assert kid in known
            for earlier, expires in [*tokens, (token, clock.now() + 3600)]:
                if expires > clock.now():
                    assert await apiserver.authenticate(earlier)
            assert apiserver.cache.fetches == fetches, "an unknown kid had to be looked for"
            tokens = [(token, clock.now() + 3600)]
            assert known == ({*old, new} if step < 3 * 24 else {new})
        assert used == {*old, new}
        assert apiserver.cache.broadcasts == 3  # the first fetch, the new version, the old one's end

    async def test_in_an_emergency(self, cluster: Cluster) -> None:
        apiserver = cluster.apiserver
        before = await apiserver.token_request()
        new = await cluster.rotate(now=True)
        assert new not in apiserver.discovery()
        token = await apiserver.token_request()  # a kid that it does not know makes it fetch
        assert jwt.get_unverified_header(token)["kid"] == new
        for each in (before, token):
            assert await apiserver.authenticate(each)

    async def test_what_is_compromised_is_out_at_the_next_fetch(self, cluster: Cluster) -> None:
        apiserver = cluster.apiserver
        before = await apiserver.token_request(DAY)
        await cluster.compromise()
        assert await apiserver.authenticate(before)  # until then it is trusted: refresh_hint says how long
        cluster.clock.advance(300)
        await apiserver.tick()
        with pytest.raises(RefusedError, match="invalid bearer token"):
            await apiserver.authenticate(before)
        assert await apiserver.authenticate(await apiserver.token_request())

    async def test_a_fetch_waits_for_the_successor(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = cluster.running.daemon.keyring.backends["file"].backend
        create, asked, let = backend.create, threading.Event(), threading.Event()

        def slow(name: str, version: int, algorithm: Algorithm) -> str:
            asked.set()
            assert let.wait(20)
            return create(name, version, algorithm)

        monkeypatch.setattr(backend, "create", slow)
        old, compromising = cluster.apiserver.discovery(), asyncio.ensure_future(cluster.compromise())
        assert await asyncio.to_thread(asked.wait, 20)
        fetching = asyncio.ensure_future(cluster.fetch())
        await cluster.stub.Metadata(pb.MetadataRequest())  # the fetch is on its way
        assert not fetching.done()
        let.set()
        assert [key.key_id for key in (await fetching).keys] != old
        await compromising

    async def test_never_an_empty_set(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = cluster.running.daemon.keyring.backends["file"].backend

        def away(*_: object) -> str:
            raise BackendUnavailableError("away")

        monkeypatch.setattr(backend, "create", away)
        await cluster.compromise()
        cluster.clock.advance(10)
        found = await refused(cluster.fetch())
        assert (found.reason, "no published version" in found.message) == ("KEY_STATE", True)
        cluster.clock.advance(300)
        await cluster.apiserver.tick()
        assert len(cluster.apiserver.discovery()) == 1  # the stale set stays
        assert cluster.apiserver.next_fetch == cluster.clock.now() + 10

    async def test_the_timestamp_moves_with_the_data_alone(self, cluster: Cluster) -> None:
        apiserver, clock = cluster.apiserver, cluster.clock
        first = await cluster.fetch()
        assert int(START) == first.data_timestamp.seconds
        for _ in range(30):
            clock.advance(77.7)
            again = await cluster.fetch()
            assert again == first
            await apiserver.tick()
        assert apiserver.cache.broadcasts == 1
        await cluster.rotate()
        second = await cluster.fetch()
        assert second.data_timestamp.ToNanoseconds() > first.data_timestamp.ToNanoseconds()
        assert [key.key_id for key in second.keys][:1] == [key.key_id for key in first.keys]
        clock.advance(DAY + 1)  # another version signs; the set is the same
        assert (await cluster.fetch()).data_timestamp == second.data_timestamp

    async def test_a_restart_tells_the_same(self, directory: Path) -> None:
        answers = []
        _, _, path = static_key(directory)
        clock = FakeClock()
        for number in range(2):
            async with cluster_in(directory, f'previous_keys = [{{ file = "{path}" }}]\n', clock) as cluster:
                if not number:
                    await cluster.create()
                    clock.advance(0.123456)
                    await cluster.rotate()
                clock.advance(60)
                answers.append(await cluster.fetch())
        assert answers[0] == answers[1]
        assert len(answers[0].keys) == 3


class TestStart:
    async def test_the_signer_may_come_later(self, directory: Path) -> None:
        clock = FakeClock()
        async with cluster_in(directory, clock=clock) as cluster:
            await cluster.create()
        async with FakeApiserver.dial(f"{directory}/run/kubernetes.sock") as channel:
            apiserver = FakeApiserver(channel, clock.now)
            starting = asyncio.ensure_future(apiserver.start())
            while channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                await channel.wait_for_state_change(channel.get_state())
            assert not starting.done()
            async with cluster_in(directory, clock=clock):
                await starting
                assert await apiserver.authenticate(await apiserver.token_request())

    async def test_the_flag_may_ask_for_less_and_not_for_more(self, cluster: Cluster) -> None:
        assert cluster.apiserver.max_expiration == DAY
        for flag, fine in ((3600, True), (int(DAY), True), (int(DAY) + 1, False)):
            another = FakeApiserver(cluster.channel, cluster.clock.now, max_expiration=flag)
            if fine:
                await another.start()
                assert another.max_expiration == flag
            else:
                with pytest.raises(FatalError, match="more than the signer supports"):
                    await another.start()

    async def test_no_token_outlives_the_publication_of_its_key(self, directory: Path) -> None:
        profile = (
            '[profiles.short]\njwt_types = ["JWT"]\nmax_jwt_lifetime = "{}"\nmax_expires_in = "1m"\nmax_created_ahead = "30s"\n'
        )
        async with cluster_in(directory, profile.format("2h")) as cluster:
            lifecycle = types_pb2.LifecyclePolicy(retention=Duration(seconds=7200))
            await cluster.create(profile="short", lifecycle=lifecycle)
            with structlog.testing.capture_logs() as logs:
                await cluster.apiserver.start()
                await cluster.apiserver.start()
            assert cluster.apiserver.max_expiration == 7200 - 30
            assert [entry["seconds"] for entry in logs if "live shorter than configured" in entry["event"]] == [7170]
            token = await cluster.apiserver.token_request(DAY)
            await cluster.rotate(now=True)
            cluster.clock.advance(7200 - 31)
            await cluster.apiserver.tick()
            assert await cluster.apiserver.authenticate(token)

    async def test_less_than_kube_apiserver_takes_is_refused(self, directory: Path) -> None:
        profile = '[profiles.short]\njwt_types = ["JWT"]\nmax_jwt_lifetime = "10m"\nmax_expires_in = "1m"\n'
        async with cluster_in(directory, profile) as cluster:
            await cluster.create(profile="short")
            found = await refused(cluster.stub.Metadata(pb.MetadataRequest()))
            assert (found.reason, "allow tokens of 570 s" in found.message) == ("KEY_STATE", True)


class TestPreviousKeys:
    async def test_live_tokens_survive_the_migration(self, directory: Path) -> None:
        private, kid, path = static_key(directory)
        async with cluster_in(directory, f'previous_keys = [{{ file = "{path}" }}]\n') as cluster:
            await cluster.create()
            await cluster.apiserver.start()
            assert kid in cluster.apiserver.discovery()
            assert await cluster.apiserver.authenticate(static_token(private, kid, START))
            another, _, _ = static_key(directory, "another")
            with pytest.raises(RefusedError, match="invalid bearer token"):
                await cluster.apiserver.authenticate(static_token(another, kid, START))  # the same kid, another key

    async def test_a_key_that_moved_in_is_there_once(self, directory: Path) -> None:
        private, kid, path = static_key(directory)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        async with cluster_in(directory, f'previous_keys = [{{ file = "{path}" }}]\n') as cluster:
            moved = spec(algorithm=types_pb2.ALGORITHM_RS256)
            await cluster.running.keys.ImportKey(keys_pb.ImportKeyRequest(spec=moved, pkcs8_pem=pem, kid=kid))
            assert [key.key_id for key in (await cluster.fetch()).keys] == [kid]
            await cluster.compromise()
            assert kid not in [key.key_id for key in (await cluster.fetch()).keys]  # listed or not, nobody trusts it

    async def test_a_kid_of_two_keys_is_refused(self, directory: Path) -> None:
        _, _, path = static_key(directory)
        async with cluster_in(directory, f'previous_keys = [{{ file = "{path}", kid = "accounts-2" }}]\n') as cluster:
            await cluster.create(kid_format=types_pb2.KID_FORMAT_NAME_VERSION)
            await cluster.apiserver.start()
            await cluster.rotate()
            assert "is that of another key" in (await refused(cluster.fetch())).message

    async def test_what_is_excluded_from_discovery_verifies_and_does_not_sign(self, cluster: Cluster, directory: Path) -> None:
        private, kid, path = static_key(directory)
        previous = f'previous_keys = [{{ file = "{path}" }}]\n'
        first = await cluster.fetch()
        cluster.reload(previous + f'exclude_from_oidc_discovery = ["{kid}", "of-nobody"]\n')
        cluster.clock.advance(300)
        await cluster.apiserver.tick()
        assert cluster.apiserver.discovery() == [first.keys[0].key_id]
        assert await cluster.apiserver.authenticate(static_token(private, kid, START))
        assert await cluster.apiserver.token_request()
        cluster.reload(f'exclude_from_oidc_discovery = ["{first.keys[0].key_id}"]\n')
        found = await cluster.refused()
        assert (found.reason, "it verifies and does not sign" in found.message) == ("KEY_STATE", True)

    async def test_a_reload_while_a_token_is_signed(
        self, cluster: Cluster, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kid, (_, _, path) = (await cluster.fetch()).keys[0].key_id, static_key(directory)
        runner = cluster.running.daemon.keyring.runner
        sections: list[str] = []

        class Reloading:
            def __init__(self, key: Any) -> None:
                self._runner = runner(key)

            async def sign(self, *arguments: Any) -> bytes:
                cluster.reload(sections[0])
                return await self._runner.sign(*arguments)

        monkeypatch.setattr(cluster.running.daemon.keyring, "runner", Reloading)
        sections[:] = [f'previous_keys = [{{ file = "{path}" }}]\n']  # which is nothing to a token
        assert await cluster.apiserver.token_request()
        for sections[:] in ([f'exclude_from_oidc_discovery = ["{kid}"]\n'], ['max_token_expiration = "600s"\n']):
            found = await cluster.refused()
            assert (found.reason, found.message) == (
                "KEY_STATE",
                "a reload changed [kubernetes] while this token was signed; ask for it again",
            )
            assert cluster.trail()[-1]["decision"] == "deny"
            cluster.reload("")

    async def test_a_reload_is_a_change_and_one_without_effect_is_none(self, cluster: Cluster, directory: Path) -> None:
        _, _, path = static_key(directory)
        stamps = []
        for sections in ("", "", f'previous_keys = [{{ file = "{path}", kid = "old" }}]\n'):
            cluster.reload(sections)
            stamps.append((await cluster.fetch()).data_timestamp.ToNanoseconds())
        static_key(directory)  # another key in the same file, under the same kid
        cluster.reload(f'previous_keys = [{{ file = "{path}", kid = "old" }}]\n')
        stamps.append((await cluster.fetch()).data_timestamp.ToNanoseconds())
        assert stamps[0] == stamps[1]
        assert len(set(stamps)) == 3
        assert max(stamps) // 1_000_000 == min(stamps) // 1_000_000

    async def test_a_file_that_is_no_good_keeps_the_daemon_from_starting(self, directory: Path) -> None:
        with pytest.raises(ConfigError, match=r"previous_keys\.0: cannot be read"):
            async with cluster_in(directory, f'previous_keys = [{{ file = "{directory}/none.pub" }}]\n'):
                pass
        assert not (directory / "state").exists()

    async def test_a_file_that_is_no_good_refuses_the_reload_as_a_whole(self, cluster: Cluster, directory: Path) -> None:
        with structlog.testing.capture_logs() as logs:
            cluster.reload(f'previous_keys = [{{ file = "{directory}/none.pub" }}]\n[log]\nlevel = "error"\n')
        assert [entry["problem"] for entry in logs if "problem" in entry] == [
            "kubernetes.previous_keys.0: cannot be read: No such file or directory"
        ]
        assert cluster.running.daemon.config.log.level == "info"


def certificate() -> bytes:
    private, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    built = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    return built.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)


def public(private: Any, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    return bytes(private.public_key().public_bytes(Encoding.PEM, form))


class TestFilesOfPreviousKeys:
    def rules(self, directory: Path, content: bytes, kid: str | None = None) -> Any:
        (directory / "keys.pem").write_bytes(content)
        previous = PreviousKeys(file=directory / "keys.pem", kid=kid)
        return Kubernetes(socket=Path("/run/k"), key="a", previous_keys=(previous,)).to_rules(300.0)

    def test_several_and_certificates(self, directory: Path) -> None:
        pkcs1 = public(rsa.generate_private_key(65537, 2048), PublicFormat.PKCS1)
        found = self.rules(directory, b"# of the old cluster\n" + static_key(directory)[2].read_bytes() + certificate() + pkcs1)
        assert len({key.kid for key in found.previous}) == 3
        assert all(key.kid == base64.urlsafe_b64encode(hashlib.sha256(key.pkix).digest()).decode()[:43] for key in found.previous)

    @pytest.mark.parametrize(
        ("content", "kid", "words"),
        [
            (b"", None, "no PEM public key or certificate"),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", None, "is no public key and no certificate"),
            (b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", None, "give its public half"),
            (public(ed25519.Ed25519PrivateKey.generate()), None, "neither RSA nor P-256"),
            (public(ec.generate_private_key(ec.SECP256K1())), None, "neither RSA nor P-256"),
            (certificate() + certificate(), "old", "it has 2 keys, and a kid names one"),
            (b"x" * (1024 * 1024 + 1), None, "more than 1 MiB"),
        ],
        ids=["empty", "broken", "private", "ed25519", "secp256k1", "two", "large"],
    )
    def test_what_is_refused(self, directory: Path, content: bytes, kid: str | None, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            self.rules(directory, content, kid)
