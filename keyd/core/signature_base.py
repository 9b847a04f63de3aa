"""Signature bases of RFC 9421, read strictly: what keyd signs for purposes ``http`` and ``directory``.

The canonical form of an inner list is unique (RFC 8941 section 4.1), so nothing is parsed and serialised again to compare:
each identifier is held to a grammar that has the canonical form only, and the list must be exactly those identifiers.
Input is hostile: every pattern is anchored and reads each byte once.

Requests of one agent mostly cover the same components. What their identifiers say is kept as a :class:`Shape`, and a further base of that shape
only has its values and parameters read. A base that does not fit a shape in every byte is read in full, which alone refuses.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from keyd.core.errors import MalformedError, SizeError

MAX_BYTES = 16384
DIRECTORY_TAG = "http-message-signatures-directory"

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_STRING = r'"[ !#-\[\]-~]*+(?:\\["\\][ !#-\[\]-~]*+)*+"'
_HOST = r"(?:\[[0-9a-f:.]++\]|[a-z0-9._\-]++)"

_CHARACTERS = bytes([0x09, 0x0A, *range(0x20, 0x7F)])
_IDENTIFIER = re.compile(rf'"([ !#-\[\]-~]*+)"((?:;[a-z*][a-z0-9_.*\-]*+(?:={_STRING})?+)*+)')
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]++")
_COMPONENT_PARAMETER = re.compile(rf";([a-z*][a-z0-9_.*\-]*+)(?:=({_STRING}))?+")
_SIGNATURE_PARAMETER = re.compile(rf";(?:(created|expires)=(0|[1-9][0-9]{{0,14}}+)|(nonce|alg|keyid|tag)=({_STRING}))")
#: All parameters at once, each at most once: ``(?(n)(?!))`` fails where group n has matched already.
_SIGNATURE_PARAMETERS = re.compile(
    "(?:;(?:"
    + "|".join(
        [
            *(rf"{name}=(?({group})(?!))(0|[1-9][0-9]{{0,14}}+)" for group, name in enumerate(("created", "expires"), 1)),
            *(rf"{name}=(?({group})(?!))({_STRING})" for group, name in enumerate(("nonce", "alg", "keyid", "tag"), 3)),
        ]
    )
    + "))*"
)
_ESCAPE = re.compile(r"\\(.)")
_PORT = r"(?::[0-9]{1,5}+)?+"
_PATH = r"/[!\"$->@-~]*+"
_QUERY = r"\?[!\"$-~]*+"
_TARGET_URI = re.compile(rf"(https?)://({_HOST}{_PORT})((?:{_PATH})?+)(?:{_QUERY})?+", re.IGNORECASE)

#: The derived components of RFC 9421 section 2.2, and the form of their values.
_DERIVED = {
    "@method": re.compile(_TCHARS),
    "@target-uri": _TARGET_URI,
    "@authority": re.compile(_HOST + _PORT),
    "@scheme": re.compile(r"[a-z][a-z0-9+.\-]*+"),
    "@request-target": re.compile(r"[!-~]++"),
    "@path": re.compile(_PATH),
    "@query": re.compile(_QUERY),
    "@query-param": re.compile(r"[!-~]*+"),
    "@status": re.compile(r"[1-9][0-9]{2}"),
}
_FLAGS = frozenset({"sf", "bs", "tr", "req"})
_STRINGS = frozenset({"key", "name"})
_FIELD_ONLY = frozenset({"sf", "bs", "key", "tr"})
_ENCODINGS = frozenset({"sf", "bs", "key"})
_NO_PARAMS: Mapping[str, str | bool] = MappingProxyType({})
_LAST_LINE = '"@signature-params": '
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_KEPT_IDENTIFIER = 80  # characters; longer ones are read anew each time, so that the cache stays small
_KEPT_COMPONENTS, _KEPT_SHAPES = 24, 256


class Component(NamedTuple):
    """One covered component. ``value`` may hold a bearer token: never show it."""

    name: str
    params: Mapping[str, str | bool]
    value: str
    #: The component identifier as it stands in the base, for example ``"@query-param";name="q"``.
    identifier: str

    def __repr__(self) -> str:
        return f"Component({self.identifier})"


#: Makes a Component of a tuple of its members, in half of the time of a call with arguments.
_new_component: Callable[[tuple[str, Mapping[str, str | bool], str, str]], Component] = functools.partial(
    tuple.__new__, Component
)


class Shape:
    """Which components a base covers, without their values.

    Attributes:
        head: the last line up to the parameters.
        lines: for each line above it how it begins, how long that is, the form of the value (None: of a field), and the first two and the last
            members of its :class:`Component`.
        suits: rules about what is covered that bases of this shape are known to meet; for :func:`keyd.core.profile.check_base`.
    """

    __slots__ = ("head", "lines", "suits")

    def __init__(self, components: tuple[Component, ...]) -> None:
        self.head = f"{_LAST_LINE}({' '.join([c.identifier for c in components])})"
        self.lines = tuple([_line_of(component) for component in components])
        self.suits: list[object] = []

    def note(self, rules: object) -> None:
        """Keep that bases of this shape meet ``rules``."""
        if len(self.suits) >= 8:
            self.suits.clear()
        self.suits.append(rules)


class SignatureBase(NamedTuple):
    """A signature base that is well formed; whether a key may sign it is for :func:`keyd.core.profile.check_base`.

    Attributes:
        components: the covered components in order, without ``@signature-params``.
        parameters: names of the signature parameters that are present.
        signature_params: value of the last line, as it stands in the base; None: there is no such line (:mod:`keyd.core.unsigned_base`).
        created: seconds since the epoch, like ``expires``.
        shape: the same object for bases that cover the same components; None: not one that is kept.
    """

    components: tuple[Component, ...]
    parameters: frozenset[str]
    signature_params: str | None
    created: int | None = None
    expires: int | None = None
    nonce: str | None = None
    alg: str | None = None
    keyid: str | None = None
    tag: str | None = None
    shape: Shape | None = None

    def __repr__(self) -> str:
        return f"SignatureBase({' '.join(c.identifier for c in self.components)})"

    def value(self, name: str) -> str | None:
        """Return the value of the first component of that name that is of this message, not of the request (``;req``)."""
        return next((c.value for c in self.components if c.name == name and "req" not in c.params), None)

    @property
    def method(self) -> str | None:
        """Value of ``@method``."""
        return self.value("@method")

    @property
    def authority(self) -> str | None:
        """``host[:port]`` of ``@authority``, else of ``@target-uri`` in the same form: lower case, no default port."""
        value = self.value("@authority")
        uri = self._target_uri() if value is None else None
        if uri is None:
            return value
        return uri[2].lower().removesuffix(_DEFAULT_PORTS[uri[1].lower()])

    @property
    def path(self) -> str | None:
        """Value of ``@path``, else the path of ``@target-uri``. Not normalised: dot segments stay."""
        value = self.value("@path")
        uri = self._target_uri() if value is None else None
        return value if uri is None else uri[3] or "/"

    def serialise(self) -> bytes:
        """Return the base in octets: what was parsed, byte for byte."""
        lines = [f"{c.identifier}: {c.value}" for c in self.components]
        if self.signature_params is not None:
            lines.append(_LAST_LINE + self.signature_params)
        return "\n".join(lines).encode("ascii")

    def _target_uri(self) -> re.Match[str] | None:
        value = self.value("@target-uri")
        return None if value is None else _TARGET_URI.fullmatch(value)


_new_base: Callable[[tuple[Any, ...]], SignatureBase] = functools.partial(tuple.__new__, SignatureBase)


def parse(data: bytes) -> SignatureBase:
    """Read a signature base (RFC 9421 section 2.5): ASCII octets, lines split by LF, none after the last.

    Raises:
        SizeError: more than :data:`MAX_BYTES`.
        MalformedError: not a signature base, or not in its one canonical form.
    """
    lines = split(data)
    last = lines.pop()
    listed = last.partition(")")[0]
    shape = _shapes.get(listed)
    base = None if shape is None else _read_by_shape(shape, lines, last)
    if base is None:
        base = _read_in_full(lines, last)
        base = base._replace(shape=_keep_shape(base.components, listed))
    return base


def _read_in_full(lines: list[str], last: str) -> SignatureBase:
    if not last.startswith(_LAST_LINE):
        raise MalformedError('the last line of a signature base is "@signature-params", without a line feed after it')
    components = read_components(lines)
    listed = f"({' '.join([c.identifier for c in components])})"
    if not last.startswith(listed, len(_LAST_LINE)):
        raise MalformedError(
            '"@signature-params" does not list the identifiers of the lines above it, in order, in canonical form'
        )
    parameters = _signature_parameters(last, len(_LAST_LINE) + len(listed))
    return SignatureBase(components, frozenset(parameters), last[len(_LAST_LINE) :], **parameters)


#: By the last line up to its first ")". That two shapes may have the same there costs time and nothing else.
_shapes: dict[str, Shape] = {}


def _keep_shape(components: tuple[Component, ...], listed: str) -> Shape | None:
    if len(components) > _KEPT_COMPONENTS or any(len(c.identifier) > _KEPT_IDENTIFIER for c in components):
        return None
    if len(_shapes) >= _KEPT_SHAPES:
        del _shapes[next(iter(_shapes))]  # the oldest: one that is still in use is there again at once
    shape = _shapes[listed] = Shape(components)
    return shape


def _line_of(component: Component) -> tuple[str, int, re.Pattern[str] | None, str, Mapping[str, str | bool], str]:
    start = f"{component.identifier}: "
    return start, len(start), _DERIVED.get(component.name), component.name, component.params, component.identifier


def _read_by_shape(shape: Shape, lines: list[str], last: str) -> SignatureBase | None:
    """Read a base of which only values and parameters are not known yet; None: it has another shape, or is malformed."""
    if len(lines) != len(shape.lines) or not last.startswith(shape.head):
        return None
    match = _SIGNATURE_PARAMETERS.fullmatch(last, len(shape.head))
    if match is None:
        return None
    components = []
    for line, (start, length, form, name, params, identifier) in zip(lines, shape.lines):  # noqa: B905 - as long; it costs time
        value = line[length:]
        if not line.startswith(start) or not (form.fullmatch(value) if form is not None else value.strip(" \t") == value):
            return None
        components.append(_new_component((name, params, value, identifier)))
    created, expires, nonce, alg, keyid, tag = match.groups()
    return _new_base(
        (
            tuple(components),
            _present((created is None, expires is None, nonce is None, alg is None, keyid is None, tag is None)),
            last[len(_LAST_LINE) :],
            None if created is None else int(created),
            None if expires is None else int(expires),
            None if nonce is None else _unquote(nonce),
            None if alg is None else _unquote(alg),
            None if keyid is None else _unquote(keyid),
            None if tag is None else _unquote(tag),
            shape,
        )
    )


@functools.cache  # of 64
def _present(missing: tuple[bool, ...]) -> frozenset[str]:
    names = ("created", "expires", "nonce", "alg", "keyid", "tag")
    return frozenset(name for name, absent in zip(names, missing, strict=True) if not absent)


def split(data: bytes) -> list[str]:
    """Return the lines of what shall be a signature base: at least one. Raises as :func:`parse`."""
    if len(data) > MAX_BYTES:
        raise SizeError(f"a signature base has at most {MAX_BYTES} bytes, got {len(data)}")
    if not data.startswith(b'"') or data.translate(None, _CHARACTERS):
        raise MalformedError('a signature base is ASCII, starts with " and has no control characters but LF and HTAB')
    return data.decode("ascii").split("\n")


def read_components(lines: list[str]) -> tuple[Component, ...]:
    """Read the lines above ``@signature-params``, one component each, none twice. Raises MalformedError."""
    components = tuple([_component(line, number) for number, line in enumerate(lines, 1)])
    if len({c.name for c in components}) != len(components):
        _refuse_duplicates(components)
    return components


class _Identifier(NamedTuple):
    name: str
    params: Mapping[str, str | bool]
    form: re.Pattern[str] | None  # of the value; None for a field


def _component(line: str, number: int) -> Component:
    text, colon, value = line.partition(": ")
    try:
        identifier = _kept_identifier(text) if len(text) <= _KEPT_IDENTIFIER else _identifier(text)
        if identifier is None:  # perhaps there is a colon within a parameter
            match = _IDENTIFIER.match(line)
            end = match.end() if match else 0
            text, colon, value = line[:end], line[end : end + 2], line[end + 2 :]
            identifier = _identifier(text)
        if identifier is None or colon != ": ":
            raise MalformedError("is not a component identifier in canonical form, a colon, a space and a value")
        name, params, form = identifier
        if form is None:
            if value.strip(" \t") != value:
                raise MalformedError("has white space at an end of its value")
        elif not form.fullmatch(value):
            raise MalformedError(f"has a value that {name} cannot have")
    except MalformedError as error:
        raise MalformedError(f"line {number} {error}") from None
    return Component(name, params, value, text)


def _identifier(text: str) -> _Identifier | None:
    """Read a component identifier; None when it has not the form of one. The errors lack the number of the line."""
    match = _IDENTIFIER.fullmatch(text)
    if match is None:
        return None
    name, raw = match.groups()
    params = _component_parameters(raw) if raw else _NO_PARAMS
    if name.startswith("@"):
        return _Identifier(name, params, _derived_form(name, params))
    if not _FIELD_NAME.fullmatch(name):
        raise MalformedError("names neither a field, in lower case, nor a derived component")
    if "name" in params or len(_ENCODINGS & params.keys()) > 1:
        raise MalformedError("has the parameter name, which no field has, or two of sf, bs and key, which exclude each other")
    return _Identifier(name, params, None)


_kept_identifier = functools.lru_cache(maxsize=512)(_identifier)


def _component_parameters(raw: str) -> Mapping[str, str | bool]:
    params: dict[str, str | bool] = {}
    for name, string in _COMPONENT_PARAMETER.findall(raw):
        if name in params or name not in (_STRINGS if string else _FLAGS):
            raise MalformedError("has a component parameter that is unknown, repeated or of the wrong type")
        params[name] = _unquote(string) if string else True
    return MappingProxyType(params)


def _derived_form(name: str, params: Mapping[str, str | bool]) -> re.Pattern[str]:
    form = _DERIVED.get(name)
    if form is None:
        raise MalformedError("names a derived component that RFC 9421 does not have, or not above the last line")
    if not _FIELD_ONLY.isdisjoint(params) or ("name" in params) != (name == "@query-param"):
        raise MalformedError(f"has a parameter that {name} cannot have, or lacks one that it needs")
    return form


def _refuse_duplicates(components: tuple[Component, ...]) -> None:
    """Compare identifiers without regard to the order of their parameters (RFC 9421 section 2)."""
    distinct = {(c.name, frozenset(c.params.items())) if c.params else c.name for c in components}
    if len(distinct) != len(components):
        raise MalformedError("a component is covered twice")


def _signature_parameters(line: str, position: int) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    while position < len(line):
        match = _SIGNATURE_PARAMETER.match(line, position)
        if match is None or (match[1] or match[3]) in parameters:
            raise MalformedError(
                "after the list stand only ;created and ;expires as integers and ;nonce, ;alg, ;keyid and ;tag as strings, "
                "each at most once and in canonical form"
            )
        name, integer, text, string = match.groups()
        parameters[name or text] = int(integer) if name else _unquote(string)
        position = match.end()
    return parameters


def _unquote(string: str) -> str:
    text = string[1:-1]
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text
