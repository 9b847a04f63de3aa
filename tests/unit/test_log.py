"""Everything that is logged goes through one chain, and nothing secret comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from backends.secrets import Secret
from keyd import log

SETUP = "import logging, structlog, warnings\nfrom backends.secrets import Secret\nfrom keyd import log\n"


def lines(code: str, level: str = "info", fmt: str = "json") -> list[str]:
    """Return what a process of its own writes to standard error: logging is global."""
    program = f"{SETUP}log.configure({level!r}, {fmt!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, env=dict(os.environ))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr.splitlines()


def records(code: str, level: str = "info") -> list[dict]:
    return [json.loads(line) for line in lines(code, level)]


def test_both_kinds_of_logger_come_out_alike():
    one, two = records(
        "structlog.get_logger('keyd.a').info('hello %s', 'you', key='k')\n"
        "logging.getLogger('backends.b').info('hello %s', 'you', extra={'key': 'k'})"
    )
    assert one.keys() == two.keys() == {"event", "key", "level", "logger", "timestamp"}
    assert (one["event"], one["key"], two["event"], two["key"]) == ("hello you", "k", "hello you", "k")


def test_secrets_do_not_come_out():
    found = lines(
        "secret = Secret(b'hunter2')\n"
        "structlog.get_logger('keyd').info('x %s', secret, a=secret, b=[{'c': (secret,)}], vault_token='hunter2', "
        "headers={b'Authorization': 'hunter2', 'X-Auth-Token': 'hunter2'}, signatureBase=b'hunter2', claims={'sub': 'hunter2'})\n"
        "logging.getLogger('keyd').info('y %s', secret, extra={'pin': 'hunter2', 'deep': [secret]})\n"
    )
    assert len(found) == 2
    assert "hunter2" not in "".join(found)
    assert json.loads(found[0])["vault_token"] == log.REDACTED


@pytest.mark.parametrize("key", ["pin", "user_pin", "KEK", "authorization", "idToken", "signature_base", "DPoP-JWT", b"Cookie"])
def test_keys_that_look_secret(key):
    assert list(log.redact(None, "info", {"event": "e", "d": {key: "v"}})["d"].values()) == [log.REDACTED]


@pytest.mark.parametrize("key", ["key", "kid", "spinning", "database", "backend", "version", "keyid", "tokenizer"])
def test_keys_that_do_not(key):
    assert log.redact(None, "info", {"event": "e", key: "v"})[key] == "v"


def test_secrets_are_replaced_before_anything_could_render_them():
    event = log.redact(None, "info", {"event": "e", "a": Secret(b"x"), "positional_args": (Secret(b"x"), "y")})
    assert (event["a"], event["positional_args"]) == (log.REDACTED, (log.REDACTED, "y"))


def test_what_is_too_deep_to_look_at_is_not_shown():
    value: object = Secret(b"x")
    for _ in range(50):
        value = [value]
    assert log.REDACTED in repr(log.redact(None, "info", {"event": "e", "d": value}))


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_tracebacks_show_no_locals(fmt):
    code = (
        "def f():\n    local = 'hunter' + '2'\n    raise ValueError('why')\n"
        "for logger in (structlog.get_logger('keyd'), logging.getLogger('keyd')):\n"
        "    try:\n        f()\n    except ValueError:\n        logger.exception('failed')\n"
    )
    text = "\n".join(lines(code, fmt=fmt))
    assert text.count("ValueError: why") == 2
    assert "hunter2" not in text


def test_libraries_are_heard_from_warnings_on_even_at_debug():
    found = records(
        "for name in ('botocore.auth', 'keyd.app', 'backends.x', 'uvicorn.error'):\n"
        "    logging.getLogger(name).debug('low')\n    logging.getLogger(name).warning('high')\n",
        level="debug",
    )
    assert [(r["logger"], r["event"]) for r in found][:1] == [("botocore.auth", "high")]
    assert sum(r["event"] == "low" for r in found) == 3


def test_level_can_change_on_reload():
    code = "l = structlog.get_logger('keyd')\nl.info('one')\nlog.configure('error', 'json')\nl.info('two')\nl.error('three')"
    assert [r["event"] for r in records(code)] == ["one", "three"]


def test_python_warnings_are_logged():
    [found] = records("warnings.warn('careful')")
    assert found["logger"] == "py.warnings"
    assert "careful" in found["event"]


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_text_from_others_forges_no_line(fmt):
    found = lines("structlog.get_logger('keyd').info('a\\nb \\x1b[2J', who='c\\nd')", fmt=fmt)
    assert len(found) == 1
    assert "\x1b[2J" not in found[0]


def test_auto_is_json_away_from_a_terminal():
    assert json.loads(lines("structlog.get_logger('keyd').info('x')", fmt="auto")[0])["event"] == "x"


def test_a_record_that_cannot_be_written_is_announced_without_its_arguments():
    found = lines("logging.getLogger('keyd').info('%d', 'hunter2')")
    assert len(found) == 1
    assert "could not be written" in found[0]
    assert "hunter2" not in found[0]


def test_objects_unknown_to_json_are_shown_by_type():
    class_ = "class Mine:\n    def __repr__(self): return 'hunter2'\n"
    [found] = records(class_ + "structlog.get_logger('keyd').info('x', thing=Mine(), error=ValueError('why'))")
    assert (found["thing"], found["error"]) == ("<Mine>", "why")
