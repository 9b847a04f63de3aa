"""Sends the corpus to a daemon of its own, and judges what came back."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
from daemon_process import DaemonProcess
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from backends.api import Algorithm
from backends.encoding import verify_raw
from hostile import grants
from hostile.corpus import Case, Corpus
from hostile.draft import Target
from keyd.config import loader
from keyd.core.jwk import to_public_key
from keyd.v1 import signing_service_pb2 as pb
from keyd.v1 import signing_service_pb2_grpc

#: Profiles that are not built in: the schemes for which there is none, and the form of LumoAuth that has to be asked for.
PROFILES = """
[profiles.hwk]
required_components = ["@method", "@authority", "@path", "signature-key"]
forbidden_parameters = ["alg"]
signature_key_schemes = ["hwk"]
[profiles.jkt-jwt]
required_components = ["@method", "@authority", "@path", "signature-key"]
forbidden_parameters = ["alg"]
signature_key_schemes = ["jkt-jwt"]
[profiles.lumoauth-legacy]
unsigned_parameters = true
required_parameters = []
exact_components = ["@method @target-uri content-type content-digest", "@method @target-uri authorization"]
"""
#: style -> profile and purpose of its key
KEYS = {
    "rfc9421": ("rfc9421", "http"),
    "aauth": ("aauth", "http"),
    "aauth-server": ("aauth-server", "http"),
    "hwk": ("hwk", "http"),
    "jkt-jwt": ("jkt-jwt", "http"),
    "web-bot-auth": ("web-bot-auth", "http"),
    "lumoauth": ("lumoauth", "http"),
    "lumoauth-legacy": ("lumoauth-legacy", "http"),
    "directory": ("web-bot-auth", "directory"),
    "jwt": ("rfc9421", "jwt"),
    "issuer": ("aauth-server", "jwt"),
}
BATCH = 64
ALONE = 16  # one batch in so many is sent one by one, by Sign


@dataclass
class Report:
    """What happened. ``wrong`` has at most some of the faults, without the inputs, which can be made again from the seed."""

    seed: int
    sent: int = 0
    controls: int = 0
    signed: int = 0
    seconds: float = 0.0
    healthy: bool = False
    with_grants: bool = False
    by_class: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    inputs: set[int] = field(default_factory=set)

    def good(self) -> bool:
        """Say whether all was refused that had to be, for the reason it was made for, and the daemon is well."""
        return self.signed == 0 and not self.wrong and self.healthy and self.controls > 0

    def text(self) -> str:
        """Return it for people; the figures come last."""
        lines = [f"{'what was broken':<70} {'sent':>6}  reasons"]
        for label, reasons in sorted(self.by_class.items()):
            told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            lines.append(f"{label:<70} {reasons.total():>6}  {told}")
        totals = sum(self.by_class.values(), Counter[str]())
        lines += ["", "refusals by reason: " + ", ".join(f"{reason} {count}" for reason, count in totals.most_common())]
        lines += [f"wrong: {fault}" for fault in self.wrong[:50]]
        lines += [] if self.with_grants else ["grants: left out, this keyd has none"]
        lines += [
            f"seed {self.seed}, {len(self.by_class)} classes, {self.seconds:.1f} s, daemon {'healthy' if self.healthy else 'NOT healthy'}",
            f"valid inputs signed and verified: {self.controls}",
            f"broken inputs sent: {self.sent}, {len(self.inputs)} of them distinct",
            f"wrong answers: {len(self.wrong)}",
            f"signed: {self.signed}",
        ]
        return "\n".join(lines) + "\n"


def run(cases: int, seed: int) -> Report:
    """Send ``cases`` broken inputs, and valid ones between them, to a daemon that is started for it."""
    report = Report(seed, with_grants="grants" in loader._TABLES)
    daemon = DaemonProcess(sections=PROFILES + (grants.SECTION if report.with_grants else ""))
    try:
        daemon.start()
        targets = make_keys(daemon, with_grants=report.with_grants)
        began = time.monotonic()
        with grpc.insecure_channel(daemon.address) as channel:
            _send_all(channel, Corpus(targets, time.time, seed), {t.name: t for t in targets}, cases, report)
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            report.healthy = health.status == health_pb2.HealthCheckResponse.SERVING
        report.seconds = time.monotonic() - began
        report.healthy &= daemon.process is not None and daemon.process.poll() is None
        report.wrong += [
            f"log: {e.get('event')}" for e in daemon.events() if e.get("level") in ("error", "critical") or "exception" in e
        ]
        report.healthy &= daemon.stop() == 0
    finally:
        daemon.close()
    return report


def make_keys(daemon: DaemonProcess, *, with_grants: bool) -> list[Target]:
    """Make one key of each style."""
    styles = {**KEYS, **({"granted": ("rfc9421", "http")} if with_grants else {})}
    targets = []
    with daemon.admin() as admin:
        for style, (profile, purpose) in styles.items():
            name = "granted" if style == "granted" else f"open-{style}"
            kid_format = "name-version" if style in ("aauth", "rfc9421", "jwt") else "thumbprint"
            key = admin.create_key(name, profile=profile, purposes=[purpose], kid_format=kid_format).key
            (version,) = key.versions
            jwk = {member: json.loads(version.public_jwk)[member] for member in ("kty", "crv", "x")}
            targets.append(Target(name, style, jwk, version.kid, version.thumbprint))
    return targets


def _send_all(channel: grpc.Channel, corpus: Corpus, targets: dict[str, Target], limit: int, report: Report) -> None:
    stub = signing_service_pb2_grpc.SigningServiceStub(channel)  # type: ignore[arg-type]
    public = {name: to_public_key(json.dumps(dict(target.jwk))) for name, target in targets.items()}
    for number, batch in enumerate(_batches(corpus.cases(), limit)):
        requests = [_request(case) for case in batch]
        answers = _one_by_one(stub, requests) if number % ALONE == 0 else _together(stub, requests)
        for case, answer in zip(batch, answers, strict=True):
            _judge(case, answer, report)
            if not case.reasons and answer.HasField("response"):
                verify_raw(public[case.key], Algorithm.ED25519, answer.response.signature, case.data)


def _batches(cases: Iterator[Case], limit: int) -> Iterator[list[Case]]:
    broken = 0
    while broken < limit:
        batch = list(itertools.islice(cases, BATCH))
        broken += sum(bool(case.reasons) for case in batch)
        yield batch


def _request(case: Case) -> pb.SignRequest:
    inputs = {case.field: case.data} if case.field else {}
    return pb.SignRequest(key=case.key, kid=case.kid, **inputs)  # type: ignore[arg-type]


def _together(stub: signing_service_pb2_grpc.SigningServiceStub, requests: list[pb.SignRequest]) -> list[pb.SignResult]:
    try:
        return list(stub.SignBatch(pb.SignBatchRequest(requests=requests), timeout=60).results)
    except grpc.RpcError:  # which of them it was shows when they are sent alone
        return _one_by_one(stub, requests)


def _one_by_one(stub: signing_service_pb2_grpc.SigningServiceStub, requests: list[pb.SignRequest]) -> list[pb.SignResult]:
    answers = []
    for request in requests:
        try:
            answers.append(pb.SignResult(response=stub.Sign(request, timeout=10)))
        except grpc.RpcError as error:
            answers.append(pb.SignResult(error=_error(error)))
    return answers


def _error(error: grpc.RpcError) -> pb.SignError:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    if status is not None and status.details:
        status.details[0].Unpack(info)
    return pb.SignError(
        code=error.code().value[0], reason=info.reason or f"none, {error.code().name}", message=error.details() or ""
    )


def _judge(case: Case, answer: pb.SignResult, report: Report) -> None:
    signed = answer.HasField("response")
    if not case.reasons:
        report.controls += signed
        if not signed:
            report.wrong.append(f"a valid input of {case.label} was refused: {answer.error.reason}: {answer.error.message}")
        return
    report.sent += 1
    report.inputs.add(hash((case.key, case.field, case.data, case.kid)))
    label = case.label.partition(" (")[0]
    reason = "SIGNED" if signed else answer.error.reason
    report.by_class.setdefault(label, Counter())[reason] += 1
    report.signed += signed
    if reason not in case.reasons:
        report.wrong.append(f"{label}, key {case.key}: {reason}: {answer.error.message}, input {case.data[-150:]!r}")
