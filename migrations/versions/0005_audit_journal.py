"""The audit becomes a journal: entries commit to whom they are about, and are linked into a signed chain."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BATCH = 10_000


def upgrade() -> None:
    pending = op.create_table(
        "audit_pending",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        *_entry(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_pending")),
    )
    op.create_table(
        "audit_chain",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False, comment="without gaps"),
        *_entry(),
        sa.Column("hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the entry and of the hash before it"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_chain")),
    )
    op.create_table(
        "audit_heads",
        sa.Column(
            "name",
            sa.String(length=16),
            nullable=False,
            comment="'head': the newest entry; 'pruned': the last that was removed",
        ),
        sa.Column("signed", sa.Text(), nullable=False, comment="JSON that says so, signed by the server's key"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_audit_heads")),
    )
    _move_entries(pending)
    op.drop_table("audit")


def _entry() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("salt", sa.LargeBinary(), nullable=False, comment="random; of this entry alone"),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column(
            "server_name", sa.String(length=255), nullable=True, comment="of the homeserver concerned; never a person"
        ),
        sa.Column("number", sa.BigInteger(), nullable=True, comment="how many, where it was more than one thing"),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column(
            "commitments",
            sa.LargeBinary(),
            nullable=False,
            comment="keyed; of the entry, and of whom it is about",
        ),
    )


def _move_entries(pending: sa.Table) -> None:
    """Earlier entries have one event, a homeserver's name, and no commitments: keys are out of a migration's reach."""
    connection = op.get_bind()
    former = sa.table("audit", sa.column("id"), sa.column("at_ms"), sa.column("server_name"))
    last = 0
    while rows := connection.execute(
        sa.select(former).where(former.c.id > last).order_by(former.c.id).limit(_BATCH)
    ).all():
        connection.execute(
            sa.insert(pending),
            [
                {
                    "salt": row.id.to_bytes(16, "big"),
                    "at_ms": row.at_ms,
                    "event": "notice_given_up",
                    "server_name": row.server_name,
                    "number": None,
                    "key_id": "",
                    "commitments": b"",
                }
                for row in rows
            ],
        )
        last = rows[-1].id
