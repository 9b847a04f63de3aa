"""`python -m fuzz.seeds`: write the first inputs of each target into corpus/, from the vectors and from valid inputs of every profile."""

from __future__ import annotations

import json
import random
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hostile import tokens
from hostile.draft import ISSUER, STYLES, Target, agent_token, jkt_token

from fuzz import handlers
from keyd.v1 import backend_service_pb2, key_service_pb2, session_service_pb2, types_pb2
from keyd.v1 import signing_service_pb2 as pb

CORPUS = Path(__file__).parent / "corpus"
VECTORS = Path(__file__).parents[1] / "vectors"
NOW = 1_800_000_000
JWK = {"kty": "OKP", "crv": "Ed25519", "x": "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}
THUMBPRINT = "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"


def target(style: str) -> Target:
    """Return a key as the targets have it."""
    return Target("a", style, JWK, "key-1", THUMBPRINT)


def bases() -> list[bytes]:
    """Return bases with signed parameters."""
    found = [vector["base"].encode() for vector in json.loads((VECTORS / "rfc9421_appendix_b.json").read_text())["vectors"]]
    for name in ("clients.json", "web_bot_auth.json"):
        found += [vector["base"].encode() for vector in json.loads((VECTORS / name).read_text())["vectors"]]
    rng = random.Random(1)
    return found + [
        STYLES[style](target(style), rng, NOW).render() for style in STYLES if style != "lumoauth-legacy" for _ in range(2)
    ]


def unsigned() -> list[bytes]:
    """Return bases without them."""
    rng = random.Random(2)
    return [STYLES["lumoauth-legacy"](target("lumoauth-legacy"), rng, NOW).render() for _ in range(6)]


def inputs_of_tokens() -> list[bytes]:
    """Return signing inputs, and JSON that makes some."""
    rng, found = random.Random(3), []
    for style in ("jwt", "issuer"):
        for _ in range(4):
            parts = tokens.valid(target(style), rng, NOW)
            found += [tokens.encode(parts), b"\0" + json.dumps(parts[0]).encode() + b"\0" + json.dumps(parts[1]).encode()]
    return found


def values_of_signature_key() -> list[bytes]:
    """Return values of the field, and JSON that makes some."""
    rng = random.Random(4)
    found = []
    for style in ("aauth", "aauth-server", "hwk", "jkt-jwt"):
        draft = STYLES[style](target(style), rng, NOW)
        found.append(dict(draft.lines)['"signature-key"'].encode())
    for header, claims in (agent_token(target("aauth"), NOW), jkt_token(target("jkt-jwt"), NOW)):
        found.append(b"\0" + json.dumps(header).encode() + b"\0" + json.dumps(claims).encode())
    return [*found, b'sig=jwt;  jwt="a.b.c";cache;x=?0;y="\\"\\\\"', b'sig=x509;x5t=:eA==:, b="x"']


def calls() -> list[bytes]:
    """Return calls of all methods, most of them good."""
    rng = random.Random(5)
    plain = STYLES["rfc9421"](Target("a", "rfc9421", JWK, "x", "x"), random.Random(3), NOW)
    plain.params = [("created", str(NOW))]
    sign = [
        pb.SignRequest(key="a", signature_base=plain.render()),
        pb.SignRequest(key="a", jws_signing_input=inputs_of_tokens()[0], kid="x"),
        pb.SignRequest(key="c", signature_base=STYLES["lumoauth"](target("lumoauth"), rng, NOW).render()),
        pb.SignRequest(key="e", signature_base=unsigned()[0]),
        pb.SignRequest(key="f", message=b"anything"),
        pb.SignRequest(key="nobody"),
    ]
    spec = key_service_pb2.KeySpec(name="new", purposes=[types_pb2.PURPOSE_HTTP], keyid_aliases=["x"])
    spec.lifecycle.publish_lead.seconds = 86400
    spec.lifecycle.retention.nanos = 5
    jwt = pb.SignJWTRequest(key="a", claims='{"sub":"x","cnf":{}}', typ="JWT")
    jwt.lifetime.seconds = 60
    private = json.dumps({**ISSUER, "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}).encode()
    made = [("Sign", request) for request in sign] + [("SignBatch", pb.SignBatchRequest(requests=sign)), ("SignJWT", jwt)]
    made += [("GetJWKS", pb.GetJWKSRequest(key="a")), ("CreateKey", key_service_pb2.CreateKeyRequest(spec=spec))]
    made += [("ImportKey", key_service_pb2.ImportKeyRequest(spec=spec, private_jwk=private, kid="k"))]
    made += [
        ("RotateKey", key_service_pb2.RotateKeyRequest(name="a")),
        ("ListKeys", key_service_pb2.ListKeysRequest(page_size=2, page_token="a")),
    ]
    made += [("CompromiseVersion", key_service_pb2.CompromiseVersionRequest(name="b", version=1, reason="x"))]
    made += [("DestroyVersion", key_service_pb2.DestroyVersionRequest(name="b", version=1, force=True))]
    made += [
        ("AdoptKey", key_service_pb2.AdoptKeyRequest(spec=spec, handle="h", kid="k")),
        ("DisableKey", key_service_pb2.DisableKeyRequest(name="d")),
    ]
    periods = types_pb2.LifecyclePolicy(rotation_period=Duration(seconds=864000), destroy_after=Duration(seconds=1))
    made += [
        ("UpdateKey", key_service_pb2.UpdateKeyRequest(name="a", lifecycle=periods)),
        ("RollbackKey", key_service_pb2.RollbackKeyRequest(name="a")),
        ("PauseKey", key_service_pb2.PauseKeyRequest(name="a")),
        ("ResumeKey", key_service_pb2.ResumeKeyRequest(name="a")),
        ("PlanRotations", key_service_pb2.PlanRotationsRequest(name="a", horizon=Duration(seconds=1), limit=2)),
    ]
    made += [("ListStoredKeys", backend_service_pb2.ListStoredKeysRequest(backend="memory"))]
    lumoauth = session_service_pb2.SESSION_KIND_LUMOAUTH
    agent, times = "aauth:x@a.example", {"token_lifetime": Duration(seconds=600)}
    made += [
        ("OpenSession", session_service_pb2.OpenSessionRequest(issuer_key="a", subject=agent, claims="{}", **times)),
        ("OpenSession", session_service_pb2.OpenSessionRequest(issuer_key="a", subject="x", kind=lumoauth, audiences=["y"])),
        ("IssueAgentToken", session_service_pb2.IssueAgentTokenRequest(issuer_key="a", subject=agent, key="b")),
        (
            "IssueAgentToken",
            session_service_pb2.IssueAgentTokenRequest(issuer_key="a", subject=agent, public_jwk=json.dumps(JWK)),
        ),
        ("GetSession", session_service_pb2.GetSessionRequest(id="x")),
        ("ListSessions", session_service_pb2.ListSessionsRequest()),
        ("RevokeSession", session_service_pb2.RevokeSessionRequest(session="x")),
        ("RevokeToken", session_service_pb2.RevokeTokenRequest(issuer="x", token_id="y", expire_time=Timestamp(seconds=NOW + 9))),
        ("Sign", pb.SignRequest(session="x", signature_base=plain.render())),
    ]
    return [handlers.encode(method, request) for method, request in made]


def main() -> None:
    for name, made in {
        "base": bases(),
        "unsigned-base": unsigned(),
        "token": inputs_of_tokens(),
        "signature-key": values_of_signature_key(),
        "handlers": calls(),
    }.items():
        directory = CORPUS / name
        directory.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(made):
            (directory / f"seed-{number:02}").write_bytes(data)
    handlers.close()


if __name__ == "__main__":
    main()
