"""The key directory of Web Bot Auth: what it lists, who signs it and for how long, and what an outage costs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography.exceptions import InvalidSignature
from guarded import RecordedAudit
from stores import add
from support import START, FakeClock, keyring, memory_backend, new_key

from backends import errors as backend_errors
from backends.api import Algorithm
from backends.encoding import verify_raw
from keyd.core import directory, jwk
from keyd.core.directories import Answer, Directories
from keyd.core.directory_signer import DirectorySigner
from keyd.core.errors import ClockError, KeyStateError, NotFoundError
from keyd.core.guard import Guard
from keyd.core.keyring import Keyring
from keyd.core.model import KidFormat, Purpose
from keyd.core.policy import Policy
from keyd.core.profile import BUILT_IN
from keyd.core.publication import Issuer, Publication, Rules
from keyd.core.runner import BackendRunner
from keyd.core.signing import Signer
from keyd.core.snapshot import VersionView
from keyd.core.store import SqlStore

HOST, OTHER = "agent.example", "agent.example:8443"
BOT = Issuer("bot", frozenset({HOST, OTHER}), ("bot*",), "jose", 300.0, directory="cloudflare")
BOTH = frozenset({Purpose.HTTP, Purpose.DIRECTORY})
HOUR, DAY = 3600.0, 86400.0
VECTORS = Path(__file__).parents[1] / "vectors"


class Shaky:
    """The memory backend, counted, and away when the test says so."""

    def __init__(self) -> None:
        self.backend = memory_backend()
        self.signed = 0
        self.error: Exception | None = None
        self.original = self.backend.sign
        self.backend.sign = self.sign  # type: ignore[method-assign]

    def sign(self, *args: Any) -> bytes:
        self.signed += 1
        if self.error is not None:
            raise self.error
        return self.original(*args)


@dataclass
class Place:
    clock: FakeClock
    ring: Keyring
    store: Shaky
    runner: BackendRunner
    audit: RecordedAudit
    publication: Publication
    directories: Directories
    signer: Signer

    async def sign(self) -> None:
        """Make all signatures that are due."""
        while await self.directories.step("mem") <= self.clock.now():
            pass

    async def create(self, name: str = "bot", **changes: Any) -> str:
        key = new_key(name, **{"purposes": BOTH, "profile": "web-bot-auth", **changes})
        return (await self.ring.create(key)).version.thumbprint

    def form(self, form: str) -> None:
        self.publication.rules = Rules(issuers={"bot": replace(BOT, directory=form)})  # type: ignore[arg-type]

    def signers(self, authority: str = HOST) -> set[str]:
        return set(check(self.directories.answer(*_split(authority)), authority, self.clock.now()))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock, audit, shaky = FakeClock(), RecordedAudit(), Shaky()
    store = SqlStore(tmp_path / "keyd.db")
    runner = BackendRunner("mem", shaky.backend)
    ring = keyring(store, {"mem": runner}, clock)
    await ring.start()
    guard = Guard(Policy(), clock, audit)
    publication = Publication(ring, Rules(issuers={"bot": BOT}))
    directories = Directories(publication, ring, DirectorySigner(ring, guard, lambda: None))
    yield Place(clock, ring, shaky, runner, audit, publication, directories, Signer(ring, BUILT_IN, guard))
    runner.close()
    store.close()


def _split(authority: str) -> tuple[str, str]:
    host, _, port = authority.partition(":")
    return host, port


def check(answer: Answer, authority: str, now: float) -> list[str]:
    """Verify each signature as a verifier does, from what goes out; return the thumbprints that signed."""
    fields, found = dict(answer.fields), []
    keys = {member["kid"]: member for member in json.loads(answer.body)["keys"]}
    inputs = re.findall(r"(binding\d+)=(\((.*?)\)[^,]*)(?:, |$)", fields.get("Signature-Input", ""))
    octets = dict(re.findall(r"(binding\d+)=:([^:]*):", fields.get("Signature", "")))
    assert {label for label, _, _ in inputs} == octets.keys()
    for label, parameters, listed in inputs:
        values = dict(re.findall(r';([a-z]+)="?([^";]*)"?', parameters.partition(")")[2]))
        lines = [f'"@authority";req: {authority}']
        if answer.content_digest:
            lines.append(f'"content-digest": {answer.content_digest}')
            assert answer.content_digest == f"sha-256=:{base64.b64encode(hashlib.sha256(answer.body).digest()).decode()}:"
        assert [line.partition(": ")[0] for line in lines] == listed.split(" ")
        base = "\n".join([*lines, f'"@signature-params": {parameters}'])
        member = keys[values["keyid"]]
        public = {name: member[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in member}
        algorithm = next(a for a in Algorithm if a.value == {"OKP": "Ed25519", "EC": "ES256", "RSA": "PS512"}[member["kty"]])
        verify_raw(jwk.to_public_key(json.dumps(public)), algorithm, base64.b64decode(octets[label]), base.encode())
        assert int(values["created"]) <= now < int(values["expires"]) <= int(values["created"]) + DAY
        assert (values["tag"], values.get("alg")) == (
            "http-message-signatures-directory",
            None if answer.content_digest else algorithm.http_name,
        )
        found.append(values["keyid"])
    return found


class TestDocument:
    async def test_what_cloudflare_takes(self, place: Place) -> None:
        thumbprint = await place.create(kid_format=KidFormat.NAME_VERSION)
        await place.sign()
        answer = place.directories.answer(HOST, "")
        (member,) = json.loads(answer.body)["keys"]
        assert member.keys() == {"kty", "crv", "x", "kid", "use"}
        assert (member["kid"], answer.content_digest, answer.max_age) == (thumbprint, None, 300)
        assert place.signers() == {thumbprint}
        with pytest.raises(InvalidSignature):
            check(answer, "evil.example", START)

    async def test_what_the_draft_has(self, place: Place) -> None:
        place.form("draft")
        algorithms = (Algorithm.ED25519, Algorithm.ES256, Algorithm.PS512)
        thumbprints = {await place.create(f"bot-{a.value}", algorithm=a) for a in algorithms}
        await place.sign()
        answer = place.directories.answer(HOST, "")
        assert {member["alg"] for member in json.loads(answer.body)["keys"]} == {a.http_name for a in algorithms}
        assert place.signers() == thumbprints
        with pytest.raises(AssertionError):
            check(replace(answer, body=answer.body.replace(b"sig", b"enc")), HOST, START)

    async def test_keys_for_anything_else_are_not_in_it(self, place: Place) -> None:
        thumbprint = await place.create()
        await place.create("bot-issuer", purposes=frozenset({Purpose.JWT}), profile="rfc9421")
        await place.create("bot-raw", purposes=frozenset({Purpose.RAW}), profile="rfc9421")
        await place.create("bot-hidden", publish=False)
        await place.create("shop")
        await place.sign()
        answer = place.directories.answer(HOST, "")
        assert [member["kid"] for member in json.loads(answer.body)["keys"]] == [thumbprint]
        assert place.signers() == {thumbprint}

    async def test_only_at_the_very_authorities_that_are_configured(self, place: Place) -> None:
        thumbprint = await place.create()
        await place.sign()
        assert place.signers(HOST) == place.signers(OTHER) == {thumbprint}
        assert place.directories.answer(HOST, "443").fields == place.directories.answer(HOST, "").fields
        assert place.directories.answer(HOST, "").fields != place.directories.answer(*_split(OTHER)).fields
        for host, port in ((HOST, "8470"), ("evil.example", ""), ("", "")):
            with pytest.raises(NotFoundError):
                place.directories.answer(host, port)
        place.form("off")
        with pytest.raises(NotFoundError):
            place.directories.answer(HOST, "")

    async def test_never_empty(self, place: Place) -> None:
        with pytest.raises(KeyStateError, match="lists no key"):
            place.directories.answer(HOST, "")

    async def test_vectors(self) -> None:
        for vector in json.loads((VECTORS / "web_bot_auth_signatures.json").read_text())["directories"][:1]:
            _, parameters = directory.signature_base(
                vector["authority"],
                "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U",
                Algorithm.ED25519,
                created=vector["created"],
                expires=vector["expires"],
                content_digest=vector["content_digest"],
            )
            assert parameters == vector["signature_params"]


class TestWhoSigns:
    async def test_before_during_and_after_a_rotation(self, place: Place) -> None:
        old = await place.create()
        await place.sign()
        new = (await place.ring.rotate("bot")).version
        await place.sign()
        assert place.signers() == {old, new.thumbprint}  # published, and may not sign requests yet
        for moment in (new.timeline.activate_at + 1, new.timeline.activate_at + HOUR):
            place.clock.time = moment
            await place.sign()
            assert place.signers() == {old, new.thumbprint}
        ends = place.ring.snapshot.get("bot").version(1).record.timeline.unpublish_at
        members = {m["kid"]: m for m in json.loads(place.directories.answer(HOST, "").body)["keys"]}
        assert (members[old]["exp"], members[new.thumbprint].get("exp")) == (int(ends), None)
        place.clock.time = ends - 1000
        await place.sign()
        assert place.signers() == {old, new.thumbprint}
        assert all(
            int(value) <= ends
            for value in re.findall(r"expires=(\d+);keyid=\"" + old, str(place.directories.answer(HOST, "").fields))
        )
        place.clock.time = ends
        await place.sign()
        assert place.signers() == {new.thumbprint}

    async def test_a_compromised_version_is_gone_at_once(self, place: Place) -> None:
        old = await place.create()
        await place.ring.rotate("bot", at_once=True)
        await place.sign()
        assert old in place.signers()
        await place.ring.compromise("bot", 1, "stolen")
        assert old not in place.signers()
        assert old not in place.directories.answer(HOST, "").body.decode()
        await place.sign()
        assert not any(slot[1] == old for slot in place.directories._signatures)

    async def test_a_disabled_key_is_listed_and_signs_nothing(self, place: Place) -> None:
        thumbprint = await place.create()
        await place.sign()
        await place.ring.set_enabled("bot", False)
        assert (place.signers(), thumbprint in place.directories.answer(HOST, "").body.decode()) == (set(), True)
        signed = place.store.signed
        await place.sign()
        assert place.store.signed == signed
        await place.ring.set_enabled("bot", True)
        await place.sign()
        assert place.signers() == {thumbprint}

    async def test_a_key_without_the_purpose_is_listed_unsigned_and_told_of_once(self, place: Place) -> None:
        signing = await place.create()
        await place.create("bot-2", purposes=frozenset({Purpose.HTTP}))
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await place.sign()
        assert place.signers() == {signing}
        assert [(entry["key"], entry["issuer"]) for entry in logs if "may not sign it" in entry["event"]] == [("bot-2", "bot")]
        assert place.directories.figures()["bot"].unsigned == 1

    async def test_a_signature_whose_key_is_stopped_meanwhile_is_withheld(self, place: Place) -> None:
        await place.create()
        view, original = place.ring.snapshot.get("bot"), place.runner.sign

        async def stopping(*args: Any) -> bytes:
            signature = await original(*args)
            await place.ring.set_enabled("bot", False)
            return signature

        place.runner.sign = stopping  # type: ignore[method-assign]
        await place.directories.step("mem")
        assert place.directories._signatures == {}
        assert [d.reason for d in place.audit.decisions] == ["KEY_STATE"], "at the other authority it is not asked to"
        assert view.key.disabled_at is None

    async def test_what_is_stopped_while_another_signs_is_not_asked_to(self, place: Place) -> None:
        await place.create()
        await place.create("bot-2")
        asked, original = [], place.runner.sign

        async def sign(version: VersionView, *args: Any) -> bytes:
            asked.append(version.record.key)
            if len(asked) == 1:
                await place.ring.compromise("bot-2", 1, "stolen")
            return await original(version, *args)

        place.runner.sign = sign  # type: ignore[method-assign]
        await place.sign()
        assert (asked[0], len(asked)) == ("bot", 4)
        assert asked.count("bot-2") == 2, "its successor, at two authorities"
        assert place.directories.failed["bot"] == 0
        assert [d.reason for d in place.audit.decisions] == [None] * 4

    async def test_an_issuer_that_goes_while_keys_sign_has_no_more_signed(self, place: Place) -> None:
        await place.create()
        original = place.runner.sign

        async def sign(*args: Any) -> bytes:
            place.form("off")
            return await original(*args)

        place.runner.sign = sign  # type: ignore[method-assign]
        await place.sign()
        assert place.directories.made["bot"] == 1
        assert place.directories._signatures == {}


class TestKeeping:
    async def test_a_flood_costs_no_operation(self, place: Place) -> None:
        await place.create()
        await place.sign()
        signed = place.store.signed
        for number in range(200):
            place.directories.answer(HOST, "")
            with pytest.raises(NotFoundError):
                place.directories.answer(HOST, str(10000 + number))
            with pytest.raises(NotFoundError):
                place.directories.answer(f"h{number}.example", "")
        assert place.store.signed == signed == 3  # the probe of the new key, and one for each authority
        assert len(place.directories._answers) == 1

    async def test_renewed_at_half_of_its_time(self, place: Place) -> None:
        await place.create()
        await place.sign()
        before = place.directories.answer(HOST, "").fields
        place.clock.advance(DAY / 2 - 60)
        await place.sign()
        assert place.directories.answer(HOST, "").fields == before
        place.clock.advance(120)
        await place.sign()
        assert place.directories.answer(HOST, "").fields != before
        assert place.signers()

    async def test_an_outage_of_hours_costs_nothing(self, place: Place) -> None:
        thumbprint = await place.create()
        await place.sign()
        place.store.error = backend_errors.BackendUnavailableError("gone")
        while not place.runner.breaker.failed("gone"):
            pass
        signed = place.store.signed
        for _ in range(23):
            place.clock.advance(HOUR)
            await place.directories.step("mem")
            assert place.signers() == {thumbprint}
        assert place.store.signed == signed  # nobody asks a backend that is known to be away
        place.clock.advance(HOUR - 40)
        assert 0 < place.directories.answer(HOST, "").max_age <= 30  # no cache keeps it past the end of the signature
        place.clock.advance(40)
        with pytest.raises(KeyStateError, match="could sign it"):
            place.directories.answer(HOST, "")

    async def test_one_that_cannot_be_had_leaves_its_key_unsigned(self, place: Place) -> None:
        good = await place.create()
        await place.sign()
        await place.create("bot-2")
        place.store.error = backend_errors.BackendAccessError("no permission")
        with structlog.testing.capture_logs() as logs:
            await place.directories.step("mem")
        told = [entry for entry in logs if entry["event"] == "a key could not sign its key directory"]
        assert [(e["log_level"], e["key"], e["authority"], e["seconds_left"]) for e in told] == [
            ("error", "bot-2", HOST, 0),
            ("error", "bot-2", OTHER, 0),
        ]
        assert place.signers() == {good}
        answer = place.directories.answer(HOST, "")
        assert (len(json.loads(answer.body)["keys"]), answer.max_age, answer.pending) == (2, 10, False)
        assert (place.directories.failed["bot"], place.directories.figures()["bot"].unsigned) == (2, 1)
        signed = place.store.signed
        await place.directories.step("mem")
        assert place.store.signed == signed  # not before a pause
        place.store.error = None
        place.clock.advance(10)
        await place.sign()
        assert len(place.signers()) == 2

    async def test_nothing_signed_is_no_answer(self, place: Place) -> None:
        await place.create()
        place.store.error = backend_errors.BackendAccessError("no permission")
        await place.directories.step("mem")
        with pytest.raises(KeyStateError, match="could sign it"):
            place.directories.answer(HOST, "")

    async def test_a_version_signs_before_it_is_published(self, place: Place) -> None:
        """So that a store may be away at that moment. Where the document is covered, it cannot."""
        await place.create()
        made = await place.ring.prepare("bot", START + 10 * DAY, newest=1)
        at = made.version.timeline.publish_at
        assert at > START + HOUR
        for form in ("cloudflare", "draft"):
            place.form(form)
            place.clock.time = at - HOUR
            await place.sign()
            assert made.version.thumbprint not in place.directories.answer(HOST, "").body.decode()
            place.clock.time = at
            if form == "cloudflare":
                assert made.version.thumbprint in place.signers()
            else:
                with pytest.raises(KeyStateError):
                    place.directories.answer(HOST, "")
                await place.sign()
                assert made.version.thumbprint in place.signers()

    async def test_a_changed_document_needs_others_only_where_it_is_covered(self, place: Place) -> None:
        await place.create()
        for form, made in (("cloudflare", 2), ("draft", 6)):  # at two authorities: of the new key, of three keys
            place.form(form)
            await place.sign()
            before = place.directories.made["bot"]
            await place.create(f"bot-{form}")
            await place.sign()
            assert place.directories.made["bot"] - before == made

    async def test_a_clock_that_is_set_back_makes_them_anew(self, place: Place) -> None:
        thumbprint = await place.create()
        place.clock.advance(5 * HOUR)
        await place.sign()
        place.clock.advance(-HOUR)
        with pytest.raises(KeyStateError):
            place.directories.answer(HOST, "")
        await place.sign()
        assert place.signers() == {thumbprint}

    async def test_a_request_waits_for_the_first_signature_and_not_for_a_failure(self, place: Place) -> None:
        thumbprint = await place.create()
        waiting = asyncio.create_task(place.directories.settled(HOST, "", 20))
        await asyncio.sleep(0)
        assert not waiting.done()
        await place.sign()
        await asyncio.wait_for(waiting, 5)
        assert place.signers() == {thumbprint}
        await place.create("bot-2")
        while not place.runner.breaker.failed("gone"):
            pass
        await place.directories.step("mem")
        await asyncio.wait_for(place.directories.settled(HOST, "", 20), 5)

    async def test_nobody_waits_for_a_key_whose_backend_is_not_configured(self, place: Place) -> None:
        add(place.ring._store, new_key("bot-gone", backend="gone", purposes=BOTH, profile="web-bot-auth"))
        await place.ring.refresh()
        with structlog.testing.capture_logs() as logs:
            await place.sign()
            await place.sign()
        assert [(entry["log_level"], entry["key"], entry["backend"]) for entry in logs] == [("error", "bot-gone", "gone")]
        await asyncio.wait_for(place.directories.settled(HOST, "", 20), 5)
        with pytest.raises(KeyStateError, match="could sign it"):
            place.directories.answer(HOST, "")
        thumbprint = await place.create()
        await place.sign()
        await asyncio.wait_for(place.directories.settled(HOST, "", 20), 5)
        assert (place.signers(), place.directories.answer(HOST, "").max_age) == ({thumbprint}, 10)

    async def test_what_is_kept_goes_when_the_configuration_does(self, place: Place) -> None:
        await place.create()
        await place.sign()
        place.directories.answer(HOST, "")
        place.form("off")
        await place.directories.step("mem")
        kept = place.directories
        assert (kept._signatures, kept._answers, kept._documents, kept.figures()) == ({}, {}, {}, {})


class TestRecord:
    async def test_each_signature_is_on_record_as_keyds_own(self, place: Place) -> None:
        await place.create()
        await place.sign()
        found = [(d.operation, d.purpose, d.key, d.version, d.authority, d.reason, d.grant) for d in place.audit.decisions]
        assert sorted(found, key=str) == [("sign", "directory", "bot", 1, host, None, None) for host in (HOST, OTHER)]
        assert {d.detail for d in place.audit.decisions} == {"for the key directory of issuer bot, by keyd itself"}
        assert all(d.digest is not None and d.created == int(START) - 10 for d in place.audit.decisions)

    async def test_no_record_no_signature(self, place: Place) -> None:
        await place.create()
        place.audit.failing = True
        await place.directories.step("mem")
        assert place.directories._signatures == {}
        place.audit.failing = False
        place.clock.advance(10)
        await place.sign()
        assert place.signers()

    async def test_a_clock_in_doubt_signs_nothing(self, place: Place) -> None:
        def doubt() -> None:
            raise ClockError("off by an hour")

        await place.create()
        place.directories._signer._check_clock = doubt
        await place.directories.step("mem")
        assert place.directories._signatures == {}
        assert {d.reason for d in place.audit.decisions} == {"CLOCK"}
