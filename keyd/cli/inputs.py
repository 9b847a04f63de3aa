"""Reads what is to be signed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keyd.cli.errors import Rejected

MAX_BYTES = 1024 * 1024  # far above what any daemon signs; keeps an endless pipe from filling the memory


def read(path: str) -> bytes:
    """Return what is in a file, or in standard input for ``-``.

    Raises:
        click.ClickException: it cannot be read, or (Rejected) is too large to be signed.
    """
    data = _read(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Rejected(f"{path} is larger than 1 MiB; keyd signs whole inputs of at most 64 KiB")
    return data


def read_body(path: str) -> bytes:
    """Return the whole of a file, of any size, or of standard input for ``-``: keyd signs the digest of a body, not the body.

    Raises:
        click.ClickException: it cannot be read.
    """
    return _read(path, -1)


def _read(path: str, size: int) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(size)
    try:
        with Path(path).open("rb") as file:
            return file.read(size)
    except OSError as exc:
        raise click.ClickException(f"cannot read {path}: {exc.strerror}") from None
