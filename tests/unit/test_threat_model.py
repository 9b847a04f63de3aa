"""The threat model names the test of each claim, and there is such a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from keyd.externaljwt.v1 import api_pb2
from keyd.v1 import audit_service_pb2, backend_service_pb2, key_service_pb2, session_service_pb2, signing_service_pb2

ROOT = Path(__file__).parents[2]
REFERENCES = sorted(set(re.findall(r"tests/[a-z0-9_/]+\.py(?:::\w+)*", (ROOT / "docs" / "threat-model.md").read_text())))


def defined(path: Path) -> set[str]:
    """Return the tests of a module as pytest names them, and its classes."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        names.add(getattr(node, "name", ""))
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


@pytest.mark.parametrize("reference", REFERENCES)
def test_each_claim_has_its_test(reference: str) -> None:
    path, _, name = reference.partition("::")
    assert (ROOT / path).is_file()
    assert not name or name in defined(ROOT / path)


def test_claims_are_found() -> None:
    assert len(REFERENCES) > 40


SERVICES = (signing_service_pb2, key_service_pb2, backend_service_pb2, audit_service_pb2, session_service_pb2, api_pb2)
METHODS = [method for module in SERVICES for service in module.DESCRIPTOR.services_by_name.values() for method in service.methods]


def strings_of(message: object, seen: set[str]) -> set[str]:
    """Return the full names of all fields of text or bytes that a message can hold."""
    if message.full_name in seen:  # type: ignore[attr-defined]
        return set()
    seen.add(message.full_name)  # type: ignore[attr-defined]
    found = set()
    for field in message.fields:  # type: ignore[attr-defined]
        if field.message_type is not None:
            found |= strings_of(field.message_type, seen)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            found.add(field.name)
    return found


#: Every field of text or bytes that any answer has. A new one has to be thought about here.
PUBLIC = {
    *(
        "backend",
        "compromise_reason",
        "content",
        "delay",
        "digest",
        "directory",
        "document",
        "etag",
        "failure",
        "handle",
        "header",
        "host",
        "hosts",
        "http_algorithm",
        "jose_algorithm",
    ),
    *(
        "key",
        "key_id",
        "keyid_aliases",
        "kid",
        "message",
        "name",
        "next_page_token",
        "profile",
        "public_jwk",
        "public_jwks",
        "reason",
        "signature",
    ),
    *("thumbprint", "token", "type", "value", "warnings"),
    *("agent_auth", "grant", "id", "issuer", "issuer_key", "parent_agent", "principal", "renewal_error"),
    *("signature_key", "subject", "token_id", "token_kid"),
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_no_answer_has_room_for_a_private_key(method: MethodDescriptor) -> None:
    assert strings_of(method.output_type, set()) <= PUBLIC
