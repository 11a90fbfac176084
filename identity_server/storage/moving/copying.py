"""Copies a whole database into an empty one, whichever engine each is on.

The rule: all of it or nothing. Nobody can write to the source meanwhile, and what came over is counted before it counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Table, delete, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from identity_server.storage.bulk import insert_many
from identity_server.storage.connection import Connection
from identity_server.storage.engines.postgresql import have_it_alone, have_it_unchanged, what_to_do_about
from identity_server.storage.engines.sqlite import is_busy
from identity_server.storage.schema.tables import association_changes, metadata
from identity_server.storage.schema.upgrade import Schema

_BATCH = 2_000

Told = Callable[[str, int], None]
"""Is told of each table that has been copied, with the number of its rows."""


class CopyRefused(Exception):
    """Nothing has been copied; the text says why."""


async def copy_database(source: AsyncEngine, target: AsyncEngine, *, now_ms: int, told: Told) -> None:
    """Copy every row of every table as it is, sealed values included, and where numbering has come to.

    The tables of the target are made first. Servers that still run on the source can't write for as long as it takes.

    Raises:
        CopyRefused: the target isn't empty, somebody goes on writing to the source, or not all rows came over.
        SchemaProblem: one of the two can't be reached, or the source has an older or newer schema than this version.
    """
    await _make_tables(target, now_ms=now_ms)
    async with _unchanged(source) as reading, target.connect() as connection, connection.begin():
        writing = Connection(connection)
        await have_it_alone(connection)
        await _require_empty(connection)
        for table in metadata.sorted_tables:
            await _copy_rows(reading, writing, table)
            if table.autoincrement_column is not None:
                await _set_counter(connection, table, await _counter(reading, table))
        for table in metadata.sorted_tables:
            rows = await _count(reading, table)
            if rows != await _count(connection, table):
                raise CopyRefused(f"not all rows of the table {table.name} came over")
            told(table.name, rows)


async def _require_empty(target: AsyncConnection) -> None:
    """Refuse a database that anybody has used; what its migrations have left in it goes."""
    for table in metadata.sorted_tables:
        if table is not association_changes and await _count(target, table):
            raise CopyRefused(f"the target isn't empty: there are rows in its table {table.name}")
    await target.execute(delete(association_changes))


async def _make_tables(target: AsyncEngine, *, now_ms: int) -> None:
    schema = Schema(target)
    status = await schema.status()
    if status.current is not None and not status.up_to_date:
        raise CopyRefused(f"the target isn't empty: it has tables of the schema {status.current}")
    await schema.upgrade(now_ms=now_ms)


@asynccontextmanager
async def _unchanged(source: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """The source, to which nobody else can write meanwhile."""
    async with source.connect() as connection:
        try:
            await Schema(source).require_current()
            if source.dialect.name == "postgresql":
                await connection.execution_options(isolation_level="REPEATABLE READ")
            # SQLite's write lock comes with the transaction.
            await connection.begin()
            await have_it_unchanged(connection, [table.name for table in metadata.sorted_tables])
        except DBAPIError as error:
            if is_busy(error.orig) or what_to_do_about(error):
                raise CopyRefused("somebody goes on writing to the source: stop its servers first") from error
            raise
        yield connection


async def _copy_rows(reading: AsyncConnection, writing: Connection, table: Table) -> None:
    rows = await reading.stream(select(table))
    async for part in rows.mappings().partitions(_BATCH):
        await insert_many(writing, table, [dict(row) for row in part])


async def _count(connection: AsyncConnection, table: Table) -> int:
    return await connection.scalar(select(func.count()).select_from(table)) or 0


async def _counter(connection: AsyncConnection, table: Table) -> int:
    """The last number that the table has given to a row, which may be long gone."""
    if _is_postgresql(connection):
        sequence = await connection.scalar(_sequence_of(table))
        query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"  # noqa: S608 - PostgreSQL's own word
        return int((await connection.exec_driver_sql(query)).scalar_one())
    last = None
    if _counts_the_gone(table):
        last = await connection.scalar(
            text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name}
        )
    return last or await connection.scalar(select(func.max(table.autoincrement_column))) or 0


async def _set_counter(connection: AsyncConnection, table: Table, last: int) -> None:
    """Have the next row numbered as the source would have: whoever follows the numbers must never see one again."""
    if _is_postgresql(connection):
        sequence = await connection.scalar(_sequence_of(table))
        await connection.scalar(select(func.setval(sequence, max(last, 1), last > 0)))
    elif _counts_the_gone(table):
        name = {"name": table.name}
        await connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), name)
        await connection.execute(text("INSERT INTO sqlite_sequence VALUES (:name, :last)"), {**name, "last": last})


def _sequence_of(table: Table) -> Any:
    assert table.autoincrement_column is not None
    return select(func.pg_get_serial_sequence(table.name, table.autoincrement_column.name))


def _counts_the_gone(table: Table) -> bool:
    return bool(table.dialect_options["sqlite"]["autoincrement"])


def _is_postgresql(connection: AsyncConnection) -> bool:
    return connection.dialect.name == "postgresql"
