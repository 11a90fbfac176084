"""Lookups have budgets: what has been used of them, and what each account has asked for already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lookup_budgets",
        sa.Column("holder_digest", sa.LargeBinary(), nullable=False, comment="keyed; whom addresses are counted for"),
        sa.Column(
            "pepper_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="0 where only the day counts"
        ),
        sa.Column("day", sa.BigInteger(), nullable=False, comment="since the pepper was made, or since the epoch"),
        sa.Column("today", sa.BigInteger(), nullable=False, comment="used of what there is for that day"),
        sa.Column("once", sa.BigInteger(), nullable=False, comment="used of what there is once"),
        sa.PrimaryKeyConstraint("holder_digest", "pepper_id", name=op.f("pk_lookup_budgets")),
    )
    op.create_index(op.f("ix_lookup_budgets_pepper_id_day"), "lookup_budgets", ["pepper_id", "day"])
    op.create_table(
        "asked_addresses",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False, comment="random"),
        sa.Column("holder_digest", sa.LargeBinary(), nullable=False, comment="keyed; who has asked"),
        sa.Column("pepper_id", sa.BigInteger(), nullable=False, comment="gone with it"),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column(
            "sealed_keys", sa.LargeBinary(), nullable=False, comment="keyed functions of hashes, 16 bytes each"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_asked_addresses")),
    )
    op.create_index(
        op.f("ix_asked_addresses_holder_digest_pepper_id"), "asked_addresses", ["holder_digest", "pepper_id"]
    )
    op.create_index(op.f("ix_asked_addresses_pepper_id"), "asked_addresses", ["pepper_id"])
    op.create_table(
        "bound_users",
        sa.Column("kind", sa.String(length=16), nullable=False, comment="'homeserver' or 'domain'"),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column(
            "users",
            sa.BigInteger(),
            nullable=False,
            comment="that an address is bound to, when they were last counted",
        ),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_bound_users")),
    )
