"""What is about many rows: inserts them at the cost of the database alone, and takes as many at once as it can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Table, delete, insert, select

from identity_server.storage.connection import Connection

T = TypeVar("T")

MOST_PARAMETERS: Final = 500
"""No database takes any number of them in one statement; this many it always does."""

MANY_PARAMETERS: Final = 5_000
"""For who has thousands: PostgreSQL takes 32 767 in one statement, SQLite about as many."""


def in_parts(values: Sequence[T], size: int = MOST_PARAMETERS) -> Iterator[Sequence[T]]:
    """The values in their order, so many at a time; the last part has what is left."""
    return (values[start : start + size] for start in range(0, len(values), size))


async def insert_many(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all with the same columns and with values that the driver takes as they are.

    SQLAlchemy would look at each value of each row once more, which costs as much as the insert itself.
    """
    if not rows:
        return
    names = list(rows[0])
    compiled = insert(table).compile(dialect=connection.dialect, column_keys=names)
    order = compiled.positiontup
    await connection.exec_driver_sql(str(compiled), [tuple(row[name] for name in order or names) for row in rows])


async def delete_some(
    connection: Connection, table: Table, over: ColumnElement[bool], *, by: ColumnElement[Any], limit: int
) -> int:
    """Delete so many rows at most; returns how many.

    Args:
        connection: in a transaction.
        table: with a primary key of one column.
        over: which rows may go.
        by: which of them go first, those where it is smallest: a column whose index finds them.
        limit: how many.
    """
    (key,) = table.primary_key.columns
    some = select(key).where(over).order_by(by).limit(limit)
    return (await connection.execute(delete(table).where(key.in_(some)))).rowcount
