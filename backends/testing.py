"""The contract of :mod:`backends.api` as a test suite. Every backend, ours or not, subclasses it and adds what is its own.

pytest.register_assert_rewrite("backends.testing")  # in conftest.py, for readable failures
from backends.testing import BackendContract

class TestMyBackend(BackendContract):
    backend_class = MyBackend

    def make_backend(self, tmp_path): ...
    def reopen(self, backend): ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backends import errors
from backends.api import Algorithm, Backend, Importer, PrivateKey, PublicKey

ALGORITHMS = sorted(Algorithm, key=lambda algorithm: algorithm.value)
MESSAGE = b'"@authority": contract.example\n"@signature-params": ("@authority");created=1'

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: str(algorithm.value))


class BackendContract:
    """What every backend promises.

    Subclasses are named ``Test...`` and set ``backend_class``. Algorithms that are not declared must be refused.
    """

    #: The class under test, as it is registered in ``keyd.backends``.
    backend_class: ClassVar[type]
    #: False when keys die with the process.
    persistent: ClassVar[bool] = True

    def make_backend(self, tmp_path: Path) -> Backend:
        """Return an open backend on a store without keys. ``tmp_path`` is empty, and this test's alone."""
        raise NotImplementedError

    def reopen(self, backend: Backend) -> Backend:
        """Close this backend and return another on the same store, as a restart of the daemon would."""
        raise NotImplementedError

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        """Provide an open backend without keys."""
        backend = self.make_backend(tmp_path)
        yield backend
        backend.close()

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
        if refuses(backend, algorithm):
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
        """A message may be empty or 20 kB long; beyond a declared limit it is refused, up to it it is signed."""
        if refuses(backend, algorithm):
            return
        handle = backend.create("k", 1, algorithm)
        public = backend.public_key(handle)
        limit = backend.capabilities.max_message.get(algorithm)
        for size in (0, 1, min(20_000, limit if limit is not None else 20_000)):
            message = bytes(range(256)) * 80
            check(public, algorithm, backend.sign(handle, algorithm, message[:size]), message[:size])
        if limit is not None:
            with pytest.raises(errors.MessageTooLargeError):
                backend.sign(handle, algorithm, bytes(limit + 1))

    @each_algorithm
    def test_material_of_another_algorithm_is_refused(self, backend: Backend, algorithm: Algorithm) -> None:
        """A handle signs only with an algorithm for its type and curve, and refusing does no harm to it."""
        if refuses(backend, algorithm):
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
        for handle in (gone, "", "no-such-handle", "../../etc/passwd", "\0", "k" * 5000):
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
        assert listed(backend) == handles

    def test_destroy(self, backend: Backend) -> None:
        """A destroyed key neither signs nor shows; destroying it again succeeds; its neighbours stay."""
        algorithm = cheapest(backend)
        handle, neighbour = backend.create("k", 1, algorithm), backend.create("k", 2, algorithm)
        backend.sign(handle, algorithm, MESSAGE)
        backend.destroy(handle)
        backend.destroy(handle)
        with pytest.raises(errors.KeyNotFoundError):
            backend.sign(handle, algorithm, MESSAGE)
        assert listed(backend) == {neighbour: ("k", 2)}
        check(backend.public_key(neighbour), algorithm, backend.sign(neighbour, algorithm, MESSAGE), MESSAGE)

    def test_restart(self, tmp_path: Path) -> None:
        """After a restart the same handles sign with the same keys, destroyed ones do not; or all are gone, if so declared."""
        with closing(self.make_backend(tmp_path)) as opened:
            algorithms = declared(opened[-1])
            handles = {opened[-1].create("k", number, algorithm): algorithm for number, algorithm in enumerate(algorithms, 1)}
            before = {handle: spki(opened[-1], handle) for handle in handles}
            gone = opened[-1].create("gone", 1, cheapest(opened[-1]))
            opened[-1].destroy(gone)
            opened.append(self.reopen(opened.pop()))
            backend = opened[-1]
            for handle in [gone] if self.persistent else [gone, *handles]:
                with pytest.raises(errors.KeyNotFoundError):
                    backend.public_key(handle)
            assert listed(backend) == {handle: ("k", number) for number, handle in enumerate(handles, 1) if self.persistent}
            if not self.persistent:
                return
            for handle, algorithm in handles.items():
                assert spki(backend, handle) == before[handle], f"{algorithm.value}: another key after the restart"
                check(backend.public_key(handle), algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
            with pytest.raises(errors.KeyExistsError):
                backend.create("k", 1, algorithms[0])

    def test_64_threads_sign(self, backend: Backend) -> None:
        """Sixty-four threads at once, over all algorithms: every signature is over the right message by the right key."""
        keys = [(algorithm, backend.create("k", number, algorithm)) for number, algorithm in enumerate(declared(backend), 1)]
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
                    with pytest.raises(errors.KeyNotFoundError):
                        backend.sign(handle, algorithm, MESSAGE)
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
                return
            if algorithm not in backend.capabilities.algorithms:
                with pytest.raises(errors.UnsupportedAlgorithmError):
                    backend.import_key("k", 1, algorithm, make_key(algorithm))
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


@contextmanager
def closing(backend: Backend) -> Iterator[list[Backend]]:
    """Give a list with one backend, whose place a reopened one may take, and close what is in it at the end."""
    opened = [backend]
    try:
        yield opened
    finally:
        for left in opened:
            left.close()


def refuses(backend: Backend, algorithm: Algorithm) -> bool:
    """Say whether an algorithm is undeclared, after checking that the backend really refuses it, leaving nothing."""
    if algorithm in backend.capabilities.algorithms:
        return False
    with pytest.raises(errors.UnsupportedAlgorithmError):
        backend.create("k", 1, algorithm)
    assert listed(backend) == {}
    return True


def declared(backend: Backend) -> list[Algorithm]:
    """Return the declared algorithms in a fixed order."""
    return [algorithm for algorithm in ALGORITHMS if algorithm in backend.capabilities.algorithms]


def cheapest(backend: Backend) -> Algorithm:
    """Return a declared algorithm whose keys are quickly made: RSA comes last."""
    return min(declared(backend), key=lambda algorithm: algorithm in (Algorithm.PS512, Algorithm.RS256))


def listed(backend: Backend) -> dict[str, tuple[str | None, int | None]]:
    """Return what a backend lists, by handle."""
    stored = [*backend.list()]
    assert len({key.handle for key in stored}) == len(stored), "a handle is listed twice"
    return {key.handle: (key.name, key.version) for key in stored}


def spki(backend: Backend, handle: str) -> bytes:
    """Return the public key as DER SubjectPublicKeyInfo."""
    return backend.public_key(handle).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check(public_key: PublicKey, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
    """Verify raw octets. Written apart from :mod:`backends.encoding`, so that one mistake is not made on both sides."""
    match algorithm, public_key:
        case Algorithm.ED25519, ed25519.Ed25519PublicKey():
            assert len(signature) == 64
            public_key.verify(signature, message)
        case Algorithm.ES256, ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            assert len(signature) == 64
            public_key.verify(_der(signature), message, ec.ECDSA(hashes.SHA256()))
        case Algorithm.ES384, ec.EllipticCurvePublicKey(curve=ec.SECP384R1()):
            assert len(signature) == 96
            public_key.verify(_der(signature), message, ec.ECDSA(hashes.SHA384()))
        case Algorithm.PS512, rsa.RSAPublicKey():
            assert len(signature) * 8 == public_key.key_size
            public_key.verify(signature, message, padding.PSS(padding.MGF1(hashes.SHA512()), salt_length=64), hashes.SHA512())
        case Algorithm.RS256, rsa.RSAPublicKey():
            assert len(signature) * 8 == public_key.key_size
            public_key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        case _:
            pytest.fail(f"the public key is a {type(public_key).__name__}, which is not for {algorithm.value}")


def assert_rejected(public_key: PublicKey, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
    """Assert that a signature does not verify."""
    with pytest.raises(InvalidSignature):
        check(public_key, algorithm, signature, message)


def make_key(algorithm: Algorithm) -> PrivateKey:
    """Make a private key outside of any backend."""
    if algorithm is Algorithm.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in (Algorithm.PS512, Algorithm.RS256):
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1() if algorithm is Algorithm.ES256 else ec.SECP384R1())


def _unfit_rsa() -> list[PrivateKey]:
    return [rsa.generate_private_key(65537, 1024), rsa.generate_private_key(3, 2048), make_key(Algorithm.ES256)]  # noqa: S505


#: Keys that an importer must refuse, by algorithm: other type, other curve, too small, bad exponent.
UNFIT: dict[Algorithm, Callable[[], list[PrivateKey]]] = {
    Algorithm.ED25519: lambda: [make_key(Algorithm.ES256), make_key(Algorithm.RS256)],
    Algorithm.ES256: lambda: [make_key(Algorithm.ES384), ec.generate_private_key(ec.SECP256K1()), make_key(Algorithm.ED25519)],
    Algorithm.ES384: lambda: [make_key(Algorithm.ES256), ec.generate_private_key(ec.SECP256K1()), make_key(Algorithm.ED25519)],
    Algorithm.PS512: _unfit_rsa,
    Algorithm.RS256: _unfit_rsa,
}


def _der(raw: bytes) -> bytes:
    half = len(raw) // 2
    return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
