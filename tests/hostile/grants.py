"""Requests outside of a grant: above all, other authorities in every spelling.

The key of these has the profile ``rfc9421`` and a grant for what :data:`SECTION` says. Its own authorities are signed, as controls.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from hostile.draft import Draft, Target

#: Grants of the daemon under test; the second lets it be used with the other keys.
SECTION = f"""
[grants.tight]
principals = [{{ uid = {os.getuid()} }}]
keys = ["granted"]
purposes = ["http"]
authorities = ["api.shop.example", "*.pay.example"]
methods = ["GET", "POST"]
paths = ["/v1/"]

[grants.open]
principals = [{{ uid = {os.getuid()} }}]
keys = ["open-*"]
purposes = ["http", "jwt", "directory"]

[limits]
rate = 1000000
burst = 1000000
"""
ALLOWED = ["api.shop.example", "a.pay.example", "x.y.pay.example"]

#: What is not one of them, though it looks like it, leads to it, or is taken for it by careless code.
AUTHORITIES = [
    "evil.example", "shop.example", "xapi.shop.example", "x.api.shop.example", "api.shop.example.evil.example", "api.shop.examplee", "api.shop.exampl", "api-shop.example", "apishop.example",
    "api.shop.example.", "a.pay.example.", "pay.example", ".pay.example", "xpay.example", "a.xpay.example", "pay.example.evil.example", "a.pay.example.evil.example", "*.pay.example", "..pay.example", "a..pay.example",
    "api.shop.example:443", "api.shop.example:80", "api.shop.example:8443", "api.shop.example:0443", "api.shop.example:0", "api.shop.example:65535", "api.shop.example:99999", "a.pay.example:444",
    "API.shop.example", "api.Shop.Example", "API.SHOP.EXAMPLE", "A.pay.example", "a.PAY.example", "user@api.shop.example", "api.shop.example@evil.example", "api.shop.example:x@evil.example",
    "evil.example/api.shop.example", "evil.example?api.shop.example", "evil.example#api.shop.example", "evil.example\\.pay.example", "evil.example\\@api.shop.example", "evil.example%2f.pay.example", "evil.example%00.pay.example",
    "api.shop.example%00", "api%2eshop.example", "%61pi.shop.example", "api.shop.example%20", "api.shop.example/", "api.shop.example?", "api.shop.example#", "https://api.shop.example", "//api.shop.example",
    "xn--pi-7kc.shop.example", "\u0430pi.shop.example", "api\u3002shop\u3002example", "\uff41pi.shop.example", "api.shop.example\u200b", "api.shop.\u212axample", "b\u00fccher.pay.example", "api.shop.example, evil.example",
    "api.shop.example evil.example", "api.shop.example;evil.example", "api.shop.example|evil.example", "[::1]", "[::ffff:10.0.0.7]", "10.0.0.7", "127.0.0.1", "localhost", "0x7f.1", "2130706433", "0", "api.shop.example\t", "",
    "api.shop.example:", "api.shop.example:443:443", "-api.shop.example", "api_shop.example", "example", "com", "evil.example:443.pay.example", "evil.example:1.pay.example", "[::1].pay.example", "a.pay.example:80.evil.example",
]  # fmt: skip
PATHS = [
    "/", "/v1", "/v10/x", "/v2/orders", "/V1/orders", "/v1/../admin", "/v1/./x", "/v1/..", "/v1/%2e%2e/admin", "/v1/%2E%2e/admin", "/v1//admin", "//v1/x", "/v1/..%2fadmin", "/v1%2f..%2fadmin", "/v1/%2fadmin",
    "/v1/x%5c..%5cadmin", "/v1/%252e%252e/admin", "/v1/%00", "/x/v1/", "/admin#/v1/", "/admin?/v1/", "v1/x", "/v1/..;/admin", "/%76%31/x", "/v1/\\..\\admin", "",
]  # fmt: skip
METHODS = [
    "DELETE",
    "PUT",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "get",
    "Get",
    "pOST",
    "GETX",
    "GE",
    "GET-POST",
    "PROPFIND",
    "*",
    "",
    "GET,POST",
    "GET ",
]

AUTHORITY = frozenset({"AUTHORITY", "MALFORMED"})
METHOD = frozenset({"METHOD", "MALFORMED"})
PATH = frozenset({"PATH", "MALFORMED"})
URI = AUTHORITY | PATH  # what ends in / or ? leads out of the path


def _draft(rng: random.Random, now: int, **values: str) -> Draft:
    at = {
        "@method": rng.choice(["GET", "POST"]),
        "@authority": rng.choice(ALLOWED),
        "@path": rng.choice(["/v1/", "/v1/orders/17", "/v1/a.b"]),
        **values,
    }
    return Draft([(f'"{name}"', value) for name, value in at.items()], [("created", str(now))])


def valid(target: Target, rng: random.Random, now: int) -> Draft:
    """Return a base within the grant."""
    if rng.random() < 0.3:
        return _by_uri(rng, now, rng.choice(ALLOWED), "/v1/orders?q=../x")
    return _draft(rng, now)


def _by_uri(rng: random.Random, now: int, authority: str, path: str) -> Draft:
    return Draft([('"@method"', "GET"), ('"@target-uri"', f"https://{authority}{path}")], [("created", str(now))])


def _two(rng: random.Random, now: int) -> Draft:
    """Return one authority in ``@authority`` and another in ``@target-uri``."""
    good, evil = rng.choice(ALLOWED), "evil.example"
    first, second = rng.choice([(good, evil), (evil, good)])
    return _draft(rng, now, **{"@authority": first, "@target-uri": f"https://{second}/v1/x"})


def _two_paths(rng: random.Random, now: int) -> Draft:
    good = rng.choice(ALLOWED)
    first, second = rng.choice([("/v1/x", "/admin"), ("/admin", "/v1/x")])
    return _draft(rng, now, **{"@authority": good, "@path": first, "@target-uri": f"https://{good}{second}"})


MUTATIONS: dict[str, tuple[frozenset[str], Callable[[random.Random, int], Draft]]] = {}
for _number in range(12):  # many draws a round: this class is the point of it all
    MUTATIONS[f"grant: another authority ({_number})"] = (
        AUTHORITY,
        lambda rng, now: _draft(rng, now, **{"@authority": rng.choice(AUTHORITIES)}),
    )
    MUTATIONS[f"grant: another authority in @target-uri ({_number})"] = (
        URI,
        lambda rng, now: _by_uri(rng, now, rng.choice(AUTHORITIES), "/v1/x"),
    )
MUTATIONS |= {
    "grant: two authorities": (AUTHORITY, _two),
    "grant: two paths": (PATH, _two_paths),
    "grant: no authority": (AUTHORITY, lambda rng, now: _draft(rng, now).without('"@authority"')),
    "grant: the authority of another request": (frozenset({"AUTHORITY", "COVERAGE"}), lambda rng, now: _draft(rng, now).rename('"@authority"', '"@authority";req')),
    "grant: a field instead of the authority": (AUTHORITY, lambda rng, now: _draft(rng, now).rename('"@authority"', rng.choice(['"host"', '"x-forwarded-host"', '"forwarded"']))),
    "grant: another method": (METHOD, lambda rng, now: _draft(rng, now, **{"@method": rng.choice(METHODS)})),
    "grant: no method": (METHOD, lambda rng, now: _draft(rng, now).without('"@method"')),
    "grant: another path": (PATH, lambda rng, now: _draft(rng, now, **{"@path": rng.choice(PATHS)})),
    "grant: another path in @target-uri": (PATH, lambda rng, now: _by_uri(rng, now, rng.choice(ALLOWED), rng.choice([p for p in PATHS if p.startswith("/") and "?" not in p]))),
    "grant: no path": (PATH, lambda rng, now: _draft(rng, now).without('"@path"')),
}  # fmt: skip


def broken(label: str, target: Target, rng: random.Random, now: int) -> tuple[frozenset[str], bytes]:
    """Return one request outside of the grant, with the reasons that it may be refused for."""
    reasons, make = MUTATIONS[label]
    draft = make(rng, now)
    return reasons, "".join(text for _, text in draft.pieces()).encode()
