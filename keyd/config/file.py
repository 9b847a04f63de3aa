"""The configuration file: which one it is, its text, and its TOML. What it says is for :mod:`keyd.config.loader`."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from keyd.config.problems import ConfigError, Problem

DEFAULT_PATH = Path("/etc/keyd/keyd.toml")
TOO_DEEP = "arrays or tables are nested too deep"

_MAX_SIZE = 1024 * 1024


def find(option: Path | None = None) -> Path | None:
    """Return the configuration file: ``option``, else ``$KEYD_CONFIG``, else /etc/keyd/keyd.toml if that is there, else None.

    Only the last may be absent. What was named but cannot be read is for :func:`read` to refuse.
    """
    if option is not None:
        return option
    named = os.environ.get("KEYD_CONFIG", "")
    if named:
        return Path(named)
    try:
        DEFAULT_PATH.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may be there, and to run without it would be to run without its rules
    return DEFAULT_PATH


def read(path: Path) -> str:
    """Return the text of a configuration file. Raises ConfigError when it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a path"
        raise ConfigError([Problem("", f"cannot read the configuration file: {reason}")], path) from error
    if len(content) > _MAX_SIZE:
        raise ConfigError([Problem("", f"the configuration file is larger than {_MAX_SIZE} bytes")], path)
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem("", "the configuration file is not UTF-8", line=line)], path) from None


def parse(content: str, path: Path | None) -> dict[str, Any]:
    """Return the tables of a configuration that was read from ``path``. Raises ConfigError where it is not TOML."""
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(content, error)], path) from None
    except RecursionError:
        raise ConfigError([Problem("", TOO_DEEP)], path) from None
    except ValueError:  # from int(), which has a limit
        raise ConfigError([Problem("", "a number is too long")], path) from None


def _syntax(content: str, error: tomllib.TOMLDecodeError) -> Problem:
    message, _, place = str(error).partition(" (at ")
    match = re.fullmatch(r"line (\d+), column (\d+)\)", place)
    line, column = (int(match[1]), int(match[2])) if match else (content.count("\n") + 1, len(content.rpartition("\n")[2]) + 1)
    # Some messages end with a character or key of the file. The line is enough to find it.
    message = re.split(r"[:'\"(]", message)[0].strip()
    return Problem("", f"not TOML: {message[:1].lower()}{message[1:]} at column {column}", line=line)
