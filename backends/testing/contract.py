"""What every backend promises while its store works."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends import errors
from backends.api import Algorithm, Backend, Exportable, Importer, PublicKey
from backends.testing.checks import (
    ALGORITHMS,
    MESSAGE,
    UNFIT,
    assert_rejected,
    cheapest,
    check,
    closing,
    declared,
    each_algorithm,
    listed,
    make_key,
    spki,
)
from backends.testing.faults import FaultContract


class BackendContract(FaultContract):
    """What every backend promises.

    Subclasses are named ``Test...`` and set ``backend_class``. Algorithms that are not declared must be refused.
    """

    def test_is_a_backend(self, backend: Backend) -> None:
        """It is of the registered class, has every method, and forbids unknown configuration."""
        assert isinstance(backend, self.backend_class)
        assert isinstance(backend, Backend)
        assert backend.Config.model_config.get("extra") == "forbid", "Config must forbid unknown fields"
        assert backend.capabilities.algorithms, "no algorithms declared"
        assert backend.capabilities.inline <= backend.capabilities.algorithms
        assert not backend.capabilities.inline or backend.capabilities.in_process, (
            "a remote store must not sign on the event loop"
        )
        assert [*backend.list()] == []

    @each_algorithm
    def test_signs_what_verifies(self, backend: Backend, algorithm: Algorithm) -> None:
        """Signatures are raw octets and verify; over other data, by another key, or with a flipped bit they do not."""
        if self.refuses(backend, algorithm):
            return
        handle = backend.create("k", 1, algorithm)
        public, other = backend.public_key(handle), backend.public_key(backend.create("other", 1, algorithm))
        signature = backend.sign(handle, algorithm, MESSAGE)
        check(public, algorithm, signature, MESSAGE)
        for wrong in (MESSAGE + b" ", MESSAGE[:-1], b""):
            assert_rejected(public, algorithm, signature, wrong)
        assert_rejected(other, algorithm, signature, MESSAGE)
        for place in (0, len(signature) // 2, len(signature) - 1):
            flipped = bytearray(signature)
            flipped[place] ^= 1
            assert_rejected(public, algorithm, bytes(flipped), MESSAGE)

    @each_algorithm
    def test_signs_empty_and_long_messages(self, backend: Backend, algorithm: Algorithm) -> None:
        """A message may be empty or 20 kB long; outside of declared limits it is refused, within them signed."""
        if self.refuses(backend, algorithm):
            return
        handle = backend.create("k", 1, algorithm)
        public = backend.public_key(handle)
        least, limit = backend.capabilities.min_message.get(algorithm, 0), backend.capabilities.max_message.get(algorithm)
        for size in (least, least + 1, min(20_000, limit if limit is not None else 20_000)):
            message = bytes(range(256)) * 80
            check(public, algorithm, backend.sign(handle, algorithm, message[:size]), message[:size])
        if least:
            with pytest.raises(errors.MessageSizeError):
                backend.sign(handle, algorithm, bytes(least - 1))
        if limit is not None:
            with pytest.raises(errors.MessageSizeError):
                backend.sign(handle, algorithm, bytes(limit + 1))

    @each_algorithm
    def test_material_of_another_algorithm_is_refused(self, backend: Backend, algorithm: Algorithm) -> None:
        """A handle signs only with an algorithm for its type and curve, and refusing does no harm to it."""
        if self.refuses(backend, algorithm):
            return
        handle = backend.create("k", 1, algorithm)
        for wrong in ALGORITHMS:
            if wrong is algorithm or {wrong, algorithm} == {Algorithm.PS512, Algorithm.RS256}:
                continue  # some stores cannot tell what an RSA key was made for
            with pytest.raises(errors.UnsupportedAlgorithmError):
                backend.sign(handle, wrong, MESSAGE)
        check(backend.public_key(handle), algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)

    def test_unknown_handles(self, backend: Backend) -> None:
        """Nothing under this handle: KeyNotFoundError, for a handle that is gone and for one that never could be."""
        algorithm = cheapest(backend)
        gone = backend.create("k", 1, algorithm)
        backend.destroy(gone)
        self.assert_gone(backend, gone, algorithm)
        for handle in ("", "no-such-handle", "../../etc/passwd", "\0", "k" * 5000):
            with pytest.raises(errors.KeyNotFoundError):
                backend.public_key(handle)
            with pytest.raises(errors.KeyNotFoundError):
                backend.sign(handle, algorithm, MESSAGE)

    def test_a_version_is_never_made_twice(self, backend: Backend) -> None:
        """The same name and version twice: KeyExistsError, and the first key stays as it is."""
        algorithm = cheapest(backend)
        handle = backend.create("k", 1, algorithm)
        before = spki(backend, handle)
        for again in backend.capabilities.algorithms:
            with pytest.raises(errors.KeyExistsError):
                backend.create("k", 1, again)
        assert spki(backend, handle) == before
        assert listed(backend) == {handle: ("k", 1)}

    def test_twelve_versions(self, backend: Backend) -> None:
        """Versions are numbers, not text: each of twelve keeps its own key."""
        algorithm = cheapest(backend)
        handles = {version: backend.create("k", version, algorithm) for version in range(1, 13)}
        assert listed(backend) == {handle: ("k", version) for version, handle in handles.items()}
        publics = {version: backend.public_key(handle) for version, handle in handles.items()}
        assert len({spki(backend, handle) for handle in handles.values()}) == 12, "two versions share a key"
        for version, handle in handles.items():
            check(publics[version], algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
        assert_rejected(publics[1], algorithm, backend.sign(handles[12], algorithm, MESSAGE), MESSAGE)

    def test_names_do_not_collide(self, backend: Backend) -> None:
        """Names with dots, dashes, digits and the greatest length come back from the list as they went in."""
        algorithm = cheapest(backend)
        wanted = [("k", 1), ("k", 11), ("k.1", 1), ("k-1", 1), ("k_1", 1), ("1", 1), ("A.b-C_d.9", 3), ("x" * 63, 2)]
        handles = {backend.create(name, version, algorithm): (name, version) for name, version in wanted}
        assert len(handles) == len(wanted), "two versions share a handle"
        found = listed(backend)
        assert found.items() >= handles.items()
        # A store that counts versions itself makes those in a gap, too.
        assert {name for name, _ in found.values()} == {name for name, _ in wanted}

    def test_destroy(self, backend: Backend) -> None:
        """A destroyed key neither signs nor shows; destroying it again succeeds; its neighbours stay."""
        algorithm = cheapest(backend)
        handle, neighbour = backend.create("k", 1, algorithm), backend.create("k", 2, algorithm)
        backend.sign(handle, algorithm, MESSAGE)
        backend.destroy(handle)
        backend.destroy(handle)
        self.assert_gone(backend, handle, algorithm)
        assert listed(backend) == {neighbour: ("k", 2)}
        check(backend.public_key(neighbour), algorithm, backend.sign(neighbour, algorithm, MESSAGE), MESSAGE)

    def test_find(self, backend: Backend) -> None:
        """What was made for a version is found by its name and number, and nothing else is, nor anything destroyed."""
        algorithm = cheapest(backend)
        handles = {(name, 1): backend.create(name, 1, algorithm) for name in ("k", "k.1", "k-1")}
        handles["k", 2] = backend.create("k", 2, algorithm)
        assert {place: backend.find(*place) for place in handles} == handles
        for nothing in (("k", 3), ("k", 11), ("K", 1), ("k.1", 2), ("no", 1), ("x" * 63, 1)):
            assert backend.find(*nothing) is None
        backend.destroy(handles["k-1", 1])
        backend.destroy(handles["k", 1])
        assert backend.find("k-1", 1) is None
        assert backend.find("k", 1) is None
        assert backend.find("k", 2) == handles["k", 2]

    def test_destroy_newest_first(self, backend: Backend) -> None:
        """A newer version is destroyed before an older one; or refused without harm and destroyed after it, if so declared."""
        algorithm = cheapest(backend)
        older, newer = backend.create("k", 1, algorithm), backend.create("k", 2, algorithm)
        if backend.capabilities.ordered_destruction:
            with pytest.raises(errors.DestructionPendingError):
                backend.destroy(newer)
            assert listed(backend) == {older: ("k", 1), newer: ("k", 2)}
            check(backend.public_key(newer), algorithm, backend.sign(newer, algorithm, MESSAGE), MESSAGE)
            backend.destroy(older)
        backend.destroy(newer)
        self.assert_gone(backend, newer, algorithm)
        if not backend.capabilities.ordered_destruction:
            assert listed(backend) == {older: ("k", 1)}
            check(backend.public_key(older), algorithm, backend.sign(older, algorithm, MESSAGE), MESSAGE)

    def test_versions_may_have_gaps(self, backend: Backend) -> None:
        """A version number can be burned: the next one is made all the same, and bears its own number."""
        algorithm = cheapest(backend)
        first = backend.create("k", 3, algorithm)
        assert listed(backend) == {first: ("k", 3)}
        second = backend.create("k", 6, algorithm)
        assert listed(backend).items() >= {first: ("k", 3), second: ("k", 6)}.items()
        assert (backend.find("k", 3), backend.find("k", 6)) == (first, second)
        assert spki(backend, first) != spki(backend, second)
        backend.destroy(first)
        check(backend.public_key(second), algorithm, backend.sign(second, algorithm, MESSAGE), MESSAGE)

    @each_algorithm
    def test_foreign_keys(self, backend: Backend, algorithm: Algorithm) -> None:
        """A key that something else made is listed as such, signs when it is adopted, and is else left alone."""
        if algorithm not in backend.capabilities.algorithms:
            self.record("outcome", "refused")
            return
        foreign = self.make_foreign_key(backend, algorithm)
        if foreign is None:
            self.record("outcome", "none")
            return
        assert listed(backend) == {foreign: (None, None)}
        before = spki(backend, foreign)
        own = backend.create("k", 1, algorithm)
        assert spki(backend, own) != before
        check(backend.public_key(foreign), algorithm, backend.sign(foreign, algorithm, MESSAGE), MESSAGE)
        backend.destroy(own)
        assert listed(backend) == {foreign: (None, None)}
        assert spki(backend, foreign) == before

    def test_restart(self, tmp_path: Path) -> None:
        """After a restart the same handles sign with the same keys, destroyed ones do not; or all are gone, if so declared."""
        with closing(self.make_backend(tmp_path)) as opened:
            algorithms = declared(opened[-1])
            handles = {opened[-1].create(f"k{number}", 1, algorithm): algorithm for number, algorithm in enumerate(algorithms)}
            before = {handle: spki(opened[-1], handle) for handle in handles}
            gone = opened[-1].create("gone", 1, cheapest(opened[-1]))
            opened[-1].destroy(gone)
            opened.append(self.reopen(opened.pop()))
            backend = opened[-1]
            self.assert_gone(backend, gone, cheapest(backend))
            for handle in [] if self.persistent else handles:
                with pytest.raises(errors.KeyNotFoundError):
                    backend.public_key(handle)
            assert listed(backend) == {handle: (f"k{number}", 1) for number, handle in enumerate(handles) if self.persistent}
            if not self.persistent:
                return
            for handle, algorithm in handles.items():
                assert spki(backend, handle) == before[handle], f"{algorithm.value}: another key after the restart"
                check(backend.public_key(handle), algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
            with pytest.raises(errors.KeyExistsError):
                backend.create("k0", 1, algorithms[0])

    def test_64_threads_sign(self, backend: Backend) -> None:
        """Sixty-four threads at once, over all algorithms: every signature is over the right message by the right key."""
        keys = [(algorithm, backend.create(f"k{number}", 1, algorithm)) for number, algorithm in enumerate(declared(backend))]
        publics = {handle: backend.public_key(handle) for _, handle in keys}
        together = threading.Barrier(64)

        def work(number: int) -> list[tuple[str, Algorithm, bytes, bytes]]:
            together.wait(timeout=30)
            made = []
            for turn in range(4):
                algorithm, handle = keys[(number + turn) % len(keys)]
                message = b"%d/%d" % (number, turn)
                made.append((handle, algorithm, backend.sign(handle, algorithm, message), message))
            return made

        with ThreadPoolExecutor(64) as pool:
            results = [result for made in pool.map(work, range(64)) for result in made]
        assert len(results) == 256
        for handle, algorithm, signature, message in results:
            check(publics[handle], algorithm, signature, message)

    def test_changes_while_others_sign(self, backend: Backend) -> None:
        """Keys come and go while other threads sign: a stable key always signs; a destroyed one signs well or is not found."""
        algorithm = cheapest(backend)
        stable = backend.create("stable", 1, algorithm)
        public = backend.public_key(stable)
        done = threading.Event()
        victims: list[tuple[str, PublicKey]] = []

        def sign_stable() -> int:
            count = 0
            while not done.is_set() or count == 0:
                check(public, algorithm, backend.sign(stable, algorithm, MESSAGE), MESSAGE)
                count += 1
            return count

        def sign_victims() -> None:
            while not done.is_set():
                for handle, victim in victims[-1:]:
                    try:
                        signature = backend.sign(handle, algorithm, MESSAGE)
                    except errors.KeyNotFoundError:
                        continue
                    check(victim, algorithm, signature, MESSAGE)

        with ThreadPoolExecutor(4) as pool:
            signers = [pool.submit(sign) for sign in (sign_stable, sign_stable, sign_victims, sign_victims)]
            try:
                for version in range(1, 11):
                    handle = backend.create("victim", version, algorithm)
                    victims.append((handle, backend.public_key(handle)))
                    check(victims[-1][1], algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
                    assert handle in listed(backend)
                    backend.destroy(handle)
                    self.assert_gone(backend, handle, algorithm)
            finally:
                done.set()
            for signer in signers:
                signer.result(timeout=60)
        assert listed(backend) == {stable: ("stable", 1)}

    def test_one_of_many_creators_wins(self, backend: Backend) -> None:
        """Threads that make the same version at once: one gets it, the others KeyExistsError."""
        algorithm = cheapest(backend)
        together = threading.Barrier(8)

        def work(_: int) -> str | None:
            together.wait(timeout=30)
            try:
                return backend.create("k", 1, algorithm)
            except errors.KeyExistsError:
                return None

        with ThreadPoolExecutor(8) as pool:
            winners = [handle for handle in pool.map(work, range(8)) if handle is not None]
        assert len(winners) == 1
        assert listed(backend) == {winners[0]: ("k", 1)}

    @each_algorithm
    def test_import(self, tmp_path: Path, algorithm: Algorithm) -> None:
        """An importer signs with the key it was given, also after a restart, and refuses unfit ones."""
        with closing(self.make_backend(tmp_path)) as opened:
            backend = opened[-1]
            if not isinstance(backend, Importer):
                assert not hasattr(backend, "import_key")
                self.record("outcome", "none")
                return
            if algorithm not in backend.capabilities.algorithms:
                with pytest.raises(errors.UnsupportedAlgorithmError):
                    backend.import_key("k", 1, algorithm, make_key(algorithm))
                self.record("outcome", "refused")
                return
            key = make_key(algorithm)
            handle = backend.import_key("k", 1, algorithm, key)
            assert backend.public_key(handle) == key.public_key()
            with pytest.raises(errors.KeyExistsError):
                backend.import_key("k", 1, algorithm, make_key(algorithm))
            for unfit in UNFIT[algorithm]():
                with pytest.raises((errors.InvalidKeyMaterialError, errors.UnsupportedAlgorithmError)):
                    backend.import_key("unfit", 1, algorithm, unfit)
            assert listed(backend) == {handle: ("k", 1)}
            check(key.public_key(), algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
            if self.persistent:
                opened.append(self.reopen(opened.pop()))
                check(key.public_key(), algorithm, opened[-1].sign(handle, algorithm, MESSAGE), MESSAGE)

    def test_backup(self, tmp_path: Path) -> None:
        """What is backed up signs in an empty store as it did; nothing there is replaced, and nothing foreign gets in."""
        with closing(self.make_backend(tmp_path)) as opened:
            backend = opened[-1]
            if not isinstance(backend, Exportable):
                assert not hasattr(backend, "backup")
                self.record("outcome", "none")
                return
            algorithms = declared(backend)
            handles = {backend.create(f"k{number}", 1, algorithm): algorithm for number, algorithm in enumerate(algorithms)}
            left_out = backend.create("k0", 2, algorithms[0])
            before = {handle: spki(backend, handle) for handle in handles}
            where = self.exported_from(backend)
            files = dict(backend.backup(*where, {*handles, "not.1.there"}))
            assert set(handles) <= set(files)
            assert left_out not in files
            backend.restore(*where, files)  # all of it is there, and stays
            handle, other = next(iter(handles)), list(handles)[-1]
            foreign = [
                {**files, handle: files[other]},
                {**files, handle: files[handle][:-2]},
                {**files, handle: b""},
                {**files, f"../{handle}": files[handle]},
                {**files, "/etc/passwd": files[handle]},
                {**files, "": files[handle]},
            ]
            for wrong in foreign:
                with pytest.raises((errors.BackendIntegrityError, errors.KeyExistsError)):
                    backend.restore(*where, wrong, dry_run=True)
            for each in handles:
                backend.destroy(each)
            for wrong in foreign:  # nothing of the sound ones either
                with pytest.raises(errors.BackendIntegrityError):
                    backend.restore(*where, wrong)
            backend.restore(*where, files, dry_run=True)
            assert listed(backend) == {left_out: ("k0", 2)}
            backend.restore(*where, files)
            opened.append(self.reopen(opened.pop()))
            for each, algorithm in handles.items():
                assert spki(opened[-1], each) == before[each]
                check(opened[-1].public_key(each), algorithm, opened[-1].sign(each, algorithm, MESSAGE), MESSAGE)
