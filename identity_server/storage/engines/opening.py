"""Engines: where a database is, and the durability and privacy settings that this server relies on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from identity_server.storage.engines.postgresql import PostgresqlSettings, make_postgresql_engine
from identity_server.storage.engines.sqlite import open_connection
from identity_server.storage.engines.sqlite_file import sqlite_file

Engine = AsyncEngine
"""For those who pass one on."""

IN_MEMORY = URL.create("sqlite+aiosqlite")
"""A database that is gone with its engine."""


class CannotWrite(Exception):
    """A file of the database is out of reach; the text names it."""


def database_url(*, url: str | None, file: Path, password: str | None = None) -> URL:
    """Where the database is: `db.url` when given, else SQLite in `db.file`."""
    if not url:
        return URL.create("sqlite+aiosqlite", database=str(file))
    return make_url(url) if password is None else make_url(url).set(password=password)


def make_engine(url: URL, settings: PostgresqlSettings | None = None, *, makes_file: bool = True) -> AsyncEngine:
    """An engine with the durability and privacy settings that this server relies on.

    A SQLite file that doesn't exist is made here or not at all: SQLite itself would let everyone on the machine read it,
    and would make another one whenever the file's volume is away.

    Args:
        url: where the database is.
        settings: of PostgreSQL.
        makes_file: whether a SQLite file is made that isn't there.

    Raises:
        CannotWrite: the SQLite file can't be written, or made.
        OSError: a file that is named in the settings can't be read.
    """
    if url.get_backend_name() != "sqlite":
        return make_postgresql_engine(url, settings or PostgresqlSettings())
    file = sqlite_file(url)
    if file is not None and makes_file:
        make_private_file(file)
    engine = create_async_engine(url, hide_parameters=True, connect_args={"async_creator_fn": open_connection})
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def make_private_file(file: Path) -> None:
    """Make sure that a file exists; a new one, and a new folder for it, can be read by nobody else.

    Addresses in it are sealed, Matrix IDs aren't. SQLite gives its WAL the mode of the database.

    Raises:
        CannotWrite: this user can't write it, or can't make it.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise CannotWrite(
            f"{file} can't be written: {error.strerror}. It must belong to the user that the server runs as, and so"
            " must its directory."
        ) from None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # On Python 3.11 the driver would begin transactions by itself, too late and never IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "synchronous = FULL",
        "foreign_keys = ON",
        # Deleted addresses and tokens are overwritten, not merely forgotten.
        "secure_delete = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    if not connection.get_execution_options().get("no_begin"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
