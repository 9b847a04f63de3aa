"""A database of each older schema, with keys in every state: the daemon starts on it, and what signed before signs."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from older_databases import IN_GRACE, LEFT_OVER, SCHEMAS, STATES, lay_out
from service_conftest import Running, refused, running_in
from support import START, FakeClock, signature_base

from backends.encoding import verify_raw
from keyd.core.jwk import to_public_key
from keyd.core.model import Purpose
from keyd.core.store import migrate
from keyd.v1 import key_service_pb2 as keys_pb
from keyd.v1 import signing_service_pb2 as pb

DAY = 86400.0


@pytest.fixture(params=SCHEMAS)
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="keyd-t-"))
    lay_out(request.param, made)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def migrated(directory: Path) -> AsyncIterator[Running]:
    async with running_in(directory, FakeClock()) as daemon:
        yield daemon


def expected(directory: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(directory / "state/keyd.db")) as database:
        names = {name for (name,) in database.execute("SELECT name FROM keys")}
    return {name: states for name, states in STATES.items() if name in names}


def states(running: Running) -> dict[str, list[str]]:
    now = running.clock.now()
    views = running.daemon.keyring.snapshot.keys.values()
    return {view.key.name: [version.record.timeline.state(now).value for version in view.versions] for view in views}


def test_there_is_one_of_each_older_schema() -> None:
    assert set(SCHEMAS) >= migrate.known() - {max(migrate.known())}


async def test_every_version_is_in_the_state_that_it_was_in(migrated: Running) -> None:
    assert states(migrated) == expected(migrated.directory)
    assert len(states(migrated)) >= 11


async def test_each_key_that_may_sign_signs_and_no_other_does(migrated: Running) -> None:
    for view in list(migrated.daemon.keyring.snapshot.keys.values()):
        if view.key.purposes != {Purpose.HTTP}:
            continue
        for version in view.versions:
            record = version.record
            base = signature_base(START, keyid=record.kid)
            call = migrated.signing.Sign(pb.SignRequest(key=record.key, signature_base=base))
            signs = record.timeline.state(START).value == "active" or (record.key, record.version) in IN_GRACE
            if not signs or record.key == "disabled":
                assert (await refused(call)).reason == "KEY_STATE", record
                continue
            response = await call
            assert response.kid == record.kid
            verify_raw(to_public_key(record.public_jwk), view.key.algorithm, response.signature, base)


async def test_the_jwk_set_is_what_the_states_say(migrated: Running) -> None:
    published = {jwk["kid"] for jwk in json.loads((await migrated.signing.GetJWKS(pb.GetJWKSRequest())).document)["keys"]}
    views = migrated.daemon.keyring.snapshot.keys
    out = {("unpublished", 1), ("compromised", 1), ("compromised-waiting", 2), ("destroyed", 1), ("being-destroyed", 1)}
    versions = [version.record for view in views.values() if view.key.publish for version in view.versions]
    assert published == {version.kid for version in versions if (version.key, version.version) not in out}


async def test_nothing_rotates_or_is_destroyed_by_itself(migrated: Running) -> None:
    for name in states(migrated):
        lifecycle = (await migrated.keys.GetKey(keys_pb.KeyServiceGetKeyRequest(name=name))).key.lifecycle
        assert not lifecycle.HasField("rotation_period")
        assert not lifecycle.HasField("destroy_after")
    before = {name: len(versions) for name, versions in states(migrated).items()}
    migrated.clock.advance(500 * DAY)
    await migrated.daemon.monitor.look("file")
    assert {name: len(versions) for name, versions in states(migrated).items()} == before


async def test_what_was_left_half_done_is_mended_once(migrated: Running) -> None:
    files = {path.name for path in migrated.directory.glob("state/backends/file/keys/*.key")}
    views = migrated.daemon.keyring.snapshot.keys.values()
    assert files == {str(version.record.handle) for view in views for version in view.versions if version.record.handle}
    assert files.isdisjoint(LEFT_OVER)
    response = await migrated.keys.RotateKey(keys_pb.RotateKeyRequest(name="active", now=True))
    assert response.version == 3, "the number of the version that was never recorded is not given out again"
    assert response.key.versions[-1].kid == "active-3"


async def test_every_public_key_is_in_the_archive(migrated: Running) -> None:
    with closing(sqlite3.connect(migrated.directory / "state/keyd.db")) as database:
        archived = {(key, version): jwk for key, version, jwk in database.execute("SELECT key, version, public_jwk FROM archive")}
    views = migrated.daemon.keyring.snapshot.keys.values()
    on_record = {(v.record.key, v.record.version): v.record.public_jwk for view in views for v in view.versions}
    assert archived == on_record


async def test_the_trail_goes_on_behind_the_checkpoints(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "state/keyd.db")) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        signed = database.execute("SELECT max(seq) FROM audit_checkpoints").fetchone()[0] if "audit_checkpoints" in tables else 0
    async with running_in(directory, FakeClock()) as daemon:
        assert daemon.daemon.audit is not None
        assert daemon.daemon.audit.trail.head.seq > signed
