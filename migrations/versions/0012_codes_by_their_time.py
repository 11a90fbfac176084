"""Codes that are over are found without a look at every session."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0008"
branch_labels = None
depends_on = None

_HAS_CODE = sa.text("code_expires_at_ms IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        op.f("ix_validation_sessions_code_expires_at_ms"),
        "validation_sessions",
        ["code_expires_at_ms"],
        sqlite_where=_HAS_CODE,
        postgresql_where=_HAS_CODE,
    )
