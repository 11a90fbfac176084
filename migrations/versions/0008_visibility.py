"""A binding says who may know of it, and one of a phone number may come to an end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_PHONES = sa.text("medium = 'msisdn'")


def upgrade() -> None:
    # Both engines keep such a default beside the table, and leave its rows as they are.
    op.add_column(
        "associations",
        sa.Column(
            "visibility",
            sa.String(length=16),
            server_default="everyone",
            nullable=False,
            comment="who may know of it",
        ),
    )
    op.create_index(
        op.f("ix_associations_not_after"),
        "associations",
        ["not_after"],
        sqlite_where=_PHONES,
        postgresql_where=_PHONES,
    )
