"""The tables, as the newest migration leaves them. Times are seconds since the epoch; NULL is an end not set."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("algorithm", String(16), nullable=False),
    Column("backend", String(64), nullable=False),
    Column("purposes", JSON, nullable=False),
    Column("profile", String(64), nullable=False),
    Column("kid_format", String(16), nullable=False),
    Column("keyid_aliases", JSON, nullable=False),
    Column("publish", Boolean, nullable=False),
    Column("publish_lead", Float, nullable=False),
    Column("sign_grace", Float, nullable=False),
    Column("retention", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float),
)

# Rows are never deleted: this is also the archive of every public key that was ever published.
versions = Table(
    "versions",
    metadata,
    Column("key", String(63), ForeignKey("keys.name"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kid", String(255), nullable=False),
    Column("thumbprint", String(64), nullable=False),
    Column("public_jwk", Text, nullable=False),
    Column("handle", Text),
    Column("created_at", Float, nullable=False),
    Column("publish_at", Float, nullable=False),
    Column("activate_at", Float, nullable=False),
    Column("deactivate_at", Float),
    Column("sign_until", Float),
    Column("unpublish_at", Float),
    Column("destroyed_at", Float),
    Column("compromised_at", Float),
    Column("compromise_reason", Text, nullable=False, server_default=""),
    UniqueConstraint("kid", name="versions_kid_unique"),
    UniqueConstraint("thumbprint", name="versions_thumbprint_unique"),
)

# Outlives failed creations, so that a version number is never given out twice.
numbers = Table(
    "version_numbers",
    metadata,
    Column("key", String(63), primary_key=True),
    Column("last", Integer, nullable=False),
)

# The newest checkpoints of the audit trail, each by the record that has it: a trail that ends before one was cut.
audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("seq", BigInteger, nullable=False),
    Column("head", String(64), nullable=False),
    Column("file", Text, nullable=False),
    Column("at", Float, nullable=False),
)

intents = Table(
    "intents",
    metadata,
    Column("key", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("backend", String(64), nullable=False),
)
