"""How keyd's names look in KMS: aliases, tags and the handles of keys."""

from __future__ import annotations

import re

from backends.errors import BackendError, KeyNotFoundError

KEY_TAG = "keyd:key"
VERSION_TAG = "keyd:version"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAX_VERSION = 10**10
_END = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9/_-]{0,62})/v(?P<version>[1-9][0-9]{0,9})")
# A key id, `mrk-` and all, or the ARN of a key. Never an alias: somebody could point it to another key.
_HANDLE = re.compile(r"(?:arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/)?[A-Za-z0-9-]{1,128}")


def alias_for(prefix: str, name: str, version: int) -> str:
    """Return the alias of a version. KMS knows no dot in aliases, and keyd no slash in names, so one stands for the other.

    Raises:
        BackendError: there is no alias for this name and version.
    """
    if _NAME.fullmatch(name) is None or not 0 < version < _MAX_VERSION:
        raise BackendError(f"{name!r} version {version} cannot be the alias of a key in KMS; use another name")
    return f"alias/{prefix}/{name.replace('.', '/')}/v{version}"


def parse_alias(prefix: str, alias: str) -> tuple[str, int] | None:
    """Return the name and version that an alias was made for, or None when it is not one of :func:`alias_for`."""
    start = f"alias/{prefix}/"
    match = _END.fullmatch(alias.removeprefix(start)) if alias.startswith(start) else None
    return None if match is None else (match["name"].replace("/", "."), int(match["version"]))


def check_handle(handle: str) -> None:
    """Refuse whatever is neither the id nor the ARN of a key.

    Raises:
        KeyNotFoundError: it is something else, an alias for example.
    """
    if _HANDLE.fullmatch(handle) is None:
        raise KeyNotFoundError(f"{handle[:200]!r} is neither the id nor the arn of a key in KMS; aliases are not taken")
