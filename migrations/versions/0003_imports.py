"""How far imports from Sydent have come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("source", sa.String(length=64), nullable=False, comment="tells one source from another"),
        sa.Column("table_name", sa.String(length=64), nullable=False, comment="of the source"),
        sa.Column("last_row", sa.BigInteger(), nullable=False, comment="up to here everything is known"),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source", "table_name", name=op.f("pk_imports")),
    )
