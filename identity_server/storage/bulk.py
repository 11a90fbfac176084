"""Inserts thousands of rows at the cost of the database alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncConnection


async def insert_many(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all with the same columns and with values that the driver takes as they are.

    SQLAlchemy would look at each value of each row once more, which costs as much as the insert itself.
    """
    if not rows:
        return
    names = list(rows[0])
    compiled = insert(table).compile(dialect=connection.dialect, column_keys=names)
    order = compiled.positiontup
    await connection.exec_driver_sql(str(compiled), [tuple(row[name] for name in order or names) for row in rows])
