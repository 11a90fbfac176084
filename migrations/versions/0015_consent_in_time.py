"""Who doesn't accept the terms in force may be erased after a time, and is warned before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "accounts",
        sa.Column(
            "warned_at_ms",
            sa.BigInteger(),
            nullable=True,
            comment="that it will be erased unless it accepts the terms",
        ),
    )
    op.create_table(
        "terms_in_force",
        sa.Column(
            "terms_digest",
            sa.LargeBinary(),
            nullable=False,
            comment="SHA-256 of the documents' names and versions",
        ),
        sa.Column("since_ms", sa.BigInteger(), nullable=False, comment="when a server first saw them"),
        sa.PrimaryKeyConstraint("terms_digest", name=op.f("pk_terms_in_force")),
    )
