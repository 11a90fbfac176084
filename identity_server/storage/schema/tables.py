"""Every table, in one MetaData: what Alembic compares the migrations with.

Rules: times are milliseconds since the epoch; what names a person's address or holds a usable secret is
sealed (`sealed_*`, readable only with the key named by `key_id`) or kept as a digest (`*_digest`, `*_blind`).
Ids of sealed rows are random and known before the insert, because a sealed value is tied to its row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite makes only an INTEGER PRIMARY KEY its row id, and only that counts up by itself.
_Counter = BigInteger().with_variant(Integer, "sqlite")

_HAS_CODE = text("code_expires_at_ms IS NOT NULL")

server_keys = Table(
    "server_keys",
    metadata,
    # And 'next_root' or 'former_root' while one root key takes another's place.
    Column("name", String(32), primary_key=True, comment="'root' or 'signing'"),
    Column("fingerprint", String(64), nullable=False, comment="tells a wrong key from the right one"),
    Column("salt", LargeBinary, comment="of a root key that is derived from a passphrase"),
    Column("created_at_ms", BigInteger, nullable=False),
)

retired_keys = Table(
    "retired_keys",
    metadata,
    Column("id", String(16), primary_key=True, comment="of a former root key, as rows have named it"),
    Column("key_id", String(16), nullable=False),
    Column(
        "sealed_keys", LargeBinary, nullable=False, comment="for digests that can't be made anew; they open nothing"
    ),
    Column("retired_at_ms", BigInteger, nullable=False),
)

key_holdouts = Table(
    "key_holdouts",
    metadata,
    Column("holder", String(255), primary_key=True, comment="a process without the next root key"),
    Column("expected_in", String(4096), nullable=False, comment="the file where it looks for it"),
    Column("at_ms", BigInteger, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("agreed_master_version", String(255), comment="of a Sydent terms file"),
    Column("warned_at_ms", BigInteger, comment="that it will be erased unless it accepts the terms"),
)

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("token_digest", LargeBinary, primary_key=True, comment="SHA-256"),
    Column("user_id", ForeignKey("accounts.user_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("last_used_at_ms", BigInteger, nullable=False, index=True, comment="exact to a day"),
)

accepted_terms = Table(
    "accepted_terms",
    metadata,
    Column("user_id", ForeignKey("accounts.user_id", ondelete="CASCADE"), primary_key=True),
    Column("policy_id", String(255), primary_key=True),
    Column("version", String(255), primary_key=True),
    Column("language", String(64), primary_key=True),
    Column("url", String(2048), primary_key=True, comment="as it was shown"),
    Column("accepted_at_ms", BigInteger, nullable=False),
)

terms_in_force = Table(
    "terms_in_force",
    metadata,
    Column("terms_digest", LargeBinary, primary_key=True, comment="SHA-256 of the documents' names and versions"),
    Column("since_ms", BigInteger, nullable=False, comment="when a server first saw them"),
)

validation_sessions = Table(
    "validation_sessions",
    metadata,
    Column("sid", String(64), primary_key=True),
    Column("medium", String(16), nullable=False),
    Column("address_blind", LargeBinary, comment="NULL once the session is over"),
    Column("client_secret_digest", LargeBinary, nullable=False, comment="keyed"),
    Column("requested_by", String(255), nullable=False, comment="Matrix ID; empty for v1"),
    Column("key_id", String(16), nullable=False),
    Column("sealed_address", LargeBinary, comment="NULL once the session is over"),
    Column("sealed_next_link", LargeBinary),
    Column("send_attempt", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("validated_at_ms", BigInteger),
    Column("expires_at_ms", BigInteger, nullable=False, index=True),
    # Of a phone session: codes are short, so they are hashed slowly, tried rarely, and only the newest counts.
    Column("code_hash", String(255), comment="argon2id; NULL for e-mail, and once the session is over"),
    Column("code_expires_at_ms", BigInteger),
    Column("code_tries", Integer, nullable=False, server_default="0", comment="counted before comparing"),
    UniqueConstraint("address_blind", "client_secret_digest", "requested_by"),
    Index(None, "requested_by", "expires_at_ms"),
    # Few sessions have a code, and the sweep shouldn't look at all the others for them.
    Index(None, "code_expires_at_ms", sqlite_where=_HAS_CODE, postgresql_where=_HAS_CODE),
)

validation_tokens = Table(
    "validation_tokens",
    metadata,
    Column("token_digest", LargeBinary, primary_key=True, comment="SHA-256 of 256 random bits"),
    Column("sid", ForeignKey("validation_sessions.sid", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False, index=True),
)

associations = Table(
    "associations",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="random; never used again"),
    Column("medium", String(16), nullable=False),
    Column("address_blind", LargeBinary, nullable=False, unique=True, comment="one live owner per address"),
    Column("key_id", String(16), nullable=False),
    Column("sealed_address", LargeBinary, nullable=False),
    Column("user_id", String(255), nullable=False, index=True),
    Column("ts", BigInteger, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("visibility", String(16), nullable=False, server_default="everyone", comment="who may know of it"),
    # Nothing else comes to an end within a lifetime.
    Index(None, "not_after", sqlite_where=text("medium = 'msisdn'"), postgresql_where=text("medium = 'msisdn'")),
)

association_changes = Table(
    "association_changes",
    metadata,
    Column("change_seq", _Counter, primary_key=True, autoincrement=True, comment="in commit order"),
    Column("association_id", BigInteger, nullable=False),
    Column("kind", String(8), nullable=False, comment="'added' or 'removed'"),
    Column("at_ms", BigInteger, nullable=False, index=True),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="random"),
    Column("kind", String(32), nullable=False),
    Column("queue", String(255), nullable=False, server_default="", comment="jobs of one queue go one by one"),
    Column("key_id", String(16), nullable=False),
    Column("sealed_payload", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("run_at_ms", BigInteger, nullable=False, index=True, comment="also the end of a lease"),
    Column("lease", BigInteger, nullable=False, comment="changes with every claim; 0 while unclaimed"),
    Column("expires_at_ms", BigInteger, nullable=False, comment="given up after this"),
)

peppers = Table(
    "peppers",
    metadata,
    Column("id", _Counter, primary_key=True, autoincrement=True),
    Column("value", String(64), nullable=False, unique=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("retired_at_ms", BigInteger),
    sqlite_autoincrement=True,
)

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("key_digest", LargeBinary, primary_key=True, comment="keyed; names the limit and who it counts"),
    Column("whole_again_at_ms", BigInteger, nullable=False, index=True),
)

lookup_budgets = Table(
    "lookup_budgets",
    metadata,
    Column("holder_digest", LargeBinary, primary_key=True, comment="keyed; whom addresses are counted for"),
    Column("pepper_id", BigInteger, primary_key=True, autoincrement=False, comment="0 where only the day counts"),
    Column("day", BigInteger, nullable=False, comment="since the pepper was made, or since the epoch"),
    Column("today", BigInteger, nullable=False, comment="used of what there is for that day"),
    Column("once", BigInteger, nullable=False, comment="used of what there is once"),
    Index(None, "pepper_id", "day"),
)

asked_addresses = Table(
    "asked_addresses",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="random"),
    Column("holder_digest", LargeBinary, nullable=False, comment="keyed; who has asked"),
    Column("pepper_id", BigInteger, nullable=False, index=True, comment="gone with it"),
    Column("key_id", String(16), nullable=False),
    Column("sealed_keys", LargeBinary, nullable=False, comment="keyed functions of hashes, 16 bytes each"),
    Index(None, "holder_digest", "pepper_id"),
)

bound_users = Table(
    "bound_users",
    metadata,
    Column("kind", String(16), primary_key=True, comment="'homeserver' or 'domain'"),
    Column("name", String(255), primary_key=True),
    Column("users", BigInteger, nullable=False, comment="that an address is bound to, when they were last counted"),
)

ephemeral_keys = Table(
    "ephemeral_keys",
    metadata,
    Column("public_key", LargeBinary, primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("valid_until_ms", BigInteger, nullable=False, index=True),
    Column("revoked", Boolean, nullable=False),
)

invites = Table(
    "invites",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="random"),
    Column("medium", String(16), nullable=False),
    Column("address_blind", LargeBinary, nullable=False, index=True),
    Column("token_digest", LargeBinary, nullable=False, unique=True, comment="SHA-256"),
    Column("public_key", LargeBinary, nullable=False, comment="its ephemeral key, which outlives it"),
    Column("sender", String(255), nullable=False, index=True, comment="Matrix ID"),
    Column("key_id", String(16), nullable=False),
    Column("sealed_address", LargeBinary, nullable=False),
    Column("sealed_details", LargeBinary, nullable=False, comment="room, token, private key, what the mail shows"),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False, index=True),
    Column("taken_at_ms", BigInteger, comment="when a binding took it along; NULL while it waits"),
)

refused_addresses = Table(
    "refused_addresses",
    metadata,
    Column("address_digest", LargeBinary, primary_key=True, comment="keyed; nothing here leads back to the address"),
    Column("refused_at_ms", BigInteger, nullable=False),
)

visits = Table(
    "visits",
    metadata,
    Column("token_digest", LargeBinary, primary_key=True, comment="SHA-256 of 256 random bits"),
    Column("medium", String(16), nullable=False),
    Column("address_digest", LargeBinary, nullable=False, index=True, comment="keyed"),
    Column("key_id", String(16), nullable=False),
    Column("sealed_address", LargeBinary, nullable=False),
    Column("is_proven", Boolean, nullable=False, comment="whoever has the token reads what is sent to the address"),
    # Where the token stays in the browser and a code goes to the phone.
    Column("code_hash", String(255), comment="argon2id; NULL for e-mail, and once the code was right"),
    Column("code_tries", Integer, nullable=False, server_default="0", comment="counted before comparing"),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False, index=True),
)


def _audit_entry() -> tuple[Column[Any], ...]:
    return (
        Column("salt", LargeBinary, nullable=False, comment="random; of this entry alone"),
        Column("at_ms", BigInteger, nullable=False),
        Column("event", String(64), nullable=False),
        Column("server_name", String(255), comment="of the homeserver concerned; never a person"),
        Column("number", BigInteger, comment="how many, where it was more than one thing"),
        Column("key_id", String(16), nullable=False),
        Column("commitments", LargeBinary, nullable=False, comment="keyed; of the entry, and of whom it is about"),
    )


audit_pending = Table(
    "audit_pending",
    metadata,
    Column("id", _Counter, primary_key=True, autoincrement=True),
    *_audit_entry(),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False, comment="without gaps"),
    *_audit_entry(),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256 of the entry and of the hash before it"),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column(
        "name", String(16), primary_key=True, comment="'head': the newest entry; 'pruned': the last that was removed"
    ),
    Column("signed", Text, nullable=False, comment="JSON that says so, signed by the server's key"),
)

imports = Table(
    "imports",
    metadata,
    Column("source", String(64), primary_key=True, comment="tells one source from another"),
    Column("table_name", String(64), primary_key=True, comment="of the source"),
    Column("last_row", BigInteger, nullable=False, comment="up to here everything is known"),
    Column("at_ms", BigInteger, nullable=False),
)

chores = Table(
    "chores",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False, comment="random; of the process that ran it last"),
    Column("run_at_ms", BigInteger, nullable=False, comment="also the end of a lease"),
)
