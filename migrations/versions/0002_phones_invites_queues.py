"""Phone codes, invites and queues of jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column(
            "server_name", sa.String(length=255), nullable=True, comment="of the homeserver concerned; never a person"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "invites",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False, comment="random"),
        sa.Column("medium", sa.String(length=16), nullable=False),
        sa.Column("address_blind", sa.LargeBinary(), nullable=False),
        sa.Column("token_digest", sa.LargeBinary(), nullable=False, comment="SHA-256"),
        sa.Column("public_key", sa.LargeBinary(), nullable=False, comment="its ephemeral key, which outlives it"),
        sa.Column("sender", sa.String(length=255), nullable=False, comment="Matrix ID"),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("sealed_address", sa.LargeBinary(), nullable=False),
        sa.Column(
            "sealed_details",
            sa.LargeBinary(),
            nullable=False,
            comment="room, token, private key, what the mail shows",
        ),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column(
            "taken_at_ms", sa.BigInteger(), nullable=True, comment="when a binding took it along; NULL while it waits"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invites")),
        sa.UniqueConstraint("token_digest", name=op.f("uq_invites_token_digest")),
    )
    with op.batch_alter_table("invites", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_invites_address_blind"), ["address_blind"], unique=False)
        batch_op.create_index(batch_op.f("ix_invites_expires_at_ms"), ["expires_at_ms"], unique=False)
        batch_op.create_index(batch_op.f("ix_invites_sender"), ["sender"], unique=False)

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "queue",
                sa.String(length=255),
                server_default="",
                nullable=False,
                comment="jobs of one queue go one by one",
            )
        )

    with op.batch_alter_table("validation_sessions", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "code_hash",
                sa.String(length=255),
                nullable=True,
                comment="argon2id; NULL for e-mail, and once the session is over",
            )
        )
        batch_op.add_column(sa.Column("code_expires_at_ms", sa.BigInteger(), nullable=True))
        batch_op.add_column(
            sa.Column(
                "code_tries", sa.Integer(), server_default="0", nullable=False, comment="counted before comparing"
            )
        )
