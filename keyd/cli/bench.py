"""``keyd bench``: a small load test of one's own daemon, with one's own key and policy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output
from keyd.cli.command import Command
from keyd.cli.options import DURATION, Connection, daemon_options, json_option

if TYPE_CHECKING:
    from keyd.cli.bench_load import Load, Tally
    from keyd.client import Client
    from keyd.client.model import KeyInfo, Signature

_LONGEST = 600.0  # seconds; this is no tool to wear a daemon out with
_BUSY = 0.85  # from which part of a core on the client is what limits
_FULL = 0.95  # the same for all cores of the machine


@click.command(
    cls=Command,
    examples="""
    keyd bench --key agent
    keyd bench --key agent --url https://api.example.com/v1/ --seconds 10 --concurrency 64
    keyd bench --key agent --batch 32 --concurrency 2
    keyd bench --key agent --stream --concurrency 64 --json | jq .rate
    """,
)
@click.option("--key", "-k", required=True, metavar="KEY", help="Name of the key that signs.")
@click.option("--seconds", type=DURATION, default="5s", show_default=True, metavar="DURATION", help="How long; 10m at most.")
@click.option(
    "--concurrency", "-c", type=click.IntRange(1, 1000), default=8, show_default=True, help="Calls under way at one time."
)
@click.option("--batch", type=click.IntRange(1, 256), metavar="N", help="Send N inputs in each call.")
@click.option("--stream", is_flag=True, help="Send the inputs over one stream.")
@click.option("--profile", metavar="NAME", help="The key's profile. Default: as the daemon says, else rfc9421.")
@click.option("--method", default="GET", show_default=True, help="Method of the requests that are signed.")
@click.option("--url", default="https://example.com/", show_default=True, help="Their URL; your grant has to allow it.")
@json_option
@daemon_options
@click.pass_context
def bench(
    ctx: click.Context,
    connection: Connection,
    key: str,
    seconds: float,
    concurrency: int,
    batch: int | None,
    stream: bool,
    profile: str | None,
    method: str,
    url: str,
    as_json: bool,
) -> None:
    """Have KEY sign made-up requests for a while, and say how fast that went and what limited it.

    The signatures are real, count against your rate, and are on record in the audit trail. A sample of them is verified. Nothing is sent
    to URL.
    """
    from keyd.cli.bench_inputs import Inputs, maker
    from keyd.cli.bench_load import Load

    if batch and stream:
        raise click.UsageError("--batch and --stream exclude each other")
    if not 0 < seconds <= _LONGEST:
        raise click.UsageError(f"--seconds is more than 0 and at most {_LONGEST:g}")
    with connection.client() as client:
        info = client.key_info(key)
        inputs = Inputs(_active(info), profile or _profile(connection, key), method, url)
        kind, make = maker(inputs, info.purposes)
        load = Load(key, kind, make, seconds, concurrency, batch or 0, stream)
        _try(client, load)  # what the first call meets is told as any other command tells it
        machine = _Machine()
        tally = asyncio.run(_run(connection, load, wanted=not as_json))
        bad = _bad(tally.sample, client.key_info(key, refresh=True))
    limit = _limit(tally, machine.busy())
    if as_json:
        output.print_json(_as_dict(load, tally, bad, limit))
    else:
        _print(load, tally, bad, limit)
    if tally.errors or bad or not tally.signatures:
        ctx.exit(1)


def _active(info: KeyInfo) -> Any:
    from keyd.client.calls import active_version

    return active_version(info)


def _profile(connection: Connection, key: str) -> str:
    """Ask for the key's profile, which operators may know."""
    from keyd.client import KeydClientError

    with connection.admin() as admin:
        try:
            return admin.get_key(key).profile
        except KeydClientError:
            return "rfc9421"


def _try(client: Client, load: Load) -> None:
    import time

    from keyd.client import SignInput

    client.sign(SignInput(load.key, load.make(time.time()), load.kind))


async def _run(connection: Connection, load: Load, *, wanted: bool) -> Tally:
    # No retries: what fails is to be seen. A call that outlives the run is given up with it.
    async with connection.async_client(retries=0) as client:
        with _progress(load.seconds, wanted=wanted) as advance:
            return await load.run(client, advance)


@contextlib.contextmanager
def _progress(seconds: float, *, wanted: bool) -> Iterator[Callable[[float], object]]:
    if not wanted or not output.on_terminal():
        yield lambda _: None
        return
    from rich.progress import Progress

    with Progress(console=output.console(), transient=True) as bar:
        task = bar.add_task("signing", total=seconds)
        yield lambda gone: bar.update(task, completed=gone)


class _Machine:
    """How busy all cores of this machine are; unknown where the kernel does not say."""

    def __init__(self) -> None:
        self._before = self._read()

    def busy(self) -> float | None:
        """Return the part of the time since then in which they were busy, 0 to 1."""
        after = self._read()
        if self._before is None or after is None or after[1] <= self._before[1]:
            return None
        return 1 - (after[0] - self._before[0]) / (after[1] - self._before[1])

    @staticmethod
    def _read() -> tuple[int, int] | None:
        """Return idle and all ticks (proc_stat)."""
        try:
            with Path("/proc/stat").open() as stat:
                ticks = [int(field) for field in stat.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        return ticks[3] + ticks[4], sum(ticks)


def _bad(sample: list[tuple[bytes, Signature]], info: KeyInfo) -> int:
    """Return how many of the sample do not verify."""
    from cryptography.exceptions import InvalidSignature

    from backends.api import Algorithm
    from backends.encoding import verify_raw
    from keyd.core.jwk import to_public_key

    keys = {version.kid: to_public_key(version.public_jwk) for version in info.versions}
    bad = 0
    for data, signed in sample:
        try:
            verify_raw(keys[signed.kid], Algorithm(info.jose_algorithm), signed.signature, data)
        except (InvalidSignature, KeyError):
            bad += 1
    return bad


def _limit(tally: Tally, busy: float | None) -> str:
    """Return what kept the rate from being higher, as far as it can be told from here."""
    if tally.errors.get("RATE"):
        return "the rate that you are granted: see rate in [grants] and [limits]"
    if tally.errors:
        return "the calls that failed"
    if busy is not None and busy >= _FULL:
        return "the processors of this machine, which were all busy"
    if tally.cpu / tally.seconds >= _BUSY:
        return "this client, which is one process of Python: run several at once, or use --batch or --stream"
    return "keyd, the store of the key, or the way there; a higher --concurrency may find more"


def _as_dict(load: Load, tally: Tally, bad: int, limit: str) -> dict[str, Any]:
    return {
        "key": load.key,
        "seconds": round(tally.seconds, 3),
        "concurrency": load.concurrency,
        "batch": load.batch or None,
        "stream": load.stream,
        "signatures": tally.signatures,
        "rate": round(tally.signatures / tally.seconds, 1),
        "latency": {f"p{share * 100:g}": round(tally.latency(share), 6) for share in (0.5, 0.9, 0.99)},
        "errors": dict(tally.errors.most_common()),
        "verified": len(tally.sample) - bad,
        "not_verified": bad,
        "client_cpu": round(tally.cpu / tally.seconds, 3),
        "limit": limit,
    }


def _print(load: Load, tally: Tally, bad: int, limit: str) -> None:
    way = "inputs of a stream" if load.stream else f"batches of {load.batch}" if load.batch else "calls"
    click.echo(f"{tally.signatures / tally.seconds:,.0f} signatures a second")
    click.echo(f"{tally.signatures:,} in {tally.seconds:.1f} s, {load.concurrency} {way} at a time")
    shares = "  ".join(f"p{share * 100:g} {tally.latency(share) * 1e3:.2f} ms" for share in (0.5, 0.9, 0.99))
    click.echo(f"latency     {shares}")
    click.echo(f"client      {tally.cpu / tally.seconds:.0%} of a core")
    click.echo(f"verified    {len(tally.sample) - bad} of a sample of {len(tally.sample)}")
    click.echo(f"limited by  {limit}")
    for reason, count in tally.errors.most_common():
        output.note(f"{count:,} failed: {reason}")
    if bad:
        output.note(f"{bad} signatures of the sample do not verify; do not use this key, and tell the operator of the daemon")
