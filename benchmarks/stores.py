"""Signatures a second through keyd, next to the same operation called directly, store by store, in one run.

    make bench-stores, or python benchmarks stores [--seconds 1.5] [--rounds 3] [--store pkcs11|vault|aws]

Four figures for each store, algorithm and number of threads, interleaved, medians of the rounds:

- direct: what a program would do without keyd: python-pkcs11 with a session per thread, HTTP to OpenBao over kept connections,
  boto3 against the fake of KMS;
- backend: keyd's backend, the same threads;
- runner: the same through keyd's thread pool and deadline, from its event loop, each signature verified;
- daemon: the same again through the daemon's socket, in batches of 32, so that the client in Python is not what is measured.

Fails when a backend reaches less than 80 % of the direct figure. The other two are shown: they include a verification of every
signature, which for Ed25519 and ECDSA costs as much as SoftHSM's signature itself, and on a machine with few cores takes from the store.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import pkcs11
import urllib3
from botocore.config import Config
from components.aws_environment import isolated
from components.fake_kms import ADMIN, REGION
from components.openbao import OpenBao
from components.softhsm import LABEL, MODULE, SoftHsm
from daemon_process import DaemonProcess

from backends._pkcs11_module import Module
from backends.api import Algorithm, Backend, BackendContext, PublicKey
from backends.encoding import verify_raw
from keyd import plugins
from keyd.client import InputKind, SignInput
from keyd.core import jwk
from keyd.core.model import KeyVersion
from keyd.core.runner import BackendRunner, Limits
from keyd.core.snapshot import VersionView
from keyd.core.timeline import first

MESSAGE = b'"@authority": bench.example\n"@signature-params": ("@authority");created=1' + b" " * 300
BAR = 0.8
BATCH = 32

#: Makes a function that signs MESSAGE; called once in each thread, so that each may have a session or connection of its own.
Direct = Callable[[], Callable[[], object]]


@dataclass
class Store:
    """One component, ready to be measured."""

    name: str
    section: str
    environment: dict[str, str]
    options: Any
    type: str
    direct: Callable[[str, Algorithm], Direct]


@contextmanager
def softhsm(directory: Path) -> Iterator[Store]:
    """SoftHSM, with python-pkcs11 for the direct figure: the module as the backend initialises it, else threads crash it."""
    store = SoftHsm(directory)
    config = store.config()

    def direct(handle: str, algorithm: Algorithm) -> Direct:
        slots = Module.acquire(MODULE, store.environment, None).library.get_slots(token_present=True)
        token = next(token for token in (slot.get_token() for slot in slots) if token.label == LABEL)

        def in_thread() -> Callable[[], object]:
            session = token.open()  # inherits the login of the backend's session: it is per token
            key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, id=bytes.fromhex(handle.removeprefix("id=")))
            if algorithm is Algorithm.ED25519:
                return lambda: key.sign(MESSAGE, mechanism=pkcs11.Mechanism.EDDSA)
            return lambda: key.sign(sha256(MESSAGE).digest(), mechanism=pkcs11.Mechanism.ECDSA)

        return in_thread

    yield Store("SoftHSM", store.section, dict(store.environment), config, "pkcs11", direct)


@contextmanager
def openbao(directory: Path) -> Iterator[Store]:
    """OpenBao over loopback TCP, with http.client on a kept connection a thread for the direct figure."""
    with OpenBao(directory) as server:
        tenant = server.tenant(directory)

        def direct(handle: str, algorithm: Algorithm) -> Direct:
            name, _, version = handle.rpartition(":")
            body = {"input": base64.b64encode(MESSAGE).decode(), "key_version": int(version)}
            if algorithm is Algorithm.ES256:
                body |= {"hash_algorithm": "sha2-256", "marshaling_algorithm": "jws"}
            pool = urllib3.HTTPConnectionPool("127.0.0.1", int(server.http.rpartition(":")[2]), maxsize=32)
            headers = {"X-Vault-Token": server.token, "X-Vault-Request": "true"}
            path, payload = f"/v1/{tenant.mount}/sign/{name}", json.dumps(body)

            def sign() -> object:
                answer = pool.request("POST", path, body=payload, headers=headers)
                assert answer.status == 200, answer.data
                return json.loads(answer.data)["data"]["signature"]

            return lambda: sign

        yield Store("OpenBao", tenant.section(server.http), {}, tenant.config(), "vault", direct)


@contextmanager
def kms(directory: Path) -> Iterator[Store]:
    """The fake of KMS, a process of its own; boto3 for the direct figure. It tells what the SDK costs, not how fast AWS is."""
    code = "import time; from components.fake_kms import FakeKms; k = FakeKms(); k.start(); print(k.url, flush=True); time.sleep(3600)"
    environment = {name: value for name, value in isolated(directory, ADMIN).items() if value is not None}
    os.environ.update(environment)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "tests")},
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        section = f'type = "aws"\nregion = "{REGION}"\nendpoint_url = "{url}"\n'

        def direct(handle: str, algorithm: Algorithm) -> Direct:
            client = boto3.client("kms", region_name=REGION, endpoint_url=url, config=Config(max_pool_connections=32))
            name = "ED25519_SHA_512" if algorithm is Algorithm.ED25519 else "ECDSA_SHA_256"
            return lambda: lambda: client.sign(KeyId=handle, Message=MESSAGE, MessageType="RAW", SigningAlgorithm=name)

        options = plugins.load("aws").Config.model_validate({"region": REGION, "endpoint_url": url})
        yield Store("KMS fake", section, environment, options, "aws", direct)
    finally:
        process.kill()
        process.wait()


STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {"pkcs11": softhsm, "vault": openbao, "aws": kms}


def per_second(threads: int, seconds: float, start: Direct) -> float:
    """Return how often ``threads`` threads together run what ``start`` makes, a second."""
    ready, stop, counts = threading.Barrier(threads + 1), threading.Event(), [0] * threads

    def work(number: int) -> None:
        sign = start()
        sign()
        ready.wait()
        while not stop.is_set():
            sign()
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.monotonic()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - began)


def through_runner(runner: BackendRunner, view: VersionView, algorithm: Algorithm, tasks: int, seconds: float) -> float:
    """Return signatures a second of ``tasks`` callers on one event loop."""

    async def run() -> float:
        end, count = time.monotonic() + seconds, 0

        async def caller() -> None:
            nonlocal count
            while time.monotonic() < end:
                await runner.sign(view, algorithm, MESSAGE)
                count += 1

        began = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(tasks)))
        return count / (time.monotonic() - began)

    return asyncio.run(run())


def through_daemon(daemon: DaemonProcess, key: str, seconds: float, public: PublicKey, algorithm: Algorithm) -> float:
    """Return signatures a second of two clients that send batches; checks one of each client."""

    def start() -> Callable[[], object]:
        client = daemon.client()
        batch = [SignInput(key, MESSAGE, InputKind.MESSAGE)] * BATCH
        results = client.sign_batch(batch)
        for result in results:
            if isinstance(result, Exception):
                raise result
        verify_raw(public, algorithm, results[0].signature, MESSAGE)
        return lambda: client.sign_batch(batch)

    return BATCH * per_second(2, seconds, start)


def measure(store: Store, algorithm: Algorithm, threads: int, directory: Path, seconds: float, rounds: int) -> dict[str, float]:
    """Return the median of every figure, in signatures a second."""
    key = f"bench-{algorithm.value}-{threads}"
    daemon = DaemonProcess(sections=f"[backends.store]\n{store.section}threads = {threads}\n")
    daemon.exec = True
    daemon.env.update(store.environment)
    daemon.start()
    backend: Backend = plugins.load(store.type).open(store.options, BackendContext("bench", directory))
    runner = BackendRunner("bench", backend, Limits(threads=threads))
    try:
        with daemon.admin() as admin:
            admin.create_key(key, backend="store", algorithm=algorithm.value, purposes=["raw"])
            (version,) = admin.get_key(key).versions
            handle = next(stored.handle for stored in admin.list_stored_keys("store") if stored.kid == version.kid)
        public = backend.public_key(handle)
        public_jwk, thumbprint = jwk.from_public_key(public)
        view = VersionView(KeyVersion("bench", 1, thumbprint, thumbprint, public_jwk, handle, first(time.time())))
        verify_raw(public, algorithm, backend.sign(handle, algorithm, MESSAGE), MESSAGE)
        ways: dict[str, Callable[[], float]] = {
            "direct": lambda: per_second(threads, seconds, store.direct(handle, algorithm)),
            "backend": lambda: per_second(threads, seconds, lambda: lambda: backend.sign(handle, algorithm, MESSAGE)),
            "runner": lambda: through_runner(runner, view, algorithm, 4 * threads, seconds),
            "daemon": lambda: through_daemon(daemon, key, seconds, public, algorithm),
        }
        seen: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                seen[way].append(run())
        return {way: statistics.median(figures) for way, figures in seen.items()}
    finally:
        runner.close()
        daemon.close()


def main() -> int:
    """Measure everything and print a table; return 1 when a backend falls short of the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each figure in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=STORES, action="append", help="only this one; repeatable")
    options = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}\n")
    print("| store | algorithm | threads | direct /s | backend | runner | daemon |")
    print("|---|---|---|---|---|---|---|", flush=True)
    short = []
    for name in options.store or STORES:
        with tempfile.TemporaryDirectory(prefix="keyd-b-") as directory, STORES[name](Path(directory)) as store:
            for algorithm in (Algorithm.ED25519, Algorithm.ES256):
                for threads in (1, 4):
                    figures = measure(store, algorithm, threads, Path(directory), options.seconds, options.rounds)
                    direct = figures["direct"]
                    cells = " | ".join(
                        f"{figures[way]:,.0f} ({figures[way] / direct:.0%})" for way in ("backend", "runner", "daemon")
                    )
                    print(f"| {store.name} | {algorithm.value} | {threads} | {direct:,.0f} | {cells} |", flush=True)
                    if figures["backend"] < BAR * direct:
                        short.append(f"{store.name} {algorithm.value} with {threads} threads: {figures['backend'] / direct:.0%}")
    print("\n" + ("every backend reaches 80 % of the direct figure" if not short else "below 80 %: " + "; ".join(short)))
    return 1 if short else 0
