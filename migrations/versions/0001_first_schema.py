"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("agreed_master_version", sa.String(length=255), nullable=True, comment="of a Sydent terms file"),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "association_changes",
        sa.Column(
            "change_seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
            comment="in commit order",
        ),
        sa.Column("association_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False, comment="'added' or 'removed'"),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("change_seq", name=op.f("pk_association_changes")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("association_changes", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_association_changes_at_ms"), ["at_ms"], unique=False)
    # The beginning of the feed, before any number is given out: as long as it stands, nothing has been trimmed, and a
    # number that is missing after it belongs to a transaction that goes on or was undone.
    op.execute(
        "INSERT INTO association_changes (change_seq, association_id, kind, at_ms) VALUES (0, 0, 'removed', 0)"
    )

    op.create_table(
        "associations",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False, comment="random; never used again"),
        sa.Column("medium", sa.String(length=16), nullable=False),
        sa.Column("address_blind", sa.LargeBinary(), nullable=False, comment="one live owner per address"),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("sealed_address", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_associations")),
        sa.UniqueConstraint("address_blind", name=op.f("uq_associations_address_blind")),
    )
    with op.batch_alter_table("associations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_associations_user_id"), ["user_id"], unique=False)

    op.create_table(
        "ephemeral_keys",
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("public_key", name=op.f("pk_ephemeral_keys")),
    )
    with op.batch_alter_table("ephemeral_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ephemeral_keys_valid_until_ms"), ["valid_until_ms"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False, comment="random"),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("sealed_payload", sa.LargeBinary(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("run_at_ms", sa.BigInteger(), nullable=False, comment="also the end of a lease"),
        sa.Column("lease", sa.BigInteger(), nullable=False, comment="changes with every claim; 0 while unclaimed"),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False, comment="given up after this"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_jobs_run_at_ms"), ["run_at_ms"], unique=False)

    op.create_table(
        "peppers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_peppers")),
        sa.UniqueConstraint("value", name=op.f("uq_peppers_value")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rate_limits",
        sa.Column("key_digest", sa.LargeBinary(), nullable=False, comment="keyed; names the limit and who it counts"),
        sa.Column("whole_again_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_digest", name=op.f("pk_rate_limits")),
    )
    with op.batch_alter_table("rate_limits", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rate_limits_whole_again_at_ms"), ["whole_again_at_ms"], unique=False)

    op.create_table(
        "server_keys",
        sa.Column("name", sa.String(length=32), nullable=False, comment="'root' or 'signing'"),
        sa.Column(
            "fingerprint", sa.String(length=64), nullable=False, comment="tells a wrong key from the right one"
        ),
        sa.Column("salt", sa.LargeBinary(), nullable=True, comment="of a root key that is derived from a passphrase"),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_server_keys")),
    )
    op.create_table(
        "validation_sessions",
        sa.Column("sid", sa.String(length=64), nullable=False),
        sa.Column("medium", sa.String(length=16), nullable=False),
        sa.Column("address_blind", sa.LargeBinary(), nullable=True, comment="NULL once the session is over"),
        sa.Column("client_secret_digest", sa.LargeBinary(), nullable=False, comment="keyed"),
        sa.Column("requested_by", sa.String(length=255), nullable=False, comment="Matrix ID; empty for v1"),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("sealed_address", sa.LargeBinary(), nullable=True, comment="NULL once the session is over"),
        sa.Column("sealed_next_link", sa.LargeBinary(), nullable=True),
        sa.Column("send_attempt", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("validated_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sid", name=op.f("pk_validation_sessions")),
        sa.UniqueConstraint(
            "address_blind",
            "client_secret_digest",
            "requested_by",
            name=op.f("uq_validation_sessions_address_blind_client_secret_digest_requested_by"),
        ),
    )
    with op.batch_alter_table("validation_sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_validation_sessions_expires_at_ms"), ["expires_at_ms"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_validation_sessions_requested_by_expires_at_ms"),
            ["requested_by", "expires_at_ms"],
            unique=False,
        )

    op.create_table(
        "accepted_terms",
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("policy_id", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("language", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False, comment="as it was shown"),
        sa.Column("accepted_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["accounts.user_id"], name=op.f("fk_accepted_terms_user_id_accounts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "policy_id", "version", "language", "url", name=op.f("pk_accepted_terms")),
    )
    op.create_table(
        "access_tokens",
        sa.Column("token_digest", sa.LargeBinary(), nullable=False, comment="SHA-256"),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=False, comment="exact to a day"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["accounts.user_id"], name=op.f("fk_access_tokens_user_id_accounts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_digest", name=op.f("pk_access_tokens")),
    )
    with op.batch_alter_table("access_tokens", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_access_tokens_last_used_at_ms"), ["last_used_at_ms"], unique=False)
        batch_op.create_index(batch_op.f("ix_access_tokens_user_id"), ["user_id"], unique=False)

    op.create_table(
        "validation_tokens",
        sa.Column("token_digest", sa.LargeBinary(), nullable=False, comment="SHA-256 of 256 random bits"),
        sa.Column("sid", sa.String(length=64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sid"],
            ["validation_sessions.sid"],
            name=op.f("fk_validation_tokens_sid_validation_sessions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("token_digest", name=op.f("pk_validation_tokens")),
    )
    with op.batch_alter_table("validation_tokens", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_validation_tokens_expires_at_ms"), ["expires_at_ms"], unique=False)
        batch_op.create_index(batch_op.f("ix_validation_tokens_sid"), ["sid"], unique=False)
