"""The file that a backup is: a tar (POSIX.1-1988 ustar) under gzip (RFC 1952), whose first member says what else must be in it.

It comes from outside, so nothing in it is believed: names are of a narrow form and never become paths here, sizes are bounded, and what
the manifest does not announce, in that order, with that size and digest, makes the whole file refused. The digests find damage. They
do not tell who made the file: who can write to it can also write another manifest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

#: Bytes of a whole backup before compression. What is larger is neither written nor read.
MAX_SIZE = 1 << 30
_MANIFEST = "manifest.json"
_MAX_MANIFEST = 64 << 20
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,98}"
_NAME = re.compile(rf"tables/{_PART}\.jsonl|backends/{_PART}/{_PART}", re.ASCII)


class BackupError(Exception):
    """A backup cannot be made, read or restored. The message says why, and what to do."""


def _moment(value: str) -> str:
    datetime.fromisoformat(value)  # ValueError for the 99th of a month
    return value


class BackendPart(BaseModel):
    """A backend that keys are in: its type, and whether their private keys, encrypted, are in the backup."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: str
    private_keys: bool


class _Member(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=220)]
    size: Annotated[int, Field(ge=0, le=MAX_SIZE)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    keyd: Annotated[str, Field(max_length=64)]
    revision: Annotated[str, Field(max_length=32)]
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"), AfterValidator(_moment)]
    backends: dict[str, BackendPart]
    members: list[_Member]


@dataclass(frozen=True, slots=True)
class Backup:
    """A whole backup, in memory.

    Attributes:
        keyd: the release that made it.
        schema: the revision of the database that its rows are of.
        time: when the rows were read, RFC 3339 in UTC.
        backends: those that keys are in, by name.
        members: contents by name: ``tables/TABLE.jsonl`` and ``backends/NAME/FILE``.
    """

    keyd: str
    schema: str
    time: str
    backends: Mapping[str, BackendPart]
    members: Mapping[str, bytes]

    def write(self, stream: IO[bytes]) -> None:
        """Write it. Raises BackupError when it is larger than anybody would read, or a backend named a file as none may be."""
        for name in self.members:
            if _NAME.fullmatch(name) is None:
                raise BackupError(f"{name!r} cannot be the name of a member of a backup")
        manifest = self._manifest()
        if len(manifest) > _MAX_MANIFEST or len(manifest) + sum(map(len, self.members.values())) > MAX_SIZE:
            raise BackupError(f"the backup would be larger than {MAX_SIZE >> 20} MiB, the most that is restored")
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as compressed,
            tarfile.open(mode="w|", fileobj=compressed, format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name, content in ((_MANIFEST, manifest), *self.members.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o600
                archive.addfile(entry, io.BytesIO(content))

    def _manifest(self) -> bytes:
        members = [
            _Member(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in self.members.items()
        ]
        manifest = _Manifest(
            format=1, keyd=self.keyd, revision=self.schema, time=self.time, backends=dict(self.backends), members=members
        )
        return manifest.model_dump_json(indent=1).encode() + b"\n"

    @classmethod
    def read(cls, stream: IO[bytes]) -> Backup:
        """Read one that :meth:`write` wrote.

        Raises:
            BackupError: it is none, or not whole.
            OSError: the stream cannot be read.
        """
        try:
            with gzip.GzipFile(mode="rb", fileobj=stream) as compressed:
                bounded = _Bounded(compressed)
                backup = cls._from(_entries(bounded))
                while bounded.read(1 << 16):
                    pass  # to the end, where gzip has the checksum of the whole
                return backup
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as exc:
            raise BackupError("this is no backup of keyd, or it is cut or damaged; take another copy") from exc

    @classmethod
    def _from(cls, entries: Iterator[tuple[str, bytes]]) -> Backup:
        first = next(entries, None)
        if first is None or first[0] != _MANIFEST or len(first[1]) > _MAX_MANIFEST:
            raise BackupError("this is no backup of keyd: it does not begin with a manifest")
        manifest = _parse(first[1])
        members: dict[str, bytes] = {}
        for announced in manifest.members:
            if _NAME.fullmatch(announced.name) is None or announced.name in members:
                raise BackupError(f"the manifest has {announced.name!r}, which no backup of keyd has, or has once")
            name, content = next(entries, ("", b""))
            if name != announced.name:
                raise BackupError(f"{announced.name} is missing; take another copy of the backup")
            if len(content) != announced.size or hashlib.sha256(content).hexdigest() != announced.sha256:
                raise BackupError(f"{announced.name} is damaged; take another copy of the backup")
            members[name] = content
        if next(entries, None) is not None:
            raise BackupError("there is more in it than its manifest says; take another copy of the backup")
        return cls(manifest.keyd, manifest.revision, manifest.time, manifest.backends, members)


class _Bounded:
    """Gives out so many bytes and no more: a small file can be a large one, compressed."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left = MAX_SIZE + _MAX_MANIFEST

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise _too_large()
        return chunk


def _too_large() -> BackupError:
    return BackupError(f"it is larger than {MAX_SIZE >> 20} MiB, and so no backup of keyd")


def _entries(stream: _Bounded) -> Iterator[tuple[str, bytes]]:
    """Return names and contents of plain files, until the block of zeros behind them.

    Only single headers are given to tarfile. A whole archive makes it follow extensions that no backup has, among them sparse files,
    which are of any size at no cost.
    """
    while any(block := _exactly(stream, tarfile.BLOCKSIZE)):
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if entry.type != tarfile.REGTYPE:
            raise BackupError(f"{entry.name[:200]!r} is not a plain file, as all in a backup of keyd are")
        if entry.size < 0:
            raise tarfile.ReadError("a negative size")
        if entry.size > MAX_SIZE:
            raise _too_large()
        content = _exactly(stream, entry.size)
        _exactly(stream, -entry.size % tarfile.BLOCKSIZE)
        yield entry.name, content


def _exactly(stream: _Bounded, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _parse(content: bytes) -> _Manifest:
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise BackupError("its manifest is not JSON; take another copy of the backup") from exc
    known = document.get("format") if isinstance(document, dict) else None
    if known != 1:
        raise BackupError("its format is not one that this keyd knows; use the release that made it, or a newer one")
    try:
        return _Manifest.model_validate_json(content)
    except ValidationError as exc:
        place = ".".join(str(part) for part in exc.errors()[0]["loc"])
        raise BackupError(f"its manifest is not as keyd writes it (at {place[:100]}); take another copy of the backup") from exc
