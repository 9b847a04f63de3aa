"""Tokens that were revoked before their end.

A release that does not know the table can use the database all the same, so what ``compatibility`` says stays.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "revoked_tokens",
        sa.Column("issuer", sa.String(512), primary_key=True),
        sa.Column("token_id", sa.String(255), primary_key=True),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float, nullable=False),
        sa.Column("change", sa.BigInteger, nullable=False),
    )
