"""PostgreSQL as this server wants it: connections with limits, and its errors told apart.

The rule: no transaction lasts longer than LONGEST_TRANSACTION_SECONDS, whatever becomes of the process that began
it. Followers of the change feed wait that long for a number that is missing from it.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

APPLICATION_NAME = "matrix-identity-server"

TRANSACTION_SECONDS = 15
"""How long a use case may take, from asking for a connection to its last statement; kept by this process."""
_STATEMENT_SECONDS = 10
"""How long its last statement may take, COMMIT included; kept by the database, as is the next."""
_IDLE_SECONDS = 5
"""How long the database waits for a process that has fallen silent within a transaction."""
LONGEST_TRANSACTION_SECONDS = TRANSACTION_SECONDS + _STATEMENT_SECONDS + _IDLE_SECONDS

_LIMITS = {
    "statement_timeout": f"{_STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{_IDLE_SECONDS}s",
}

_RESTED_SECONDS = 1.0

_SET_LIMITS = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _LIMITS.items())

_SERIALIZATION_FAILURE = "40001"
_DEADLOCK = "40P01"
_UNIQUE_VIOLATION = "23505"
_FOREIGN_KEY_VIOLATION = "23503"
# Losing a race can look like either: a use case looks before it inserts, so another must have come in between.
_LOST_RACES = {_SERIALIZATION_FAILURE, _DEADLOCK, _UNIQUE_VIOLATION, _FOREIGN_KEY_VIOLATION}

_LOCK_NOT_AVAILABLE = "55P03"
_TIMED_OUT_WITHIN_A_TRANSACTION = {"25P03", "25P04"}
# Connection lost, access refused, no such database, out of connections or disk, told to stop or to start up.
_AWAY = ("08", "28", "3D", "53", "57", "58")


_UPGRADE_LOCK = 7_310_588_164_102_551
"""Any number that nobody else takes for an advisory lock in the same database."""
_UPGRADE_SECONDS = 1800
_LOCK_SECONDS = 5

_SENTENCES = {
    "28": "PostgreSQL refuses the user or the password of `db.url`",
    "3D": "the database that `db.url` names doesn't exist: create it first",
    "42501": "the user of `db.url` may not create tables in this database: make it the owner of the database",
    "53": "PostgreSQL has no connection, memory or disk space left",
    "57014": f"an upgrade took longer than {_UPGRADE_SECONDS // 60} minutes and was undone",
    "57": "PostgreSQL is starting up or shutting down: try again when it is up",
    "08": "PostgreSQL, or a pooler before it, has refused or lost the connection",
}
"""By the first characters of PostgreSQL's code, those of more characters before those of fewer."""


@dataclass(frozen=True, slots=True)
class PostgresqlSettings:
    """How connections are made.

    Attributes:
        pool_size: the most that one process uses at a time for transactions.
        connect_seconds: how long a new connection, or a free one of the pool, is waited for.
        pooler: whether a pooler in transaction mode stands in between, which keeps nothing for a session.
        notifies: whether commits are told to other processes by NOTIFY, where the database knows it.
        ca_file: certificates, one of which must have signed the database's. Without, the URL says what is asked of
            it, and the system's are those that count.
    """

    pool_size: int = 10
    connect_seconds: int = 5
    pooler: bool = False
    notifies: bool = True
    ca_file: Path | None = None


def make_postgresql_engine(url: URL, settings: PostgresqlSettings) -> AsyncEngine:
    """An engine whose connections keep to the limits above.

    Raises:
        OSError: `ca_file` can't be read, or holds no certificate.
    """
    arguments: dict[str, Any] = {
        "timeout": settings.connect_seconds,
        # Poolers pass the name on and refuse the rest.
        "server_settings": {"application_name": APPLICATION_NAME, **({} if settings.pooler else _LIMITS)},
    }
    if settings.pooler:
        # The next transaction may be on another connection, which knows no statement that was prepared before.
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    if settings.ca_file is not None or url.query.get("ssl") == "verify-full":
        # The driver would look for certificates in the home directory only.
        arguments["ssl"] = ssl.create_default_context(cafile=settings.ca_file)
        url = url.difference_update_query(["ssl"])
    engine = create_async_engine(
        url,
        isolation_level="SERIALIZABLE",
        hide_parameters=True,
        # One more, which listens.
        pool_size=settings.pool_size + 1,
        max_overflow=0,
        pool_timeout=settings.connect_seconds,
        connect_args=arguments,
    )

    def note_abilities(connection: Any, record: Any) -> None:
        is_postgresql = _is_postgresql_itself(connection.driver_connection.get_settings())
        record.info["is_postgresql"] = is_postgresql
        record.info["sets_limits"] = settings.pooler
        record.info["notifies"] = settings.notifies and is_postgresql
        record.info["listens"] = settings.notifies and is_postgresql and not settings.pooler

    event.listen(engine.sync_engine, "connect", note_abilities)
    _ask_rested_connections(engine)
    return engine


def _ask_rested_connections(engine: AsyncEngine) -> None:
    """Have a connection that has been idle for a while prove that it still stands, before anybody relies on it.

    Asking costs three round trips, as many as a short transaction, so those in steady use aren't asked.
    """
    dialect = engine.dialect

    def note_use(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    def ask(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("used_at", math.inf) < _RESTED_SECONDS:
            return
        try:
            dialect.do_ping(connection)
        except Exception as error:
            # All the others are as old.
            raise InvalidatePoolError from error

    event.listen(engine.sync_engine, "checkin", note_use)
    event.listen(engine.sync_engine, "checkout", ask)


async def begin_with_limits(connection: AsyncConnection) -> None:
    """Limit a transaction that has just begun, where its connection could not be limited once for all."""
    if connection.info.get("sets_limits"):
        await connection.exec_driver_sql(_SET_LIMITS)


async def have_it_alone(connection: AsyncConnection) -> None:
    """Make the running transaction the only one that changes the schema; for PostgreSQL, and nothing elsewhere.

    Its statements may take long, since an index of a large table does. But it waits for a lock that others hold only
    as long as they can be kept waiting themselves: whoever comes after it queues behind it.
    """
    if connection.dialect.name != "postgresql":
        return
    await connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_UPGRADE_SECONDS}s'")
    await connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_UPGRADE_SECONDS}s'")
    if connection.info["is_postgresql"]:
        # The lock is given back by the end of the transaction, whatever that is.
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_UPGRADE_SECONDS}s'")
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")


async def have_it_unchanged(connection: AsyncConnection, tables: Sequence[str]) -> None:
    """Let nobody write to these tables until the running transaction ends, however long; for PostgreSQL only."""
    if connection.dialect.name != "postgresql":
        return
    # Settings take no snapshot: the first one is taken once the locks are held.
    await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LONGEST_TRANSACTION_SECONDS}s'")
    await connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN SHARE MODE")


def what_to_do_about(error: DBAPIError) -> str | None:
    """What an operator can do about an error of PostgreSQL's, without any secret; None if it isn't for them."""
    state = sqlstate(error)
    if state == _LOCK_NOT_AVAILABLE:
        return (
            f"somebody else has been using a table for {_LOCK_SECONDS} seconds that the upgrade has to change: nothing"
            " was changed. Look for long transactions in pg_stat_activity (a backup, an open psql), and run"
            " `identity-server db upgrade` again when they are over"
        )
    return next((sentence for prefix, sentence in _SENTENCES.items() if state.startswith(prefix)), None)


def is_lost_race(error: DBAPIError) -> bool:
    """Whether the same use case may well succeed when it is run again."""
    return sqlstate(error) in _LOST_RACES


def is_broken_constraint(error: DBAPIError) -> bool:
    """Whether it is a lost race only if it doesn't happen every time."""
    return sqlstate(error) in {_UNIQUE_VIOLATION, _FOREIGN_KEY_VIOLATION}


def is_away(error: DBAPIError) -> bool:
    """Whether the database can't be used at present, or took longer than it may."""
    state = sqlstate(error)
    return (
        error.connection_invalidated
        or state.startswith(_AWAY)
        or state == _LOCK_NOT_AVAILABLE
        or state in _TIMED_OUT_WITHIN_A_TRANSACTION
    )


def sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's code for what went wrong; empty if there is none."""
    return getattr(error.orig, "sqlstate", None) or ""


def _is_postgresql_itself(settings: Any) -> bool:
    """Whether it isn't one of those that speak its protocol without knowing LISTEN and NOTIFY."""
    return not hasattr(settings, "crdb_version") and "-YB-" not in settings.server_version
