"""One root key may take another's place: what is kept of the former one, and who can't go along yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retired_keys",
        sa.Column("id", sa.String(length=16), nullable=False, comment="of a former root key, as rows have named it"),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column(
            "sealed_keys",
            sa.LargeBinary(),
            nullable=False,
            comment="for digests that can't be made anew; they open nothing",
        ),
        sa.Column("retired_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retired_keys")),
    )
    op.create_table(
        "key_holdouts",
        sa.Column("holder", sa.String(length=255), nullable=False, comment="a process without the next root key"),
        sa.Column("expected_in", sa.String(length=4096), nullable=False, comment="the file where it looks for it"),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder", name=op.f("pk_key_holdouts")),
    )
