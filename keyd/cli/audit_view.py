"""Audit records and what was found in them, as people see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from keyd.cli.errors import printable

if TYPE_CHECKING:
    from keyd.core.audit.record import Record
    from keyd.core.audit.verify import Report

_EVENT_MEMBERS = ("version", "what", "count", "by", "previous", "expected", "found", "why")


def one_line(record: Record) -> str:
    """Return a record as one line: number, time, what was decided about what, for whom, and why not."""
    words = [f"{record.seq:>6}", record.time.replace("T", " ")[:23] + "Z"]
    if "decision" in record.members:
        words += [record.text("decision").ljust(5), record.operation, *_about(record)]
    else:
        words += ["-".ljust(5), record.operation]
        words += [f"{name}={record.members[name]}" for name in _EVENT_MEMBERS if name in record.members]
    return printable(" ".join(word for word in words if word))


def _about(record: Record) -> Iterator[str]:
    yield record.text("key")
    principal = record.members.get("principal")
    if isinstance(principal, dict):
        yield str(principal.get("identity", ""))
        if "pid" in principal:
            yield f"pid:{principal['pid']}"
    yield from (record.text(name) for name in ("method", "authority", "path", "typ"))
    for name in ("iss", "grant", "kid", "reason", "detail"):
        if record.text(name):
            yield f"{name}={record.text(name)}"
    latency = record.number("latency_us")
    if latency is not None:
        yield f"{latency / 1000:.1f}ms"


def report_lines(report: Report, notes: Iterable[str]) -> Iterator[str]:
    """Return what came of a check: the findings, what else there is to know, and the sum."""
    for finding in report.findings:
        yield printable(f"DAMAGED {finding}")
    if report.more:
        yield f"DAMAGED and {report.more} more places"
    for note in (*notes, *report.notes):
        yield printable(f"note: {note}")
    span = f"records {report.first} to {report.last}, " if report.records else ""
    signed = f"signed up to record {report.signed} at {report.signed_at}" if report.signed else "no signature checked"
    verdict = "the chain is whole" if report.sound else f"NOT SOUND, first: {report.findings[0]}"
    yield printable(f"{report.records} records, {span}{report.checkpoints} checkpoints, {signed}: {verdict}")
