"""A program that uses one token from several threads in every way at once, while its module is opened again and again.

A module that is not ready for threads, or is finalised while it is used, crashes it.

usage: python pkcs11_threads.py CONFIG_JSON SECONDS
"""

import sys
import threading
import time
from pathlib import Path

from backends.api import Algorithm, BackendContext
from backends.encoding import verify_raw
from backends.errors import KeyNotFoundError
from backends.pkcs11 import Pkcs11Backend, Pkcs11Config


class Run:
    """What the threads share."""

    def __init__(self, backend: Pkcs11Backend, seconds: float) -> None:
        self.backend = backend
        self.keys = {a: backend.create("stable", n, a) for n, a in enumerate(sorted(Algorithm, key=str), 1)}
        self.publics = {algorithm: backend.public_key(handle) for algorithm, handle in self.keys.items()}
        self.counts = [0, 0, 0, 0]
        self.problems: list[str] = []
        self.end = time.monotonic() + seconds  # from now on: an RSA key alone may take as long to make

    def sign(self, number: int) -> None:
        for algorithm, handle in self.keys.items():
            verify_raw(self.publics[algorithm], algorithm, self.backend.sign(handle, algorithm, b"m"), b"m")

    def come_and_go(self, number: int) -> None:
        handle = self.backend.create(f"t{number}", self.counts[number] + 1, Algorithm.ES256)
        signature = self.backend.sign(handle, Algorithm.ES256, b"m")
        verify_raw(self.backend.public_key(handle), Algorithm.ES256, signature, b"m")
        assert handle in {key.handle for key in self.backend.list()}
        self.backend.destroy(handle)
        try:
            self.backend.sign(handle, Algorithm.ES256, b"m")
        except KeyNotFoundError:
            return
        raise AssertionError("a destroyed key signs")

    def work(self, number: int) -> None:
        turn = self.sign if number < 2 else self.come_and_go
        try:
            while not self.counts[number] or time.monotonic() < self.end:
                turn(number)
                self.counts[number] += 1
        except BaseException as error:
            self.problems.append(repr(error))
            raise


def main() -> None:
    config = Pkcs11Config.model_validate_json(Path(sys.argv[1]).read_text())
    backend = Pkcs11Backend.open(config, BackendContext("hsm", Path("/nonexistent")))
    run = Run(backend, float(sys.argv[2]))
    threads = [threading.Thread(target=run.work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while time.monotonic() < run.end:
        time.sleep(0.03)
        with backend._module.exclusively():
            backend._module.reopen(0, RuntimeError("test"))
    for thread in threads:
        thread.join()
    backend.close()
    assert not run.problems, run.problems
    print(min(run.counts))


if __name__ == "__main__":
    main()
