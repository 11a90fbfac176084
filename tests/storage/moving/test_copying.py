"""A whole database in another one, on the same engine and on the other."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Boolean, Column, Integer, LargeBinary, Table, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.engines.opening import database_url, make_engine
from identity_server.storage.moving.copying import CopyRefused, copy_database
from identity_server.storage.schema.tables import metadata, peppers
from identity_server.storage.schema.upgrade import Schema
from tests.support.databases import PATIENT, put_empty, url_for
from tests.support.fakes import START_MS

_ROWS = 5


def value_for(column: Column[Any], number: int) -> Any:
    """A value for a row; of a column that refers to another, one that is there."""
    if column.nullable and number % 2:
        return None
    if isinstance(column.type, Boolean):
        return number % 2 == 0
    if isinstance(column.type, Integer):
        return number + 1
    if isinstance(column.type, LargeBinary):
        return bytes([number, 0, 255])
    referred = next(iter(column.foreign_keys), None)
    return f"{(referred.column if referred else column).name[:12]}-{number}ü"[: getattr(column.type, "length", None)]


def row(table: Table, number: int) -> dict[str, Any]:
    return {column.name: value_for(column, number) for column in table.columns}


async def populate(engine: AsyncEngine) -> None:
    """Rows in every table, and a pepper that is gone."""
    await Schema(engine).upgrade(now_ms=START_MS)
    async with engine.connect() as connection, connection.begin():
        for table in metadata.sorted_tables:
            await connection.execute(table.delete())
            await connection.execute(insert(table), [row(table, number) for number in range(_ROWS)])
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SELECT setval(pg_get_serial_sequence('peppers', 'id'), 5)"))
        gone = {name: value for name, value in row(peppers, _ROWS + 1).items() if name != "id"}
        await connection.execute(insert(peppers), gone)
        await connection.execute(peppers.delete().where(peppers.c.id > _ROWS))


async def contents(engine: AsyncEngine) -> dict[str, list[Any]]:
    async with engine.connect() as connection:
        return {
            table.name: sorted(map(tuple, await connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


async def next_pepper(engine: AsyncEngine) -> int:
    fields = {name: value for name, value in row(peppers, 99).items() if name != "id"}
    async with engine.connect() as connection, connection.begin():
        result = await connection.execute(insert(peppers).returning(peppers.c.id), fields)
        return int(result.scalar_one())


class Two:
    """A database of the engine that is tested, and a file of SQLite's."""

    def __init__(self, folder: Path) -> None:
        self.ours = make_engine(url_for(folder / "ours.db"), PATIENT)
        self.file = make_engine(database_url(url=None, file=folder / "file.db"))


@pytest.fixture
async def two(tmp_path: Path) -> Any:
    await put_empty(tmp_path / "ours.db")
    engines = Two(tmp_path)
    yield engines
    await engines.ours.dispose()
    await engines.file.dispose()


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
async def test_everything_comes_over(two: Two, back: bool) -> None:
    source, target = (two.ours, two.file) if back else (two.file, two.ours)
    await populate(source)
    told: dict[str, int] = {}

    await copy_database(source, target, now_ms=START_MS, told=told.__setitem__)

    assert told == {table.name: _ROWS for table in metadata.sorted_tables}
    assert await contents(target) == await contents(source)
    # The sixth is gone, and its number isn't given again.
    assert await next_pepper(target) == await next_pepper(source) == _ROWS + 2


async def test_numbers_of_empty_tables_begin_at_the_beginning(two: Two) -> None:
    await Schema(two.file).upgrade(now_ms=START_MS)
    await copy_database(two.file, two.ours, now_ms=START_MS, told=lambda *_: None)
    assert await next_pepper(two.ours) == 1


async def test_nothing_is_copied_over_what_is_there(two: Two) -> None:
    await populate(two.file)
    await Schema(two.ours).upgrade(now_ms=START_MS)
    assert await next_pepper(two.ours) == 1
    before = await contents(two.ours)

    with pytest.raises(CopyRefused, match="the target isn't empty: there are rows in its table peppers"):
        await copy_database(two.file, two.ours, now_ms=START_MS, told=lambda *_: None)

    assert await contents(two.ours) == before


async def test_nobody_writes_to_the_source_meanwhile(two: Two) -> None:
    """Or what they were told has happened would be missing in the copy."""
    await populate(two.file)
    kept_out: list[bool] = []

    def write(*_: object) -> None:
        # The copying goes on in this thread, so nobody is waited for.
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(two.file.url.database or "", timeout=0).execute("DELETE FROM peppers")
        kept_out.append(True)

    await copy_database(two.file, two.ours, now_ms=START_MS, told=write)

    assert kept_out


async def test_source_that_somebody_goes_on_writing_to_is_refused(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("identity_server.storage.engines.sqlite.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("identity_server.storage.engines.postgresql.LONGEST_TRANSACTION_SECONDS", 0.05)
    await populate(two.ours)
    async with two.ours.connect() as connection, connection.begin():
        await connection.execute(peppers.delete())
        with pytest.raises(CopyRefused, match="somebody goes on writing to the source"):
            await copy_database(two.ours, two.file, now_ms=START_MS, told=lambda *_: None)
