"""Keys, versions, version numbers, intents."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("algorithm", sa.String(16), nullable=False),
        sa.Column("backend", sa.String(64), nullable=False),
        sa.Column("purposes", sa.JSON, nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.Column("kid_format", sa.String(16), nullable=False),
        sa.Column("keyid_aliases", sa.JSON, nullable=False),
        sa.Column("publish", sa.Boolean, nullable=False),
        sa.Column("publish_lead", sa.Float, nullable=False),
        sa.Column("sign_grace", sa.Float, nullable=False),
        sa.Column("retention", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("disabled_at", sa.Float),
    )
    op.create_table(
        "versions",
        sa.Column("key", sa.String(63), sa.ForeignKey("keys.name"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("kid", sa.String(255), nullable=False),
        sa.Column("thumbprint", sa.String(64), nullable=False),
        sa.Column("public_jwk", sa.Text, nullable=False),
        sa.Column("handle", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("publish_at", sa.Float, nullable=False),
        sa.Column("activate_at", sa.Float, nullable=False),
        sa.Column("deactivate_at", sa.Float),
        sa.Column("sign_until", sa.Float),
        sa.Column("unpublish_at", sa.Float),
        sa.Column("destroyed_at", sa.Float),
        sa.Column("compromised_at", sa.Float),
        sa.Column("compromise_reason", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint("kid", name="versions_kid_unique"),
        sa.UniqueConstraint("thumbprint", name="versions_thumbprint_unique"),
    )
    op.create_table(
        "version_numbers",
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("last", sa.Integer, nullable=False),
    )
    op.create_table(
        "intents",
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("backend", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    for table in ("intents", "version_numbers", "versions", "keys"):
        op.drop_table(table)
