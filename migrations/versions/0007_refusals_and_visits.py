"""People see what is held about their address, and may ask that it be neither bound nor invited."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refused_addresses",
        sa.Column(
            "address_digest",
            sa.LargeBinary(),
            nullable=False,
            comment="keyed; nothing here leads back to the address",
        ),
        sa.Column("refused_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("address_digest", name=op.f("pk_refused_addresses")),
    )
    op.create_table(
        "visits",
        sa.Column("token_digest", sa.LargeBinary(), nullable=False, comment="SHA-256 of 256 random bits"),
        sa.Column("medium", sa.String(length=16), nullable=False),
        sa.Column("address_digest", sa.LargeBinary(), nullable=False, comment="keyed"),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("sealed_address", sa.LargeBinary(), nullable=False),
        sa.Column(
            "is_proven",
            sa.Boolean(),
            nullable=False,
            comment="whoever has the token reads what is sent to the address",
        ),
        sa.Column(
            "code_hash",
            sa.String(length=255),
            nullable=True,
            comment="argon2id; NULL for e-mail, and once the code was right",
        ),
        sa.Column("code_tries", sa.Integer(), server_default="0", nullable=False, comment="counted before comparing"),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_digest", name=op.f("pk_visits")),
    )
    op.create_index(op.f("ix_visits_address_digest"), "visits", ["address_digest"])
    op.create_index(op.f("ix_visits_expires_at_ms"), "visits", ["expires_at_ms"])
