"""What is in a JWK Set, for how long that is so, and what it costs to ask for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf, nextafter
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from support import START, FakeClock, keyring, memory_backend, new_key

from keyd.core import jwks
from keyd.core.errors import KeyStateError, NotFoundError
from keyd.core.jwks import Document
from keyd.core.keyring import Keyring
from keyd.core.model import KeyVersion
from keyd.core.publication import Issuer, Publication, Rules
from keyd.core.runner import BackendRunner
from keyd.core.snapshot import KeyView, Snapshot, VersionView
from keyd.core.store import SqlStore
from keyd.core.timeline import Timeline, first

SHOP = Issuer("shop", frozenset({"keys.shop.example", "keys.shop.example:8443"}), ("shop-*",), "omit", 60.0)
RULES = Rules(issuers={"shop": SHOP})
DAY = 86400.0


def version(key: str, number: int, line: Timeline) -> KeyVersion:
    kid = f"{key}-{number}"
    return KeyVersion(key, number, kid, kid, json.dumps({"kty": "OKP", "crv": "Ed25519", "x": f"x{number}"}), "h", line)


def view(name: str, *lines: Timeline, **changes: object) -> KeyView:
    versions = (VersionView(version(name, number, line)) for number, line in enumerate(lines, 1))
    return KeyView(new_key(name, **changes), tuple(versions))


def snapshot(*views: KeyView) -> Snapshot:
    return Snapshot({view.key.name: view for view in views})


def publication(*views: KeyView, rules: Rules = RULES) -> tuple[Publication, SimpleNamespace]:
    """Return a publication, and the ring that it looks at, whose snapshot and clock the test sets."""
    ring = SimpleNamespace(snapshot=snapshot(*views), clock=FakeClock())
    return Publication(ring, rules), ring  # type: ignore[arg-type]


def kids(document: Document) -> list[str]:
    return [member["kid"] for member in json.loads(document.body)["keys"]]


@contextmanager
def rendering(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Tell whose parts are rendered meanwhile."""
    names: list[str] = []
    original = jwks.part

    def noted(view: KeyView, now: float, style: jwks.AlgStyle = "jose") -> jwks.Part:
        names.append(view.key.name)
        return original(view, now, style)

    with monkeypatch.context() as patch:
        patch.setattr(jwks, "part", noted)
        yield names


@pytest.fixture
async def ring(tmp_path: Path) -> AsyncIterator[Keyring]:
    store, runner = SqlStore(tmp_path / "keyd.db"), BackendRunner("mem", memory_backend())
    made = keyring(store, {"mem": runner}, FakeClock())
    await made.start()
    yield made
    store.close()
    runner.close()


class TestMaxAge:
    times = st.integers(0, 60).map(lambda step: START + step * 10.0)
    ends = st.one_of(times, st.just(inf))
    lines = st.builds(Timeline, st.just(START), times, times, ends, ends, ends, ends, ends)
    views = st.lists(st.lists(lines, max_size=4), min_size=1, max_size=3)

    @settings(max_examples=400, deadline=None)
    @given(views, st.integers(0, 6000), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8))
    def test_nothing_changes_within_it_and_something_does_after(
        self, lines: list[list[Timeline]], tenths: int, within: list[float]
    ) -> None:
        keys = snapshot(*(view(f"key-{number}", *own) for number, own in enumerate(lines)))
        now = START + tenths / 10

        def body(at: float) -> bytes | None:
            try:
                return jwks.render(keys, at, max_age=100).body
            except KeyStateError:
                return None

        try:
            found = jwks.render(keys, now, max_age=100)
        except KeyStateError:
            return
        last = nextafter(now + found.max_age, 0)
        for fraction in (*within, 1.0) if found.max_age else ():
            assert body(min(now + fraction * found.max_age, last)) == found.body
        if found.max_age < 100:
            # It is a change of this document that ends it, and no cache holds it for a second longer than it must.
            assert any(body(now + found.max_age + step / 10) != found.body for step in range(11))

    def test_what_does_not_alter_the_document_does_not_shorten_it(self) -> None:
        line = replace(first(START - DAY), deactivate_at=START - 5, sign_until=START + 30, unpublish_at=START + DAY)
        keys = snapshot(view("agent", line, first(START - 5)))
        assert jwks.render(keys, START, max_age=300).max_age == 300
        leaving = snapshot(view("agent", replace(line, unpublish_at=START + 40.5), first(START - 5)))
        assert jwks.render(leaving, START, max_age=300).max_age == 40

    def test_it_is_nothing_in_the_last_second(self) -> None:
        keys = snapshot(view("agent", replace(first(START), unpublish_at=START + 100)), view("other", first(START)))
        assert [jwks.render(keys, START + at, max_age=300).max_age for at in (0, 99, 99.5)] == [100, 1, 0]

    def test_another_keys_change_does_not_shorten_the_document_of_one(self) -> None:
        keys = snapshot(view("a", first(START)), view("b", replace(first(START), unpublish_at=START + 9)))
        assert [jwks.render(keys, START, max_age=300, name=name).max_age for name in ("a", "b", None)] == [300, 9, 9]

    async def test_a_version_made_ahead_of_time_comes_when_it_is_published(self, ring: Keyring) -> None:
        await ring.create(new_key("agent"))
        made = await ring.prepare("agent", START + 7 * DAY, newest=1)
        sets = Publication(ring, RULES)
        assert isinstance(ring.clock, FakeClock)
        early = sets.document()
        assert made.version.timeline.publish_at == START + 6 * DAY
        assert (len(kids(early)), early.max_age) == (1, 300)
        ring.clock.time = START + 6 * DAY - 20.5
        assert (sets.document().body, sets.document().max_age) == (early.body, 20)
        ring.clock.time = START + 6 * DAY
        assert len(kids(sets.document())) == 2
        assert kids(sets.document())[1] == made.version.kid  # the active one stays first until the new one is


class TestIssuers:
    def test_an_issuers_set_has_its_keys_its_style_and_its_age(self) -> None:
        sets, _ = publication(view("agent", first(START)), view("shop-1", first(START)))
        document = sets.document(issuer=SHOP)
        assert (kids(document), document.max_age, document.keys) == (["shop-1-1"], 60, 1)
        assert "alg" not in json.loads(document.body)["keys"][0]
        assert sets.document(key="shop-1", issuer=SHOP).body == document.body
        assert kids(sets.document()) == ["agent-1", "shop-1-1"]
        assert json.loads(sets.document(key="shop-1").body)["keys"][0]["alg"] == "Ed25519"

    def test_a_key_of_nobody_and_one_of_somebody_else_are_not_there(self) -> None:
        sets, _ = publication(view("agent", first(START)))
        for name in ("agent", "nobody"):
            with pytest.raises(NotFoundError):
                sets.document(key=name, issuer=SHOP)
        with pytest.raises(NotFoundError, match="no issuer 'x'"):
            sets.issuer("x")
        assert sets.issuer("shop") is SHOP

    def test_an_issuers_set_is_never_empty(self) -> None:
        sets, ring = publication()
        assert sets.document().body == b'{"keys":[]}'  # of a daemon that has no keys
        with pytest.raises(KeyStateError, match="issuer 'shop'"):
            sets.document(issuer=SHOP)
        ring.snapshot = snapshot(view("agent", first(START)), view("shop-1", first(START), publish=False))
        with pytest.raises(KeyStateError, match="issuer 'shop'"):
            sets.document(issuer=SHOP)

    def test_a_host_without_port_is_meant_whatever_the_port(self) -> None:
        other = replace(SHOP, name="other", hosts=frozenset({"a.example", "[2001:db8::1]", "keys.shop.example:9"}))
        rules = Rules(issuers={"shop": SHOP, "other": other})
        assert rules.at("keys.shop.example") is rules.at("keys.shop.example", "443") is SHOP
        assert rules.at("keys.shop.example", "9") is rules.at("a.example", "1") is rules.at("[2001:db8::1]", "1") is other
        assert rules.at("a.example.evil") is rules.at("") is rules.at("shop.example") is None


class TestCache:
    def test_a_flood_renders_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, _ = publication(*(view(f"key-{number}", first(START)) for number in range(50)))
        with rendering(monkeypatch) as rendered:
            bodies = {id(sets.document().body) for _ in range(100)}
            assert (len(rendered), len(bodies)) == (50, 1)
            for _ in range(100):
                sets.document(key="key-7")
            assert len(rendered) == 50
            for name in (f"no-{number}" for number in range(100)):
                with pytest.raises(NotFoundError):
                    sets.document(key=name)
        assert len(sets._sets) == 1
        assert len(sets._parts) == 50  # what is asked for adds nothing

    def test_a_change_renders_what_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, ring = publication(*(view(f"key-{number}", first(START)) for number in range(50)))
        before = sets.document()
        with rendering(monkeypatch) as rendered:
            ring.snapshot = ring.snapshot.with_keys(view("key-7", first(START), first(START)))
            assert kids(sets.document()).count("key-7-2") == 1
            assert sets.document().etag != before.etag
        assert rendered == ["key-7"]

    def test_whose_a_key_is_is_found_once_until_there_is_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For a change costs every issuer otherwise, each time that its size is asked for."""
        sets, ring = publication(*(view(f"shop-{number}", first(START)) for number in range(50)))
        matched: list[str] = []
        original = Issuer.has
        monkeypatch.setattr(Issuer, "has", lambda issuer, key: matched.append(key) or original(issuer, key))
        for number in (1, 2):
            ring.snapshot = ring.snapshot.with_keys(view(f"shop-{number}", first(START), first(START)))
            assert sets.sizes()["shop"][0] == 50 + number
        assert len(matched) == 50
        ring.snapshot = ring.snapshot.with_keys(view("shop-new", first(START)))
        assert sets.document(issuer=SHOP).keys == 53
        sets.rules = Rules(issuers={"shop": replace(SHOP, keys=("shop-new",))})
        assert sets.sizes()["shop"][0] == 1

    def test_the_set_of_an_issuer_is_kept_while_only_keys_of_others_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, ring = publication(view("shop-1", first(START)), view("a", first(START)))
        made: list[object] = []
        original = jwks.body
        monkeypatch.setattr(jwks, "body", lambda parts: made.append(parts) or original(parts))
        before = sets.document(issuer=SHOP)
        ring.snapshot = ring.snapshot.with_keys(view("a", first(START), first(START)), view("b", first(START)))
        assert sets.document(issuer=SHOP).body is before.body
        assert len(made) == 1
        ring.snapshot = ring.snapshot.with_keys(view("shop-1", first(START), first(START)))
        assert sets.document(issuer=SHOP).keys == 2
        ring.snapshot = ring.snapshot.with_keys(view("shop-0", first(START)))
        assert [kid for kid in kids(sets.document(issuer=SHOP)) if kid.startswith("shop-0")] == ["shop-0-1"]
        ring.snapshot = Snapshot({name: each for name, each in ring.snapshot.keys.items() if name != "shop-1"})
        assert sets.document(issuer=SHOP).keys == 1  # the database lost the other

    def test_the_clock_renders_what_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, ring = publication(view("a", replace(first(START), unpublish_at=START + 60)), view("b", first(START)))
        early = sets.document()
        with rendering(monkeypatch) as rendered:
            ring.clock.advance(59.9)
            assert sets.document().body is early.body
            ring.clock.advance(0.1)
            assert kids(sets.document()) == ["b-1"]
            ring.clock.advance(-1)  # set back
            assert sets.document().body == early.body
        assert rendered == ["a", "a"]

    def test_a_set_that_is_empty_is_kept_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, _ = publication(view("a", first(START), publish=False))
        with rendering(monkeypatch) as rendered:
            for _ in range(10):
                with pytest.raises(KeyStateError):
                    sets.document()
        assert rendered == ["a"]

    def test_a_reload_forgets(self) -> None:
        sets, _ = publication(view("a", first(START)))
        before = sets.document()
        sets.rules = Rules(max_age=10, style="omit")
        assert (sets.document().body != before.body, sets.document().max_age) == (True, 10)

    @settings(max_examples=200, deadline=None)
    @given(TestMaxAge.views, st.lists(st.integers(0, 700), min_size=1, max_size=6))
    def test_what_is_kept_is_what_would_be_rendered(self, lines: list[list[Timeline]], times: list[int]) -> None:
        """At any times, in any order, as a clock that is set anew has them."""
        views = [view(f"key-{number}", *own) for number, own in enumerate(lines)]
        sets, ring = publication(*views)
        for at in times:
            ring.clock.time = START + at
            try:
                wanted: Document | None = jwks.render(ring.snapshot, ring.clock.time, max_age=300)
            except KeyStateError:
                wanted = None
            if wanted is None:
                with pytest.raises(KeyStateError):
                    sets.document()
            else:
                assert sets.document() == wanted


async def test_two_daemons_on_one_database_serve_the_same(tmp_path: Path) -> None:
    clock, runner = FakeClock(), BackendRunner("mem", memory_backend())
    stores = [SqlStore(tmp_path / "keyd.db") for _ in range(2)]
    rings = [keyring(store, {"mem": runner}, clock) for store in stores]
    for ring in rings:
        await ring.start()
    first_of, second_of = (Publication(ring, RULES) for ring in rings)
    for name in ("b", "shop-2", "a", "shop-1"):
        await rings[0 if name < "m" else 1].create(new_key(name))
        for ring in rings:
            await ring.refresh()
    await rings[0].rotate("shop-2")
    await rings[1].prepare("a", START + 2 * DAY, newest=1)
    await rings[1].rotate("b", at_once=True)
    seen = set()
    for step in (0, 0.5, DAY - 300, DAY, DAY + 299.5, 2 * DAY, 3 * DAY + 301, 30 * DAY):
        clock.time = START + step
        for ring in rings:
            await ring.refresh()
        for issuer in (None, SHOP):
            assert first_of.document(issuer=issuer) == second_of.document(issuer=issuer)
        assert first_of.document(key="a") == second_of.document(key="a")
        seen.add(first_of.document().etag)
    assert len(seen) > 3
    for store in stores:
        store.close()
    runner.close()


class TestSizes:
    def test_a_set_of_too_many_keys_is_not_made_and_others_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, ring = publication(*(view(f"shop-{number}", first(START)) for number in range(3)), view("a", first(START)))
        sets.rules = replace(RULES, max_keys=3)
        with structlog.testing.capture_logs() as logged, rendering(monkeypatch) as rendered:
            for _ in range(3):
                with pytest.raises(KeyStateError, match=r"more than 3 keys \(jwks.max_keys\)"):
                    sets.document()
            assert sets.sizes()[""] == (4, 0)
            assert "a" not in rendered
            assert sets.document(issuer=SHOP).keys == 3
            assert sets.document(key="a").keys == 1
            ring.snapshot = ring.snapshot.with_keys(view("shop-new", first(START)))
            with pytest.raises(KeyStateError, match="the set of issuer 'shop' would have more than 3 keys"):
                sets.document(issuer=SHOP)
        assert [entry["issuer"] for entry in logged] == ["(all keys)", "shop"]
        sets.rules = replace(RULES, max_keys=5)
        assert sets.document().keys == 5

    def test_what_no_verifier_reads_whole_is_said_once_for_each_set(self) -> None:
        sets, _ = publication(*(view(f"shop-{number}", first(START)) for number in range(11)), view("a", first(START)))
        assert sets.sizes() == {"": (12, len(sets.document().body)), "shop": (11, len(sets.document(issuer=SHOP).body))}
        with structlog.testing.capture_logs() as logged:
            sets.warn_of_size()
        assert [(entry["log_level"], entry["issuer"], entry["keys"]) for entry in logged] == [
            ("warning", "(all keys)", 12),
            ("warning", "shop", 11),
        ]

    def test_ten_small_keys_are_nothing_to_say(self) -> None:
        sets, _ = publication(*(view(f"shop-{number}", first(START)) for number in range(10)))
        with structlog.testing.capture_logs() as logged:
            sets.warn_of_size()
        assert logged == []

    def test_one_large_key_is(self) -> None:
        large = view("a", first(START))
        record = replace(large.versions[0].record, public_jwk=json.dumps({"kty": "RSA", "n": "n" * 70_000}))
        sets, _ = publication(KeyView(large.key, (VersionView(record),)))
        with structlog.testing.capture_logs() as logged:
            sets.warn_of_size()
        assert [entry["issuer"] for entry in logged] == ["(all keys)"]
