"""PKCS#11 URIs (RFC 7512) that name a token: strictly parsed, and without ever holding a PIN."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Self
from urllib.parse import quote, unquote_to_bytes

_SCHEME = "pkcs11:"
# RFC 7512 section 2.3: pk11-pchar, with "&" in the path, and with "/", "?" and "|" in the query.
_COMMON = r"A-Za-z0-9._~:\[\]@!$'()*+,=\-"
_PATH_VALUE = re.compile(rf"(?:[{_COMMON}&]|%[0-9A-Fa-f]{{2}})+")
_QUERY_VALUE = re.compile(rf"(?:[{_COMMON}/?|]|%[0-9A-Fa-f]{{2}})+")
_PATH = {"token": "token", "serial": "serial", "manufacturer": "manufacturer", "model": "model"}
_QUERY = {"module-path": "module_path", "pin-source": "pin_source"}
_REFUSED = {
    "slot-id": "slot numbers change; name the token by its token label or serial",
    "pin-value": "a PIN has no place in a configuration; write pin-source=file:/PATH, or the field pin",
    "module-name": "write module-path, or the field module",
    "object": "the URI names a token, not one of its objects; adopt a key by its handle",
    "id": "the URI names a token, not one of its objects; adopt a key by its handle",
    "type": "the URI names a token, not one of its objects; adopt a key by its handle",
}


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """The token that a URI names, and where its module and its PIN are."""

    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    module_path: str | None = None
    #: An absolute path, whether it was written as one or as a ``file:`` URI.
    pin_source: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URI.

        Raises:
            ValueError: not a URI of RFC 7512, or one that does not name a token by label or serial. The message repeats
                no value.
        """
        if text[: len(_SCHEME)].lower() != _SCHEME:
            raise ValueError(
                'not a PKCS#11 URI; write for example "pkcs11:token=keyd?module-path=/usr/lib/softhsm/libsofthsm2.so"'
            )
        path, question, query = text[len(_SCHEME) :].partition("?")
        if question and not query:
            raise ValueError("nothing after the question mark; remove it")
        values = _attributes(path, ";", _PATH, _PATH_VALUE) | _attributes(query, "&", _QUERY, _QUERY_VALUE)
        if "token" not in values and "serial" not in values:
            raise ValueError("no token is named; write its label, token=LABEL, or serial=NUMBER")
        if "module_path" in values and not values["module_path"].startswith("/"):
            raise ValueError("module-path is not an absolute path")
        if "pin_source" in values:
            values["pin_source"] = _file(values["pin_source"])
        return cls(**values)

    def __str__(self) -> str:
        path = ";".join(f"{name}={_quoted(value, '&')}" for name, value in self._present(_PATH))
        query = "&".join(f"{name}={_quoted(value, '/?|')}" for name, value in self._present(_QUERY))
        return f"{_SCHEME}{path}?{query}" if query else f"{_SCHEME}{path}"

    def describe(self) -> str:
        """Name the token for people: by label, or by serial number where there is no label."""
        return repr(self.token) if self.token is not None else f"with serial {self.serial!r}"

    def _present(self, names: dict[str, str]) -> list[tuple[str, str]]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return [(name, values[field]) for name, field in names.items() if values[field] is not None]


def _attributes(text: str, separator: str, known: dict[str, str], allowed: re.Pattern[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in text.split(separator) if text else []:
        name, _, value = part.partition("=")
        if name in _REFUSED:
            raise ValueError(f"{name} is not taken: {_REFUSED[name]}")
        if name not in known:
            shown = f"the attribute {name}" if re.fullmatch(r"[a-z0-9-]{1,40}", name) else "an attribute here"
            raise ValueError(f"{shown} is not one of {', '.join(known)}")
        if known[name] in values:
            raise ValueError(f"{name} is given twice")
        if allowed.fullmatch(value) is None:
            raise ValueError(f"{name} is empty or has a character that must be percent-encoded, such as a space as %20")
        values[known[name]] = _decoded(name, value)
    return values


def _decoded(name: str, value: str) -> str:
    try:
        text = unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 once it is percent-decoded") from error
    if "\0" in text:
        raise ValueError(f"{name} contains a NUL")
    return text


def _file(source: str) -> str:
    """Return the path of a pin-source; RFC 7512 section 2.4 leaves to the application which kinds it takes."""
    path = source.removeprefix("file:")
    if path.startswith("///"):
        path = path.removeprefix("//")
    if not path.startswith("/") or path.startswith("//"):
        raise ValueError("pin-source is not file:/PATH; no other place and no program is taken")
    return path


def _quoted(value: str, also: str) -> str:
    return quote(value, safe=":[]@!$'()*+,=" + also)
