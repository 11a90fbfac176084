"""A real database, built by the migrations, without a server around it.

The one rule: a test says nothing about the engine. `pytest --engine postgresql` runs the same tests on a
PostgreSQL server that pytest starts for itself and its workers.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from identity_server.storage.database import Database
from identity_server.storage.engines.opening import IN_MEMORY, database_url, make_engine
from identity_server.storage.engines.postgresql import PostgresqlSettings
from identity_server.storage.schema.upgrade import Schema
from identity_server.storage.sealing.key_ring import KeyRing, RootKey
from identity_server.storage.sealing.sealer import LiveKeys
from identity_server.storage.stamps import Stamps
from tests.support import postgresql
from tests.support.fakes import START_MS, FakeRandomness
from tests.support.written import written_since

ROOT_KEY = RootKey(b"r" * 32)

POSTGRESQL_FOLDER = "IDENTITY_SERVER_TESTS_POSTGRESQL"
"""The variable by which the processes of one pytest know their PostgreSQL server; unset, they use SQLite."""

_TEMPLATE = "migrated"
PATIENT = PostgresqlSettings(connect_seconds=60)
"""A machine that runs many tests at once may be slow; no test is about that."""


def on_postgresql() -> bool:
    """Whether the tests of this process run on PostgreSQL."""
    return POSTGRESQL_FOLDER in os.environ


def url_for(file: Path) -> URL:
    """Where a test's database is that lives in this file, or under a name made from it."""
    if not on_postgresql():
        return database_url(url=None, file=file)
    name = "t" + hashlib.sha256(str(file).encode()).hexdigest()[:24]
    return postgresql.postgresql_url(_folder(), name)


def variables_for(file: Path) -> dict[str, str]:
    """The environment by which a command finds a test's database."""
    variables = {"IDENTITY_SERVER__DB__DB_FILE": str(file)}
    if on_postgresql():
        variables["IDENTITY_SERVER__DB__DB_URL"] = url_for(file).render_as_string(hide_password=False)
        variables["IDENTITY_SERVER__DB__DB_CONNECT_TIMEOUT_SECONDS"] = str(PATIENT.connect_seconds)
    return variables


def engine_at(directory: Path) -> AsyncEngine:
    """An engine on the database of a directory."""
    return make_engine(url_for(directory / "identity.db"), PATIENT)


async def put_migrated(file: Path) -> None:
    """Put a new database where there is none: one that the migrations built, once for all tests of a process."""
    await (_put_postgresql if on_postgresql() else _put_sqlite)(file)


async def put_empty(file: Path) -> None:
    """Put a new database where there is none: one without any table. SQLite's files come by themselves."""
    if on_postgresql():
        await _put_postgresql(file, template="template0")


@asynccontextmanager
async def open_database(
    directory: Path, *, root_key: RootKey = ROOT_KEY, ring: KeyRing | None = None
) -> AsyncIterator[Database]:
    """The database of a directory; opened twice, it is as two processes see it."""
    await put_migrated(directory / "identity.db")
    engine = engine_at(directory)
    keys = LiveKeys(ring or KeyRing(root_key), randomness=FakeRandomness(str(id(engine))))
    database = Database(engine, keys, stamps=Stamps(directory / "stamps"))
    try:
        yield database
    finally:
        await database.close()


def compile_statements_once(patch: pytest.MonkeyPatch) -> None:
    """Have all SQLite engines of this process share what SQLAlchemy has compiled, as the connections of one engine do.

    A server makes an engine once; the tests make a thousand, and each would compile every statement anew.
    """
    model = make_engine(IN_MEMORY)
    asyncio.run(_connect_once(model))
    shared = model.sync_engine

    def make_sharing(url: URL, **options: Any) -> AsyncEngine:
        engine = create_async_engine(url, **options)
        engine.sync_engine.dialect = engine.sync_engine.pool._dialect = shared.dialect
        engine.sync_engine._compiled_cache = shared._compiled_cache
        return engine

    patch.setattr(f"{make_engine.__module__}.create_async_engine", make_sharing)


async def _connect_once(engine: AsyncEngine) -> None:
    """Have its dialect find out with what SQLite it has to do."""
    async with engine.connect():
        pass
    await engine.dispose()


def read_rows(file: Path, query: str) -> list[tuple[Any, ...]]:
    """What a test's database holds, read from outside."""
    (rows,) = _read_each(file, [query])
    return rows


def table_names(file: Path) -> list[str]:
    """Every table of a test's database."""
    query = (
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        if on_postgresql()
        else "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
    )
    return [name for (name,) in read_rows(file, query)]


def read_tables(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    names = table_names(file)
    return dict(zip(names, _read_each(file, [f'SELECT * FROM "{name}"' for name in names]), strict=True))


def read_everything(file: Path) -> list[tuple[Any, ...]]:
    """Every row of every table, with the table's name before it."""
    return [(name, *row) for name, rows in read_tables(file).items() for row in rows]


def _read_each(file: Path, queries: Sequence[str]) -> list[list[tuple[Any, ...]]]:
    if on_postgresql():
        return postgresql.in_a_thread(postgresql.fetch_each(_folder(), str(url_for(file).database), queries))
    with closing(sqlite3.connect(file)) as connection:
        return [connection.execute(query).fetchall() for query in queries]


def written_to(file: Path) -> bytes:
    """What has been written to a test's database: on SQLite, all that its files have ever held."""
    if on_postgresql():
        return "\n".join(map(repr, read_everything(file))).encode()
    return written_since(file, _migrated or b"")


def write_rows(file: Path, *statements: str) -> None:
    """Change a test's database behind everybody's back."""
    if on_postgresql():
        postgresql.in_a_thread(postgresql.execute(_folder(), str(url_for(file).database), statements))
        return
    with sqlite3.connect(file) as connection:
        for statement in statements:
            connection.execute(statement)


async def connect_to(file: Path) -> Any:
    """A plain connection to a test's database, for what is done behind everybody's back on PostgreSQL."""
    return await postgresql.connect(_folder(), str(url_for(file).database))


async def make_template() -> None:
    """Build the database that every test's is copied from; once for each PostgreSQL server."""
    await postgresql.execute(_folder(), "postgres", [f"CREATE DATABASE {_TEMPLATE}"])
    engine = make_engine(postgresql.postgresql_url(_folder(), _TEMPLATE))
    await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()


_migrated: bytes | None = None


async def _put_sqlite(file: Path) -> None:
    global _migrated  # noqa: PLW0603 - what takes a tenth of a second is not done a thousand times
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if _migrated is None:
        engine = make_engine(database_url(url=None, file=file))
        await Schema(engine).upgrade(now_ms=START_MS)
        await engine.dispose()
        _migrated = file.read_bytes()
    else:
        file.write_bytes(_migrated)
    file.chmod(0o600)


_made_for: dict[str, str] = {}
"""The module of tests that each database of this process was made for."""


async def _put_postgresql(file: Path, *, template: str = _TEMPLATE) -> None:
    name = str(url_for(file).database)
    module = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    if name in _made_for:
        return
    connection = await postgresql.connect(_folder())
    try:
        await _drop_others(connection, module)
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    finally:
        await connection.close()
    _made_for[name] = module


async def _drop_others(connection: Any, module: str) -> None:
    """Drop what the tests of other modules have left, unless somebody still uses it."""
    in_use = {row[0] for row in await connection.fetch("SELECT DISTINCT datname FROM pg_stat_activity")}
    for name in [name for name, owner in _made_for.items() if owner != module and name not in in_use]:
        await connection.execute(f"DROP DATABASE IF EXISTS {name}")
        del _made_for[name]


def _folder() -> Path:
    return Path(os.environ[POSTGRESQL_FOLDER])
