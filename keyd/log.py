"""The log: structlog and the standard library's logging, through one chain, to standard error."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Mapping
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from backends.secrets import Secret

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

REDACTED = "*****"

#: A value is redacted when a word of its key is one of these: ``vault_token``, ``X-Auth-Token``, ``signatureBase``.
_SECRET_WORDS = frozenset(
    {"pin", "token", "tokens", "passphrase", "password", "passwd", "secret", "secrets", "kek", "credential", "credentials"}
    | {"authorization", "cookie", "base", "claims", "jwt", "jws", "payload", "dpop", "private"}
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: Everything else is heard from warnings on: SDKs and HTTP libraries log requests, with their credentials, when asked for more.
_OURS = ("keyd", "backends", "uvicorn")
_MAX_DEPTH = 8


def configure(level: Level, fmt: Format) -> None:
    """Send every log of this process to standard error, as lines of JSON or for people. May be called again, on reload.

    ``auto`` is for people when standard error is a terminal. Tracebacks never show local variables.
    """
    console = fmt == "console" or (fmt == "auto" and sys.stderr.isatty())
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *chain,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    final: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact]
    if console:
        plain = structlog.dev.plain_traceback  # the default one shows locals when rich is installed
        final += [_escape, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    else:
        final += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=_unknown)]
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *chain], processors=final)
    )
    _route(handler, logging.getLevelNamesMapping()[level.upper()])


def _route(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # who asks for a public document, and how often, must not fill a disk
    logging.captureWarnings(capture=True)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in the stubs only
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say that a record is lost. The inherited method would print its arguments, unredacted."""
        with contextlib.suppress(OSError, ValueError):  # standard error itself may be gone
            self.stream.write(f"keyd: a log record of {record.name} line {record.lineno} could not be written\n")


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Replace what looks secret by its key, and every :class:`backends.secrets.Secret`, at any depth."""
    event_dict.pop("color_message", None)  # uvicorn's event again, in colour
    for key, value in event_dict.items():
        event_dict[key] = value if key in {"_record", "_from_structlog", "exc_info"} else _redacted(key, value, 0)
    return event_dict


def _redacted(key: object, value: object, depth: int) -> object:
    if isinstance(value, Secret) or (value is not None and _looks_secret(key)):
        return REDACTED
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return value
    if depth == _MAX_DEPTH:
        return REDACTED  # what was not looked at is not shown
    if isinstance(value, Mapping):
        # JSON takes keys of few types; a record with another would be lost.
        return {_text(k): _redacted(k, v, depth + 1) for k, v in value.items()}
    items = [_redacted(None, item, depth + 1) for item in value]
    return tuple(items) if isinstance(value, tuple) else items


def _looks_secret(key: object) -> bool:
    return not _SECRET_WORDS.isdisjoint(word.lower() for word in _WORD.findall(_text(key)))


def _text(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def _escape(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Keep text from others from forging lines or driving the terminal."""
    for key, value in event_dict.items():
        if isinstance(value, str) and not value.isprintable():
            event_dict[key] = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
    return event_dict


def _unknown(value: object) -> str:
    """Name the type of what JSON does not have: its repr could hold anything."""
    return str(value) if isinstance(value, (Exception, Secret)) else f"<{type(value).__name__}>"
