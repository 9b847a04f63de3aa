"""Signature bases that are broken: one mutation each, and which reasons keyd may give for refusing it.

That a mutation breaks the base follows from how it is made, never from asking keyd. Where it might not, it returns None.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hostile.draft import REQUIRED, Draft, Target, quoted

MALFORMED = frozenset({"MALFORMED"})
COVERAGE = frozenset({"COVERAGE"})
FRESHNESS = frozenset({"FRESHNESS"})
KEYID = frozenset({"KEYID"})
ALGORITHM = frozenset({"ALGORITHM"})
TAG = frozenset({"TAG"})
AAUTH = frozenset({"aauth", "aauth-server", "hwk", "jkt-jwt"})
EXACT = frozenset({"lumoauth", "lumoauth-legacy"})


@dataclass(frozen=True)
class Context:
    """What a mutation may draw from.

    Attributes:
        others: kids and thumbprints of other keys of the same daemon.
        now: seconds since the epoch.
    """

    rng: random.Random
    target: Target
    draft: Draft
    now: int
    others: list[str]

    @property
    def style(self) -> str:
        return self.target.style

    def structure(self, role: str = "structure") -> list[int]:
        """Return the places of the pieces with this role."""
        return [i for i, (kind, text) in enumerate(self.draft.pieces()) if kind == role and text]


Result = bytes | Draft | None
Mutation = Callable[[Context], Result]
BASES: dict[str, tuple[frozenset[str], Mutation]] = {}


def breaks(name: str, reasons: frozenset[str] = MALFORMED) -> Callable[[Mutation], Mutation]:
    def register(function: Mutation) -> Mutation:
        assert name not in BASES
        BASES[name] = reasons, function
        return function

    return register


def signed(function: Mutation) -> Mutation:
    """Leave out bases without ``@signature-params``."""
    return lambda c: function(c) if c.draft.signed_params else None


def several(name: str, reasons: frozenset[str], values: list[str], change: Callable[[Context, str], Result]) -> None:
    """Register one mutation that draws from ``values``."""
    breaks(name, reasons)(lambda c: change(c, c.rng.choice(values)))


# --- lines and list -------------------------------------------------------------------------------------------------------


@breaks("lines: one twice")
def _(c: Context) -> Result:
    draft = c.draft.copy()
    draft.lines.insert(c.rng.randrange(len(draft.lines) + 1), c.rng.choice(draft.lines))
    return draft


@breaks("lines: one removed, still listed")
@signed
def _(c: Context) -> Result:
    draft = c.draft.copy()
    del draft.lines[c.rng.randrange(len(draft.lines))]
    return draft


@breaks("lines: one added, not listed")
@signed
def _(c: Context) -> Result:
    draft = c.draft.copy()
    draft.lines.insert(c.rng.randrange(len(draft.lines) + 1), (f'"x-{c.rng.randrange(10**6)}"', "1"))
    return draft


@breaks("lines: in another order than listed")
@signed
def _(c: Context) -> Result:
    if len(c.draft.lines) < 2:
        return None
    draft = c.draft.copy()
    a, b = c.rng.sample(range(len(draft.lines)), 2)
    draft.lines[a], draft.lines[b] = draft.lines[b], draft.lines[a]
    return draft


@breaks("list: one removed, the line stays")
@signed
def _(c: Context) -> Result:
    draft = c.draft.copy()
    del draft.listed[c.rng.randrange(len(draft.listed))]
    return draft


@breaks("list: one added, without a line")
@signed
def _(c: Context) -> Result:
    draft = c.draft.copy()
    draft.listed.insert(c.rng.randrange(len(draft.listed) + 1), f'"x-{c.rng.randrange(10**6)}"')
    return draft


@breaks("list and lines: one twice")
def _(c: Context) -> Result:
    identifier, value = c.rng.choice(c.draft.lines)
    return c.draft.add(identifier, value)


@breaks("list and lines: one twice, with its parameters in another order")
@signed
def _(c: Context) -> Result:
    return c.draft.add('"x-dup";sf;tr', "1").add('"x-dup";tr;sf', "1")


@breaks("last line: missing")
@signed
def _(c: Context) -> Result:
    return c.draft.render().rpartition(b"\n")[0]


@breaks("last line: twice")
@signed
def _(c: Context) -> Result:
    base = c.draft.render()
    return base + b"\n" + base.rpartition(b"\n")[2]


@breaks("last line: first")
@signed
def _(c: Context) -> Result:
    above, _, last = c.draft.render().rpartition(b"\n")
    return last + b"\n" + above


@breaks("last line: as a component")
@signed
def _(c: Context) -> Result:
    return c.draft.add('"@signature-params"', "()")


@breaks("two bases in one")
def _(c: Context) -> Result:
    return c.draft.render() + c.rng.choice([b"\n", b"\n\n", b""]) + c.draft.render()


@breaks("two lists, or two members")
@signed
def _(c: Context) -> Result:
    return c.draft.render() + c.rng.choice([b", ()", b',("@method")', b" ()", b";sig2=()"])


@breaks("list: nested or not a list")
@signed
def _(c: Context) -> Result:
    base = c.draft.render()
    start = base.rindex(b'"@signature-params": (') + len(b'"@signature-params": ')
    end = base.index(b")", start) + 1
    text = base[start:end]
    return (
        base[:start]
        + c.rng.choice([b"(" + text + b")", text[1:-1], text[:-1], text[1:], b"[" + text[1:-1] + b"]", b"sig=" + text])
        + base[end:]
    )


@breaks("a base cut short")
def _(c: Context) -> Result:
    # Within a string of the last line, or before it: what is left cannot be a base. A legacy base has no end mark.
    if not c.draft.signed_params:
        return None
    base = c.draft.render()
    return base[: c.rng.randrange(1, base.rindex(b")") + 1)]


@breaks("an empty line")
def _(c: Context) -> Result:
    base = c.draft.render()
    return c.rng.choice(
        [base + b"\n", b"\n" + base, base + b"\n\n"] + ([base.replace(b"\n", b"\n\n", 1)] if b"\n" in base else [])
    )


# --- bytes ----------------------------------------------------------------------------------------------------------------


def _insert(base: bytes, position: int, what: bytes) -> bytes:
    return base[:position] + what + base[position:]


@breaks("bytes: a control character")
def _(c: Context) -> Result:
    base = c.draft.render()
    control = c.rng.choice([b for b in (*range(32), 127) if b not in (9, 10)])
    return _insert(base, c.rng.randrange(len(base) + 1), bytes([control]))


@breaks("bytes: a line feed anywhere")
def _(c: Context) -> Result:
    base = c.draft.render()
    return _insert(base, c.rng.randrange(len(base) + 1), b"\n")


@breaks("bytes: carriage returns")
def _(c: Context) -> Result:
    base = c.draft.render()
    return c.rng.choice([base.replace(b"\n", b"\r\n") + b"\r\n", base + b"\r", base.replace(b"\n", b"\r") + b"\r"])


@breaks("bytes: not ASCII")
def _(c: Context) -> Result:
    base = c.draft.render()
    # U+00E9, U+2028, a full-width dot, a full-width quote, Cyrillic a, a lone continuation, an overlong slash, U+FEFF
    what = c.rng.choice(
        [b"\xc3\xa9", b"\xe2\x80\xa8", b"\xef\xbc\x8e", b"\xef\xbc\x82", b"\xd0\xb0", b"\x80", b"\xc0\xaf", b"\xef\xbb\xbf"]
    )
    return _insert(base, c.rng.randrange(len(base) + 1), what)


@breaks("bytes: the high bit set")
def _(c: Context) -> Result:
    base = bytearray(c.draft.render())
    base[c.rng.randrange(len(base))] |= 0x80
    return bytes(base)


@breaks("bytes: another encoding")
def _(c: Context) -> Result:
    text = c.draft.render().decode("latin-1")
    return text.encode(c.rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp037"]))


@breaks("bytes: one of the structure replaced")
def _(c: Context) -> Result:
    pieces = c.draft.pieces()
    place = c.rng.choice(c.structure())
    text = pieces[place][1]
    at = c.rng.randrange(len(text))
    other = c.rng.choice([chr(b) for b in range(33, 127) if chr(b) != text[at]])
    pieces[place] = ("structure", text[:at] + other + text[at + 1 :])
    return "".join(text for _, text in pieces).encode()


@breaks("bytes: one of the structure removed")
def _(c: Context) -> Result:
    pieces = c.draft.pieces()
    place = c.rng.choice(c.structure())
    text = pieces[place][1]
    at = c.rng.randrange(len(text))
    pieces[place] = ("structure", text[:at] + text[at + 1 :])
    return "".join(text for _, text in pieces).encode()


@breaks("bytes: a quote or backslash in an identifier")
def _(c: Context) -> Result:
    identifier, _ = c.rng.choice(c.draft.lines)
    at = c.rng.randrange(1, identifier.index('"', 1))
    return c.draft.rename(identifier, identifier[:at] + c.rng.choice(['"', "\\", '\\"', "\\\\"]) + identifier[at:])


# --- white space ----------------------------------------------------------------------------------------------------------


@breaks("space: around the colon")
def _(c: Context) -> Result:
    pieces = c.draft.pieces()
    place = c.rng.choice([i for i, piece in enumerate(pieces) if piece == ("structure", ": ")])
    pieces[place] = ("structure", c.rng.choice([":", ":  ", " : ", ":\t", "\t: ", ": \t"]))
    return "".join(text for _, text in pieces).encode()


@breaks("space: at the end of a value")
def _(c: Context) -> Result:
    identifier, value = c.rng.choice(c.draft.lines)
    return c.draft.set_value(identifier, value + c.rng.choice([" ", "\t", "  "]))


@breaks("space: before a line")
def _(c: Context) -> Result:
    lines = c.draft.render().split(b"\n")
    place = c.rng.randrange(len(lines))
    lines[place] = c.rng.choice([b" ", b"\t"]) + lines[place]
    return b"\n".join(lines)


@breaks("space: in the list or its parameters")
@signed
def _(c: Context) -> Result:
    base = c.draft.render()
    start = base.rindex(b'"@signature-params": ') + len(b'"@signature-params": ')
    last = base[start:]
    changes = [
        last.replace(b"(", b"( ", 1),
        last.replace(b")", b" )", 1),
        last.replace(b");", b") ;", 1),
        last.replace(b";created=", b"; created=", 1),
    ]
    changes += [
        last.replace(b"created=", b"created= ", 1),
        last.replace(b"created=", b"created =", 1),
        last + b" ",
        last + b"\t",
        last + b";",
    ]
    changes += [
        last.replace(b'" "', b'"  "', 1),
        last.replace(b'" "', b'"\t"', 1),
        last.replace(b'" "', b'""', 1),
        last.replace(b'" "', b'", "', 1),
    ]
    return base[:start] + c.rng.choice([change for change in changes if change != last])


# --- names and values -----------------------------------------------------------------------------------------------------


@breaks("name: changed in the line or in the list alone")
@signed
def _(c: Context) -> Result:
    draft = c.draft.copy()
    place = c.rng.randrange(len(draft.lines))
    identifier, value = draft.lines[place]
    at = c.rng.randrange(1, identifier.index('"', 1))
    changed = identifier[:at] + c.rng.choice([b for b in "abcxyz019-" if b != identifier[at]]) + identifier[at + 1 :]
    if c.rng.random() < 0.5:
        draft.lines[place] = (changed, value)
    else:
        draft.listed[place] = changed
    return draft


@breaks("name: upper case")
def _(c: Context) -> Result:
    identifier, _ = c.rng.choice(c.draft.lines)
    name = identifier[1 : identifier.index('"', 1)]
    changed = c.rng.choice([name.upper(), name.title(), name[:-1] + name[-1].upper()])
    return c.draft.rename(identifier, f'"{changed}"{identifier[len(name) + 2 :]}')


several(
    "name: a derived component that there is not",
    MALFORMED,
    [
        "@",
        "@Method",
        "@methods",
        "@host",
        "@uri",
        "@url",
        "@signature",
        "@request-response",
        "@header",
        "@body",
        "@trailer",
        "@@method",
        "@method@",
        "@created",
    ],
    lambda c, name: c.draft.add(f'"{name}"', "x"),
)
several(
    "name: no name of a field",
    MALFORMED,
    ["", " ", "a b", "a:b", "a,b", "a(b", "a/b", "a=b", "a;b", "a@b", "a\tb", "[a]", "{a}", "a?b"],
    lambda c, name: c.draft.add(f'"{name}"', "x"),
)
several(
    "name: without quotes, or quoted in another way",
    MALFORMED,
    ["x-new", "'x-new'", "`x-new`", '"x-new', 'x-new"', ":eA==:", "?1", "17", '""x-new""', "(x-new)"],
    lambda c, name: c.draft.add(name, "x"),
)
several(
    "component parameter: unknown, repeated, of another type, or not for it",
    MALFORMED,
    [
        '"x-new";foo', '"x-new";sf=1', '"x-new";sf=?1', '"x-new";sf=?0', '"x-new";sf="1"', '"x-new";sf;sf', '"x-new";key', '"x-new";key=a',
        '"x-new";key="a";key="b"', '"x-new";key="a', '"x-new";name="a"', '"x-new";SF', '"x-new"; sf', '"x-new" ;sf', '"x-new";', '"x-new";;sf',
        '"x-new";sf;bs', '"x-new";sf;key="a"', '"x-new";bs;key="a"', '"x-new";key=""a"', '"x-new";key="\\a"', '"x-new";req="x"', '"x-new";tr=1',
        '"@query-param"', '"@query-param";name', '"@query-param";name=q', '"@query-param";key="q"', '"@method";sf', '"@authority";bs', '"@path";tr',
        '"@path";key="a"', '"@path";name="a"', '"@scheme";tr', '"@query";sf',
    ],
    lambda c, identifier: c.draft.add(identifier, "/"),
)  # fmt: skip

#: Values that a derived component cannot have in a request.
BAD_VALUES: Mapping[str, list[str]] = {
    '"@method"': ["", " ", "GET ", "GET POST", "GET\tX", "GE:T", 'GE"T', "GET,POST", "GET/1", "(GET)", "G=T"],
    '"@authority"': [
        "", "A.example", "a.EXAMPLE", "A.EXAMPLE", "user@a.example", "user:pw@a.example", "a.example@evil.example", "a.example/", "a.example/path",
        "a.example?x", "a.example#x", "https://a.example", "//a.example", "a%2eexample", "%61.example", "a.example%00", "a.example:", "a.example:x",
        "a.example:123456", "a.example:-1", "a.example:+80", "a.example:80:80", "a.example: 80", "a b.example", "a.example, b.example", "a.example;x",
        "[::1", "::1", "[::g]", "[::1%25eth0]", "[v1.x]", "a.example\\", "a.example\\@evil.example", "a*.example", "*", "a.example|evil.example",
        "a.example'", 'a.example"', "(a.example)", "a!example", "a$example", "a&example", "a=example", "a~example", "a,example", "[::FFFF]",
    ],
    '"@path"': ["", "v1", "?x", "/a?b", "/a#b", "/a b", "https://a.example/", "*", "/a\tb", " /"],
    '"@query"': ["", "a=1", "/?a", "?a b", "?a#b", "?a\tb", "&a"],
    '"@scheme"': ["", "HTTPS", "https:", "https://", "1https", "ht tps"],
    '"@target-uri"': [
        "", "/", "a.example/", "//a.example/", "ftp://a.example/", "https:/a.example/", "https:a.example", "https://", "https:///x",
        "https://user@a.example/", "https://user:pw@a.example/", "https://a.example@evil.example/", "https://a.example/#x", "https://a.example/a b",
        "https://a%2eexample/", "https://a.example:x/", "https://a.example:123456/", "https://[::1/", "https://a.example\\evil.example/",
        "javascript:alert(1)", "https://a.example/\tx", "https ://a.example/", "HTTPS//a.example/", "https://a.example evil.example/",
    ],
}  # fmt: skip


@breaks("value: not one that the component can have")
def _(c: Context) -> Result:
    choices = [identifier for identifier, _ in c.draft.lines if identifier in BAD_VALUES]
    if not choices:
        return None
    identifier = c.rng.choice(choices)
    return c.draft.set_value(identifier, c.rng.choice(BAD_VALUES[identifier]))


@breaks("value: of a component that was added")
@signed
def _(c: Context) -> Result:
    choices = [identifier for identifier in BAD_VALUES if not c.draft.has(identifier)]
    identifier = c.rng.choice(choices)
    return c.draft.add(identifier, c.rng.choice(BAD_VALUES[identifier]))


@breaks("value: a status that there is not")
@signed
def _(c: Context) -> Result:
    return c.draft.add('"@status"', c.rng.choice(["", "20", "2000", "099", "abc", "200 OK", "+200", "2.0", "0x1"]))


# --- signature parameters -------------------------------------------------------------------------------------------------

several(
    "parameter: one that there is not",
    MALFORMED,
    [";foo", ';foo="bar"', ";foo=1", ";Created=1", ";CREATED=1", ';key="a"', ";req", ";sf", ';kid="a"', ";exp=1", ";iat=1", ';label="sig1"', ";headers=()", ";created:1", ";=1", ";1=1", ";cre ated=1"],
    lambda c, text: c.draft.render() + text.encode() if c.draft.signed_params else None,
)  # fmt: skip


def _twice(c: Context, how: str) -> Draft:
    draft = c.draft.copy()
    name, raw = c.rng.choice(draft.params)
    other = str(c.now - 1) if name in ("created", "expires") else '"other"'
    draft.params.append((name, raw if how == "same" else other))
    return draft


several(
    "parameter: twice",
    MALFORMED,
    ["same", "other"],
    lambda c, how: _twice(c, how) if c.draft.params else None,
)


def _number(c: Context, form: str) -> Result:
    names = [name for name, _ in c.draft.params if name in ("created", "expires")]
    if not names:
        return None
    name = c.rng.choice(names)
    draft = c.draft.copy()
    draft.params = [(n, form.replace("{}", r) if n == name else r) for n, r in draft.params]
    return "".join(text for _, text in draft.pieces()).encode()


several(
    "parameter: a number in another form",
    MALFORMED,
    ["", '"{}"', "{}.0", "{}.5", "0{}", "+{}", "-{}", "{}e0", "0x{}", "{}a", "?1", ":eA==:", "t{}", "{},{}", "({})", "1" * 16, "9" * 400, "{}_0", "\u0661", "{} ", "@{}", "null", "NaN", "Infinity", "1,8"],
    _number,
)  # fmt: skip


def _string(c: Context, form: str) -> Result:
    if not c.draft.signed_params:
        return None
    name = c.rng.choice(["nonce", "alg", "keyid", "tag"])
    old = dict(c.draft.params).get(name, '"x"').strip('"').replace("\\", "").replace('"', "")
    return c.draft.set_param(name, form.replace("{}", old)).render()


several(
    "parameter: a string in another form",
    MALFORMED,
    ["", "token", "1", "?1", ":eA==:", "'{}'", '"{}', '{}"', '""{}""', '"{}\\"', '"\\{}"', '"{}\\', '"{}" ', '"{}"x', '"{}""', "(a)", '"\\x41"', '"\\u0041"', '"a\\\nb"', "%22{}%22", '"{}\x7f"', '"\t{}"'],
    _string,
)  # fmt: skip


# --- freshness ------------------------------------------------------------------------------------------------------------


@breaks("created: missing", FRESHNESS)
@signed
def _(c: Context) -> Result:
    return c.draft.set_param("created", None)


@breaks("created: too old", FRESHNESS)
@signed
def _(c: Context) -> Result:
    ages = [40, 61, 120, 3600, 86400, 10**8, c.now]
    return c.draft.set_param("created", str(c.now - c.rng.choice(ages)))


@breaks("created: ahead", FRESHNESS)
@signed
def _(c: Context) -> Result:
    # Far enough that the time which passes until the daemon looks does not matter.
    return c.draft.set_param("created", str(c.now + c.rng.choice([120, 300, 3600, 10**6, 2**31, 2**32, 2**45, 10**14])))


@breaks("expires: over, or not after created", FRESHNESS)
@signed
def _(c: Context) -> Result:
    if c.style == "lumoauth":
        return None
    return c.draft.set_param("expires", str(c.rng.choice([0, 1, c.now - 3600, c.now - 60, c.now - 11])))


@breaks("expires: too late", FRESHNESS)
@signed
def _(c: Context) -> Result:
    longest = 86400 if c.style in ("web-bot-auth", "directory") else 300
    return c.draft.set_param("expires", str(c.now + longest + c.rng.choice([60, 3600, 10**6, 2**40, 10**14])))


@breaks("expires or nonce: missing or not to be sent", FRESHNESS)
def _(c: Context) -> Result:
    if c.style in ("web-bot-auth", "directory"):
        return c.draft.set_param("expires", None)
    if c.style == "lumoauth":
        short = c.rng.choice([None, '""', '"123456789012345"', '"short"'])
        return c.rng.choice([c.draft.set_param("expires", str(c.now + 60)), c.draft.set_param("nonce", short)])
    return None


# --- keyid, alg, tag ------------------------------------------------------------------------------------------------------


@breaks("keyid: another key's", KEYID)
@signed
def _(c: Context) -> Result:
    return c.draft.set_param("keyid", quoted(c.rng.choice(c.others)))


@breaks("keyid: nearly this key's", KEYID)
@signed
def _(c: Context) -> Result:
    kid = c.rng.choice([c.target.kid, c.target.thumbprint])
    near = [
        kid[:-1],
        kid + "=",
        kid + "A",
        kid.swapcase(),
        kid.lower(),
        kid.upper(),
        " " + kid,
        kid + " ",
        kid.replace("-", "+"),
        f"{c.target.name}",
    ]
    near += [
        "",
        "*",
        "key-1",
        "null",
        "..",
        kid[1:],
        kid + "#key-1",
        "https://a.example#key-1",
        "did:key:" + kid,
        "sha-256:" + kid,
        "0",
    ]
    return c.draft.set_param("keyid", quoted(c.rng.choice([n for n in near if n not in (c.target.kid, c.target.thumbprint)])))


@breaks("keyid: missing or not to be sent", KEYID)
def _(c: Context) -> Result:
    if c.style in ("web-bot-auth", "directory"):
        return c.draft.set_param("keyid", None)
    return c.draft.set_param("keyid", quoted(c.target.kid)) if c.style == "lumoauth" else None


several(
    "alg: another, or spelled another way",
    ALGORITHM,
    [
        "", "rsa-pss-sha512", "rsa-v1_5-sha256", "hmac-sha256", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "Ed25519", "ED25519", "EdDSA", "ES256",
        "none", "NONE", "ed25519 ", " ed25519", "ed25519ph", "ed25519ctx", "ed448", "rsa-sha256", "hs2019", "*", "ed-25519", "sha-256", "PS512",
    ],
    lambda c, alg: c.draft.set_param("alg", quoted(alg)) if c.draft.signed_params else None,
)  # fmt: skip


@breaks("alg: not to be sent", ALGORITHM)
def _(c: Context) -> Result:
    return c.draft.set_param("alg", '"ed25519"') if c.style in AAUTH | {"lumoauth"} else None


@breaks("tag: missing, another, or not to be sent", TAG)
def _(c: Context) -> Result:
    if c.style == "web-bot-auth":
        return c.draft.set_param("tag", c.rng.choice([None, '""', '"Web-Bot-Auth"', '"web-bot-auth "', '"web_bot_auth"', '"x"']))
    return c.draft.set_param("tag", '"x"') if c.style == "lumoauth" else None


@breaks("tag: of a key directory, for a key without that purpose", frozenset({"PURPOSE"}))
@signed
def _(c: Context) -> Result:
    if c.style == "directory":
        return None
    return c.draft.set_param("tag", '"http-message-signatures-directory"')


@breaks("tag: of requests, for a key of a directory", frozenset({"PURPOSE"}))
def _(c: Context) -> Result:
    return c.draft.set_param("tag", c.rng.choice([None, '"web-bot-auth"', '"x"'])) if c.style == "directory" else None


# --- coverage -------------------------------------------------------------------------------------------------------------


@breaks("coverage: one that is required is left out", COVERAGE)
def _(c: Context) -> Result:
    if not REQUIRED[c.style]:
        return None
    draft = c.draft
    for identifier in c.rng.choice(REQUIRED[c.style]):
        draft = draft.without(identifier)
    return draft if draft.lines or draft.signed_params else None


@breaks("coverage: one that is required, under another name", COVERAGE)
def _(c: Context) -> Result:
    fields = [names for names in REQUIRED[c.style] if all("@" not in name for name in names)]
    if not fields:
        return None
    (identifier,) = c.rng.choice(fields)
    other = c.rng.choice([identifier[:-1] + 's"', '"x-' + identifier[1:], identifier.replace("-", "_"), identifier + ";tr"])
    if other == identifier or (";" in other and not c.draft.signed_params):
        return None
    return c.draft.rename(identifier, other)


@breaks("coverage: nothing", COVERAGE)
@signed
def _(c: Context) -> Result:
    return Draft([], list(c.draft.params))


@breaks("coverage: another list where one is the only one", COVERAGE)
def _(c: Context) -> Result:
    if c.style not in EXACT:
        return None
    draft = c.draft.add('"x-new"', "1")
    if c.rng.random() < 0.5:
        order = list(range(len(c.draft.lines)))
        while order == sorted(order):
            c.rng.shuffle(order)
        draft = Draft([c.draft.lines[i] for i in order], list(c.draft.params), c.draft.signed_params)
    return draft


@breaks("coverage: of a response, or of another signature", COVERAGE)
@signed
def _(c: Context) -> Result:
    if c.style == "directory":
        return None
    added = [
        ('"@status"', "200"), ('"@method";req', "GET"), ('"@authority";req', "a.example"), ('"@path";req', "/"), ('"x-new";req', "1"),
        ('"x-new";req;sf', "1"), ('"x-new";key="a";req', "1"), ('"signature"', "sig1=:eA==:"), ('"signature-input"', "sig1=()"),
        ('"signature";key="sig1"', ":eA==:"), ('"signature-input";key="sig1"', "()"), ('"signature";bs', ":eA==:"), ('"signature";tr', "x"),
    ]  # fmt: skip
    return c.draft.add(*c.rng.choice(added))


@breaks("coverage: a directory without the authority of its request", COVERAGE)
def _(c: Context) -> Result:
    return c.draft.rename('"@authority";req', '"@authority"') if c.style == "directory" else None


# --- size -----------------------------------------------------------------------------------------------------------------


@breaks("size: more than 16 KiB", frozenset({"SIZE"}))
def _(c: Context) -> Result:
    big = c.rng.choice([17000, 30000, 60000])
    if c.rng.random() < 0.5:
        return c.draft.add('"x-new"', "a" * big)
    return c.draft.render() + b"\n" * big


@breaks("size: repetitions within it")
@signed
def _(c: Context) -> Result:
    unit = c.rng.choice([b'"', b"\\", b"\\\\", b'"x": 1\n', b";a", b'";', b"(", b" ", b"\n", b'"x";key="', b"\xff", b"\0"])
    return (c.draft.render() + unit * 16384)[:16384]
