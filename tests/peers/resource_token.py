"""Run in the environment `peers`: aauth's ResourceTokenIssuer with a key that is not here; whoever started this signs.

Reads a JSON object, then for each line ``{"sign": ...}`` that it prints a line with the signature, both in base64. The last line that it
prints has the resource token, the person token that it answers, and the keys of the person server, which are made here.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from typing import Any, NoReturn

from aauth.keys.jwk import calculate_jwk_thumbprint, jwk_to_public_key, public_key_to_jwk
from aauth.resource.token_issuer import ResourceTokenIssuer
from aauth.tokens.person_token import create_person_token
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PERSON = "https://person.example"
case: dict[str, Any] = json.loads(sys.stdin.readline())


class Elsewhere(Ed25519PrivateKey):
    """A private key whose signatures come from standard input."""

    def public_key(self) -> Ed25519PublicKey:
        public: Ed25519PublicKey = jwk_to_public_key(case["public_jwk"])
        return public

    def sign(self, data: Any) -> bytes:
        print(json.dumps({"sign": base64.b64encode(bytes(data)).decode()}), flush=True)
        return base64.b64decode(sys.stdin.readline())

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the private key is not here")

    private_bytes = private_bytes_raw = __copy__ = __deepcopy__ = _refuse


agent, server = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
agent_jwk = public_key_to_jwk(agent.public_key())
person_keys = {"keys": [{**public_key_to_jwk(server.public_key()), "kid": "person-1"}]}
presented = create_person_token(
    iss=PERSON,
    aud=case["resource"],
    sub="person-7",
    cnf_jwk=agent_jwk,
    private_key=server,
    kid="person-1",
    agent_exp=int(time.time()) + 3600,
)
issuer = ResourceTokenIssuer(case["resource"], Elsewhere(), case["kid"], PERSON, lambda iss, dwk, kid: person_keys)
lifetime = {} if case.get("exp") is None else {"exp": case["exp"]}
token = issuer.issue_token(presented, agent.public_key(), scope="orders.read", **lifetime)
print(
    json.dumps(
        {
            "token": token,
            "presented": presented,
            "others": {PERSON: person_keys},
            "aud": PERSON,
            "agent_jkt": calculate_jwk_thumbprint(agent_jwk),
        }
    ),
    flush=True,
)
