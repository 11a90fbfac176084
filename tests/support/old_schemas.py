"""Databases of every schema that there ever was, with rows in every table.

The rule: what is put into a table follows from how the database describes it. So a migration that is yet to come finds rows
before it, without anybody's having thought of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DefaultClause,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.shipped import shipped
from identity_server.storage.schema.tables import metadata
from identity_server.storage.schema.upgrade import Schema
from tests.support.fakes import START_MS

Rows = Mapping[str, list[Mapping[str, Any]]]
"""Of every table, in the order of its primary key."""

GONE: Final = {"audit": "its entries are in audit_pending"}
"""Tables that a migration has removed, and what has become of their rows; each has a test of its own."""

_ALEMBIC: Final = "alembic_version"
_TEXT_SIZE: Final = 2048


class RowKind(IntEnum):
    """How a row fills its table."""

    USUAL = 1
    ANOTHER = 2
    SPARSE = 3
    """With nothing that may be left out."""
    LARGEST = 4
    """With values as large as they may be."""


def revisions() -> list[str]:
    """Every schema that there ever was, the oldest first."""
    scripts = shipped("migrations") / "versions"
    return sorted(script.name.partition("_")[0] for script in scripts.glob("[0-9]*.py"))


def migrations_to(revision: str, folder: Path) -> Path:
    """The migrations as they were when this one was the newest."""
    scripts = folder / f"migrations to {revision}"
    if not scripts.exists():
        newer = [f"{each}_*" for each in revisions() if each > revision]
        shutil.copytree(shipped("migrations"), scripts, ignore=shutil.ignore_patterns("__pycache__", *newer))
    return scripts


async def build(engine: AsyncEngine, revision: str, folder: Path) -> None:
    """Bring a database to a schema, by the migrations of that time."""
    await Schema(engine, scripts=migrations_to(revision, folder)).upgrade(now_ms=START_MS)


def describe(connection: Connection) -> list[Table]:
    """The tables as the database describes them; first those that rows of others lead to."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != _ALEMBIC]


def read_tables(connection: Connection) -> Rows:
    """Everything that a database holds."""
    return {
        table.name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
        for table in describe(connection)
    }


def fill(connection: Connection) -> None:
    """Put a row of each kind into every table."""
    for table in describe(connection):
        for kind in RowKind:
            connection.execute(insert(table).values(make_row(table, kind)))


def make_row(table: Table, kind: RowKind) -> dict[str, Any]:
    """A row as the table allows it; it leads to the row of the same kind wherever it has to lead to one."""
    is_left_out = {
        column.name: kind is RowKind.SPARSE and (column.nullable or column.server_default is not None)
        for column in table.columns
    }
    # A counter's default is what counts it up.
    is_left_out |= dict.fromkeys(table.primary_key.columns.keys(), False)
    return {column.name: _value(column, kind) for column in table.columns if not is_left_out[column.name]}


def _value(column: Column[Any], kind: RowKind) -> Any:
    """By type and kind alone: so a column that leads to another of its type leads to a row that is there."""
    is_largest = kind is RowKind.LARGEST
    match column.type:
        case Boolean():
            return bool(kind % 2)
        case BigInteger():
            return 2**63 - 1 if is_largest else kind
        case Integer():
            return 2**31 - 1 if is_largest else kind
        case LargeBinary():
            return bytes([kind]) * (_TEXT_SIZE if is_largest else 32)
        case String(length=length):
            return "ü" * (length or _TEXT_SIZE) if is_largest else f"{kind:x}"
        case other:
            raise AssertionError(f"{column}: nobody has said what a value of {other!r} is like")


def assert_kept(before: Rows, after: Rows) -> None:
    """Every row is still there with all that it held, and what it holds besides is what an insert would have put there."""
    assert before.keys() - after.keys() <= GONE.keys()
    for name, rows in before.items():
        if name in GONE:
            continue
        former = rows[0].keys()
        table = metadata.tables[name]
        assert [{key: row[key] for key in former} for row in after[name]] == rows, name
        added = [column for column in table.columns if column.name not in former]
        assert all(str(row[column.name]) == _default(column) for row in after[name] for column in added), name


def _default(column: Column[Any]) -> str:
    default = column.server_default
    assert default is None or isinstance(default, DefaultClause)
    return str(default and default.arg)
