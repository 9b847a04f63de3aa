"""Reads a private key for import, from a file, a pipe or a .env file. It writes nothing, and quotes nothing in errors."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import click

from keyd.cli.errors import Rejected
from keyd.cli.output import warn

MAX_BYTES = 64 * 1024

_PEM_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
# One assignment of a .env file: double-quoted (escapes, may span lines), single-quoted (literal, may span lines), or bare.
_ASSIGNMENT = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*"""
    r"""(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>[^']*)'|(?P<bare>[^\r\n]*))""",
    re.MULTILINE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True)
class Material:
    """A private key as the import call takes it."""

    kind: str  # "pkcs8_pem" or "private_jwk"
    data: bytes = field(repr=False)


def read_source(path: str) -> bytes:
    """Return what is in a file, or in standard input for ``-``; warn of a file that others can read.

    Raises:
        click.ClickException: it cannot be read, or (Rejected) is too large for a private key.
    """
    if path == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        try:
            with Path(path).open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(MAX_BYTES + 1)
        except OSError as exc:
            raise click.ClickException(f"cannot read {path}: {exc.strerror}") from None
        if mode & 0o077:
            warn([f"{path} can be read or changed by others (mode {mode:04o}); count its key as known to them"])
    if len(data) > MAX_BYTES:
        raise Rejected(f"{path} is larger than {MAX_BYTES} bytes; that is no private key")
    return data


def from_env_file(data: bytes, variable: str, path: str) -> bytes:
    r"""Return the value of one variable of a .env file; ``\n`` in a PEM stands for a line end.

    Raises:
        Rejected: the variable is not there, is there twice, or the file is not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Rejected(f"{path} is not UTF-8 text") from None
    found = [match for match in _ASSIGNMENT.finditer(text) if match["name"] == variable]
    if len(found) != 1:
        raise Rejected(f"{path} sets {variable} {len(found)} times; it must do so once")
    match = found[0]
    if match["double"] is not None:
        value = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match["double"], flags=re.DOTALL)
    elif match["single"] is not None:
        value = match["single"]
    else:
        value = match["bare"].strip()
    if "-----BEGIN" in value:
        value = value.replace("\\r", "").replace("\\n", "\n")
    return value.encode()


def detect(data: bytes, path: str) -> Material:
    """Tell PKCS#8 PEM from JWK by content.

    Raises:
        Rejected: it is neither, or an encrypted or older form; says how to convert it in a pipe.
    """
    if data.lstrip().startswith(b"{"):
        return Material("private_jwk", data.strip())
    labels = [label.decode() for label in _PEM_LABEL.findall(data)]
    source = "FILE" if path == "-" else path
    pipe = f"openssl pkey -in {source} | keyd key import NAME -"
    if labels == ["PRIVATE KEY"]:
        return Material("pkcs8_pem", data.strip() + b"\n")
    if "ENCRYPTED PRIVATE KEY" in labels or b"Proc-Type: 4,ENCRYPTED" in data:
        raise Rejected(f"{path} is an encrypted PEM; decrypt it on the fly, without a copy on disk: {pipe}")
    if "OPENSSH PRIVATE KEY" in labels:
        raise Rejected(f"{path} is in OpenSSH's own format; keyd reads PKCS#8 PEM and private JWKs")
    if any(label.endswith(" PRIVATE KEY") for label in labels):
        raise Rejected(f"{path} is a PEM of an older form ({labels[-1]}); convert it on the fly: {pipe}")
    if "PRIVATE KEY" in labels:
        raise Rejected(f"{path} holds {len(labels)} PEM blocks; give the one with the private key alone")
    if labels:
        raise Rejected(f"{path} holds no private key, but: {', '.join(labels)}")
    raise Rejected(f"{path} is neither a PKCS#8 private key in PEM nor a private JWK")


def stdin_is_terminal() -> bool:
    """Tell whether ``-`` would read what is typed."""
    return sys.stdin.isatty()
