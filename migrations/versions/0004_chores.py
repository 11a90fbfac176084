"""What is done by the clock is done once for all processes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chores",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False, comment="random; of the process that ran it last"),
        sa.Column("run_at_ms", sa.BigInteger(), nullable=False, comment="also the end of a lease"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chores")),
    )
