"""What it costs to read a signature base and to hold it to its profile: `python benchmarks reading`. CPU of one thread."""

from __future__ import annotations

import json
import math
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path

from backends.api import Algorithm
from keyd.core import binding, jws, signature_base
from keyd.core.binding import Signing
from keyd.core.profile import BUILT_IN, Profile, check_base

VECTORS = Path(__file__).parents[1] / "tests" / "vectors"
NOW = 1_800_000_000
KID = "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"
SIGNING = Signing(Algorithm.ED25519, KID, KID)
PLAIN = f'''"@method": POST
"@authority": api.example.com
"@path": /v1/orders/17
"content-digest": sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:
"content-type": application/json
"@signature-params": ("@method" "@authority" "@path" "content-digest" "content-type");created={NOW};keyid="{KID}"'''


def microseconds(call: Callable[[], object], number: int = 5000) -> float:
    """Return the best of seven runs, for one call."""
    return min(timeit.repeat(call, timer=time.thread_time, number=number, repeat=7)) / number * 1e6


def line(name: str, text: str, profile: Profile, now: float) -> str:
    data = text.encode()
    base = signature_base.parse(data)
    parse = microseconds(lambda: signature_base.parse(data))
    rules = microseconds(lambda: check_base(base, profile, SIGNING, now=now, not_after=math.inf))
    return f"{name:<34} {len(data):>5} {parse:>7.1f} {rules:>7.1f}"


def first_time(text: str, profile: Profile) -> float:
    base = signature_base.parse(text.encode())

    def check() -> None:
        binding._expiry.cache_clear()
        check_base(base, profile, SIGNING, now=NOW + 1, not_after=math.inf)

    return microseconds(check)


def main() -> None:
    clients = json.loads((VECTORS / "clients.json").read_text())["vectors"]
    bot = json.loads((VECTORS / "web_bot_auth.json").read_text())["vectors"][0]
    lines = [f"{'base':<34} {'bytes':>5} {'parse':>7} {'rules':>7}  µs"]
    lines.append(line("rfc9421, five components", PLAIN, BUILT_IN["rfc9421"], NOW + 1))
    lines.append(
        line(
            "web-bot-auth",
            bot["base"].replace("4889289600", str(bot["created"] + 3600)),
            BUILT_IN["web-bot-auth"],
            bot["created"] + 1,
        )
    )
    known = [(f"{v['library']}, {v['name']}"[:34], v["base"], v["profile"]) for v in clients if v["profile"] in BUILT_IN]
    lines += [line(name, base, BUILT_IN[profile], NOW + 1) for name, base, profile in known]
    token = clients[0]["base"].split('jwt="')[1].split('"')[0].rpartition(".")[0].encode()
    lines.append(f"rules of aauth, first request with a token: {first_time(clients[0]['base'], BUILT_IN['aauth']):.1f} µs")
    lines.append(f"a JWS signing input of {len(token)} bytes: {microseconds(lambda: jws.parse(token)):.1f} µs")
    sys.stdout.write("\n".join(lines) + "\n")
