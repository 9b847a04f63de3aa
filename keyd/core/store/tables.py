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
    Column("rotation_period", Float),
    Column("destroy_after", Float),
    Column("paused_at", Float),
    Column("promised_until", Float, nullable=False, server_default="0"),
    Column("change", BigInteger, nullable=False, server_default="0"),
)

# One row: the number of the newest change of any key. Whoever writes takes the next one first, so that changes of all replicas
# come one after another, and become visible in the order of their numbers.
changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
)

# Every public key that a kid ever named. Rows are added, never changed or removed; triggers see to it.
archive = Table(
    "archive",
    metadata,
    Column("kid", String(255), primary_key=True),
    Column("key", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("public_jwk", Text, nullable=False),
    Column("recorded_at", Float, nullable=False),
)

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
    Column("activate_at", Float),
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
    Column("replica", String(64), nullable=False, server_default=""),
)

# The processes that use this database, by an id that each draws at its start. Who was not seen for long is dead.
replicas = Table(
    "replicas",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

# One row: the oldest revision whose code can use the database as it is now. A replica of that revision goes on while others are
# upgraded, and one that is older is refused.
compatibility = Table(
    "compatibility",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("oldest", String(32), nullable=False),
)

intents = Table(
    "intents",
    metadata,
    Column("key", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("backend", String(64), nullable=False),
    Column("owner", String(64), nullable=False, server_default=""),
)

# Tokens that are no longer good although they are not over. ``change`` is the number of the change that added one, or made it end later.
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("issuer", String(512), primary_key=True),
    Column("token_id", String(255), primary_key=True),
    Column("expires_at", Float, nullable=False),
    Column("revoked_at", Float, nullable=False),
    Column("change", BigInteger, nullable=False),
)
