"""Every example, as a process, with every algorithm that its library and keyd share; the library's own verifier has the last word."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
from daemon_process import DaemonProcess
from examples_run import ALGORITHMS, GRANTS, ROOT, Resources, interpreter, make_keys, run_example

Verified = Callable[[str, str, str], None]

#: example, name of the library, the verifier as the resource and the table know it, whether it is one of the peers, key, algorithms
_HTTP, _AAUTH = ("http-{}", ALGORITHMS), ("aauth-{}", ("Ed25519", "ES256", "ES384"))
EXAMPLES = [
    ("httpx_request", "httpx", "http-message-signatures", False, *_HTTP),
    ("requests_request", "requests", "http-message-signatures", False, *_HTTP),
    ("aiohttp_request", "aiohttp", "http-message-signatures", False, *_HTTP),
    ("http_message_signatures_raw", "http-message-signatures", "http-message-signatures", False, *_HTTP),
    ("pyjwt_token", "PyJWT", "PyJWT", False, "jwt-{}", ALGORITHMS),
    ("joserfc_token", "joserfc", "joserfc", False, "jwt-{}", ALGORITHMS),
    ("aauth_agent", "aauth", "aauth", True, *_AAUTH),
    ("aauth_signing_agent", "aauth-signing", "aauth-signing", True, *_AAUTH),
    ("introspection_agent", "introspection-aauth", "introspection-aauth", True, "aauth-{}", ("Ed25519", "ES256")),
    ("regent_agent", "regent-httpsig", "regent-httpsig", True, "aauth-{}", ("Ed25519", "ES256")),
    ("wbauth_bot", "wbauth-sdk", "wbauth-sdk", True, "bot", ("Ed25519",)),
    ("lumoauth_agent", "lumoauth", "lumoauth", True, "lumo", ("Ed25519",)),
]
CASES = [(*example[:4], example[4].format(algorithm), algorithm) for example in EXAMPLES for algorithm in example[5]]


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(sections=GRANTS)
    try:
        daemon.start()
        make_keys(daemon)
        yield daemon
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def resources(daemon: DaemonProcess) -> Iterator[Resources]:
    resources = Resources(daemon)
    yield resources
    resources.close()


def issuer_of(library: str) -> str:
    return "lumo-issuer" if library == "lumoauth" else "issuer"


@pytest.mark.parametrize(("example", "library", "verifier", "peers", "key", "algorithm"), CASES, ids=str)
def test_the_librarys_verifier_takes_it_and_not_what_was_altered(
    daemon: DaemonProcess,
    resources: Resources,
    verified: Verified,
    example: str,
    library: str,
    verifier: str,
    peers: bool,
    key: str,
    algorithm: str,
) -> None:
    issuer = issuer_of(library)
    url, altered = resources.urls(verifier, key, algorithm, peers=peers, issuer_key=issuer)
    ran = run_example(daemon, example, key, url, peers=peers, issuer_key=issuer)
    assert (ran.code, ran.said.startswith('200 "verified ')) == (0, True), ran
    if algorithm == "Ed25519":  # the resource itself tries each one altered; this is about how the example ends
        ran = run_example(daemon, example, key, altered, peers=peers, issuer_key=issuer)
        assert ran.code == 1, ran
        assert re.match('401 "refused: .*[Ss]ignature', ran.said), ran
    verified(library, algorithm, "an independent check of the raw signature" if library == "lumoauth" else verifier)


def test_regent_as_a_web_bot_auth_agent(daemon: DaemonProcess, resources: Resources, verified: Verified) -> None:
    url, altered = resources.urls("regent-httpsig", "bot", "Ed25519", peers=True, issuer_key="bot")
    ran = run_example(daemon, "regent_agent", "bot", url, peers=True, issuer_key="")
    assert (ran.code, ran.said) == (0, '200 "verified web-bot-auth https://agents.example"'), ran
    ran = run_example(daemon, "regent_agent", "bot", altered, peers=True, issuer_key="")
    assert (ran.code, ran.said.startswith('401 "refused: ')) == (1, True), ran
    verified("regent-httpsig", "Ed25519, Web Bot Auth", "regent-httpsig")


@pytest.mark.parametrize(("example", "library", "verifier", "peers", "key", "algorithms"), EXAMPLES, ids=str)
def test_what_the_grant_does_not_have_is_not_signed_and_not_sent(
    daemon: DaemonProcess, example: str, library: str, verifier: str, peers: bool, key: str, algorithms: tuple[str, ...]
) -> None:
    name = "elsewhere-" + key.partition("-")[0]
    ran = run_example(daemon, example, name, "http://127.0.0.1:9/orders", peers=peers, issuer_key=issuer_of(library))
    assert (ran.code, ran.said) == (1, ""), ran
    assert ran.complained.startswith("keyd signed nothing: grant 'elsewhere' does not have"), ran
    assert "Traceback" not in ran.complained


def test_every_program_is_run_by_some_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests/examples").glob("test_*.py"))
    programs = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert {example[0] for example in EXAMPLES} <= programs
    assert {program for program in programs if program not in tests} == set()


def test_where_http_message_signatures_is_too_old_the_adapters_say_so() -> None:
    command = [interpreter(peers=True), "-c", "import keyd.client.message_signatures; import keyd.client.httpx_auth"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stderr.splitlines()[-1].startswith("ImportError: keyd.client.http needs http-message-signatures 2.1 or newer"), ran


def test_the_first_python_in_the_readme_is_an_example() -> None:
    block = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert block == (ROOT / "examples/httpx_request.py").read_text()
