"""``keyd directory check`` at a server whose directory is right, or wrong in one way."""

from __future__ import annotations

import base64
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli.fake_daemon import FakeDaemon, Run
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from backends.api import Algorithm
from keyd.client.digest import content_digest
from keyd.core import directory, jwk

URL = "https://bot.example"
KEY = Ed25519PrivateKey.generate()
CHECK = ("directory", "check", URL)


class Served:
    """What the server answers. ``asked`` has the path and Host of each request."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[tuple[str, str]] = []
        self.members = [member(KEY)]
        self.headers = {"Content-Type": directory.MEDIA_TYPE}
        self.sign([KEY])
        self.origin = ""

    @property
    def body(self) -> bytes:
        return json.dumps({"keys": self.members}).encode()

    def sign(self, keys: list[Any], *, ago: int = 10, authority: str = "bot.example", digest: bool = False) -> None:
        created, signatures = int(time.time()) - ago, []
        covered = content_digest(self.body) if digest else None
        for key in keys:
            keyid = jwk.from_public_key(key.public_key())[1]
            base, parameters = directory.signature_base(
                authority, keyid, Algorithm.ED25519, created=created, expires=created + 3600, content_digest=covered
            )
            signatures.append((parameters, key.sign(base)))
        self.headers.update(directory.fields(signatures))
        if covered:
            self.headers["Content-Digest"] = covered


def member(key: Any, **more: Any) -> dict[str, Any]:
    public, thumbprint = jwk.from_public_key(key.public_key())
    return {**json.loads(public), "kid": thumbprint, **more}


@pytest.fixture
def served() -> Iterator[Served]:
    answer = Served()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer.asked.append((self.path, self.headers["Host"]))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answer.origin = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


def look(run: Run, served: Served, url: str = URL) -> tuple[int, dict[str, Any]]:
    result = run("directory", "check", url, "--via", served.origin, "--json")
    return result.exit_code, json.loads(result.stdout)["directories"][0]


def test_one_that_is_right(run: Run, served: Served) -> None:
    code, found = look(run, served)
    assert (code, found["sound"], found["problems"]) == (0, True, [])
    (key,) = found["keys"]
    assert (key["thumbprint"], key["kind"], key["signs"], key["cloudflare"]) == (served.members[0]["kid"], "Ed25519", True, True)
    assert served.asked == [(directory.PATH, "bot.example")]
    text = run(*CHECK, "--via", served.origin).stdout
    assert f"{URL}{directory.PATH}" in text
    assert "uses it" in text
    assert look(run, served, URL + directory.PATH)[0] == 0


def _other_status(served: Served) -> None:
    served.status = 404


def _redirect(served: Served) -> None:
    served.status = 302
    served.headers["Location"] = "/elsewhere"


def _other_type(served: Served) -> None:
    served.headers["Content-Type"] = "application/json"


def _empty(served: Served) -> None:
    served.members = []


def _other_kid(served: Served) -> None:
    served.members[0]["kid"] = "key-1"


def _jose_alg(served: Served) -> None:
    served.members[0]["alg"] = "Ed25519"


def _too_many(served: Served) -> None:
    served.members = served.members * 11


def _too_large(served: Served) -> None:
    served.members[0]["x5c"] = ["A" * 70000]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_status, "the status is 404"),
        (_redirect, "it redirects (302)"),
        (_other_type, "Content-Type is 'application/json'"),
        (_empty, "it lists no key"),
        (_other_kid, "is not this, its thumbprint"),
        (_jose_alg, "leave it out, or write ed25519"),
        (_too_many, "it lists 11 keys"),
        (_too_large, "it is larger than 65536 bytes"),
    ],
)
def test_documents_that_are_not_right(run: Run, served: Served, spoil: Callable[[Served], None], words: str) -> None:
    spoil(served)
    code, found = look(run, served)
    assert (code, found["sound"]) == (1, False)
    assert any(words in problem for problem in found["problems"]), found["problems"]


def _unsigned(served: Served) -> None:
    served.headers = {"Content-Type": directory.MEDIA_TYPE}


def _other_authority(served: Served) -> None:
    served.sign([KEY], authority="evil.example")


def _over(served: Served) -> None:
    served.sign([KEY], ago=4000)


def _by_another(served: Served) -> None:
    served.sign([Ed25519PrivateKey.generate()])


def _altered(served: Served) -> None:
    raw = base64.b64encode(bytes(64)).decode()
    served.headers["Signature"] = f"binding0=:{raw}:"


def _other_tag(served: Served) -> None:
    served.headers["Signature-Input"] = served.headers["Signature-Input"].replace("signatures-directory", "signatures-other")


def _without_expires(served: Served) -> None:
    before, _, after = served.headers["Signature-Input"].partition(";expires=")
    served.headers["Signature-Input"] = before + after[10:]


def _expires(value: str) -> Callable[[Served], None]:
    def spoil(served: Served) -> None:
        fields = served.headers["Signature-Input"]
        served.headers["Signature-Input"] = re.sub("expires=[0-9]+", f"expires={value}", fields)

    return spoil


def _without_req(served: Served) -> None:
    served.headers["Signature-Input"] = served.headers["Signature-Input"].replace(";req", "")


def _other_document(served: Served) -> None:
    served.sign([KEY], digest=True)
    served.members[0]["use"] = "sig"


def _private(served: Served) -> None:
    served.members[0]["d"] = "secret"


def _no_key(served: Served) -> None:
    served.members = [{"kty": "OKP", "crv": "Ed25519"}]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_unsigned, "it does not sign the response"),
        (_other_authority, "its signature is not good"),
        (_over, "its signature is not good"),
        (_by_another, "it does not sign the response"),
        (_altered, "its signature is not good"),
        (_other_tag, "it does not sign the response"),
        (_without_expires, "its signature lacks expires"),
        (_expires('"soon"'), "its signature is not good"),
        (_expires("9" * 5000), "it does not sign the response"),
        (_expires("9" * 15), "its signature is not good"),
        (_without_req, 'does not cover "@authority";req'),
        (_other_document, "covers a Content-Digest that is not that of the document"),
        (_private, "it shows its private key"),
        (_no_key, "it is no public key"),
    ],
)
def test_keys_that_verifiers_do_not_use(run: Run, served: Served, spoil: Callable[[Served], None], words: str) -> None:
    spoil(served)
    code, found = look(run, served)
    (key,) = found["keys"]
    assert (code, key["signs"], key["cloudflare"]) == (1, False, False)
    assert words in key["message"]
    assert "secret" not in json.dumps(found)


def test_what_cloudflare_does_not_use_and_others_do(run: Run, served: Served) -> None:
    served.sign([KEY], digest=True)
    code, found = look(run, served)
    assert (code, found["keys"][0]["signs"], found["keys"][0]["cloudflare"]) == (0, True, False)
    assert "covers more than" in found["keys"][0]["message"]
    served.members.append(member(ec.generate_private_key(ec.SECP256R1())))
    code, found = look(run, served)
    assert code == 1
    assert found["keys"][1]["kind"] == "P-256"


def test_an_issuer_that_is_not_there(run: Run, served: Served, daemon: FakeDaemon) -> None:
    result = run("directory", "check", "--issuer", "nobody", "--via", served.origin)
    assert result.exit_code != 0
    assert not served.asked


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give URL or --issuer"),
        ((URL, "--issuer", "bot"), 2, "give URL or --issuer"),
        ((URL, "--via", "ftp://x"), 2, "is not an http or https origin"),
        (("http://bot.example",), 4, "is not https"),
        (("https://bot.example/keys",), 4, "is not an origin"),
        (("https://user@bot.example",), 4, "is not an origin"),
        (("https://:secret@bot.example",), 4, "is not an origin"),
        (("https://b\u00fccher.example",), 4, "A-labels"),
        (("https://bot example",), 4, "is not an origin"),
        (("https://bot.example:99999",), 4, "is not an origin"),
        ((URL, "--via", "http://127.0.0.1:1"), 1, "no answer from 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_looked_at(run: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    result = run("directory", "check", *arguments)
    assert (result.exit_code, words in result.output) == (code, True), result.output
