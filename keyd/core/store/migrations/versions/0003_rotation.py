"""Rotation by itself, several replicas, and an archive of public keys. The first schema that PostgreSQL has, too.

Keys that are on record keep what they had: nobody asked for them to rotate or to be destroyed by themselves.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("keys") as keys:
        keys.add_column(sa.Column("rotation_period", sa.Float))
        keys.add_column(sa.Column("destroy_after", sa.Float))
        keys.add_column(sa.Column("paused_at", sa.Float))
        keys.add_column(sa.Column("promised_until", sa.Float, nullable=False, server_default="0"))
        keys.add_column(sa.Column("change", sa.BigInteger, nullable=False, server_default="1"))
    with op.batch_alter_table("versions") as versions:
        versions.alter_column("activate_at", existing_type=sa.Float, nullable=True)
    op.add_column("intents", sa.Column("owner", sa.String(64), nullable=False, server_default=""))
    op.add_column("audit_checkpoints", sa.Column("replica", sa.String(64), nullable=False, server_default=""))
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO changes (id, last) VALUES (1, 1)")
    op.create_table(
        "archive",
        sa.Column("kid", sa.String(255), primary_key=True),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("public_jwk", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.Float, nullable=False),
    )
    op.execute(
        "INSERT INTO archive (kid, key, version, public_jwk, recorded_at) "
        "SELECT kid, key, version, public_jwk, created_at FROM versions"
    )
    _keep_archive()
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )
    op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("oldest", sa.String(32), nullable=False),
    )
    op.execute("INSERT INTO compatibility (id, oldest) VALUES (1, '0003')")


def _keep_archive() -> None:
    """Have the database itself refuse to change or remove what is in the archive."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION keyd_archive_is_kept() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the archive of public keys is only added to'; END $$"
        )
        op.execute(
            "CREATE TRIGGER archive_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON archive "
            "FOR EACH STATEMENT EXECUTE FUNCTION keyd_archive_is_kept()"
        )
        return
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER archive_refuses_{act.lower()} BEFORE {act} ON archive "
            "BEGIN SELECT RAISE(ABORT, 'the archive of public keys is only added to'); END"
        )
    # INSERT OR REPLACE removes a row without a DELETE that a trigger sees.
    op.execute(
        "CREATE TRIGGER archive_refuses_replace BEFORE INSERT ON archive "
        "WHEN EXISTS (SELECT 1 FROM archive WHERE kid = NEW.kid) "
        "BEGIN SELECT RAISE(ABORT, 'the archive of public keys is only added to'); END"
    )
