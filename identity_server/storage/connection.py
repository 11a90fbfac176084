"""The connection of one transaction, as repositories know it, and statements that are built once.

The rule: what a request may run is a `Prepared` at the head of its module. SQLAlchemy takes longer to put a statement
together, and to find out that it has seen one like it, than a database does to run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import CursorResult, Dialect, Executable
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ClauseElement

Parameters = Mapping[str, Any]
Many = Sequence[Mapping[str, Any]]


class Prepared:
    """A statement that is built once, and executed with other values each time: `bindparam` says where they go.

    An insert, or an update without `values`, sets the columns that it is first given values for.
    """

    __slots__ = ("_compiled", "statement")

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._compiled: Compiled | None = None

    def compiled(self, dialect: Dialect, parameters: Parameters) -> Compiled:
        """What a driver that takes its parameters by position is given; of the first dialect that asks for it."""
        if self._compiled is None:
            self._compiled = Compiled(self.statement, dialect, list(parameters))
        return self._compiled


class Compiled:
    """A statement as text, with what makes values for the driver from parameters, and values from those of its rows."""

    def __init__(self, statement: Executable, dialect: Dialect, names: Sequence[str]) -> None:
        assert isinstance(statement, ClauseElement)
        compiled: Any = statement.compile(dialect=dialect, column_keys=names)
        self._sql = str(compiled)
        self._names = frozenset(names)
        self._lists = [name for name, bound in compiled.binds.items() if bound.expanding]
        self._fixed = {name: value for name, value in compiled.params.items() if not compiled.binds[name].required}
        types = [(name, compiled.binds[name].type.dialect_impl(dialect)) for name in compiled.positiontup or ()]
        self._order = [(name, type_.bind_processor(dialect)) for name, type_ in types]
        columns = list(getattr(statement, "selected_columns", ()))
        self._metadata = SimpleResultMetaData([column.key for column in columns])
        processors = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._processors = [(place, each) for place, each in enumerate(processors) if each is not None]

    def bind(self, parameters: Parameters) -> tuple[str, Sequence[Any]]:
        """The text, and the values in its order."""
        assert parameters.keys() == self._names, "a statement that is built once always gets the same parameters"
        known = {**self._fixed, **parameters} if self._fixed else parameters
        if self._lists:
            return self._bind_lists(known)
        return self._sql, [known[name] if make is None else make(known[name]) for name, make in self._order]

    def bind_many(self, several: Many) -> tuple[str, Sequence[Sequence[Any]]]:
        """The text, and the values of each time that it is to be run."""
        assert not self._lists, "the text depends on how long the lists are"
        return self._sql, [self.bind(parameters)[1] for parameters in several]

    def _bind_lists(self, known: Parameters) -> tuple[str, Sequence[Any]]:
        sql = self._sql
        values: list[Any] = []
        lists = {name: _of_round_length(known[name]) for name in self._lists}
        for name, some in lists.items():
            sql = sql.replace(f"(__[POSTCOMPILE_{name}])", f"({', '.join('?' * len(some))})")
        for name, make in self._order:
            some = lists[name] if name in lists else [known[name]]
            values += some if make is None else map(make, some)
        return sql, values

    def answer(self, rows: Sequence[Any], rowcount: int) -> Answer:
        """What the driver has returned, as SQLAlchemy would return it."""
        if self._processors:
            rows = [self._processed(row) for row in rows]
        return Answer(self._metadata, rows, rowcount)

    def _processed(self, row: Sequence[Any]) -> tuple[Any, ...]:
        values = list(row)
        for place, process in self._processors:
            values[place] = process(values[place])
        return tuple(values)


def _of_round_length(values: Sequence[Any]) -> Sequence[Any]:
    """The same set of values in one of few lengths: so there are few texts, and the driver keeps each of them ready."""
    if not values:
        return values
    round_length = 1 << (len(values) - 1).bit_length()
    return [*values, *[values[-1]] * (round_length - len(values))]


class Answer(IteratorResult[*tuple[Any, ...]]):
    """Rows, and how many rows there were to change.

    Attributes:
        rowcount, returns_rows: as `CursorResult` has them.
    """

    def __init__(self, metadata: SimpleResultMetaData, rows: Sequence[Any], rowcount: int) -> None:
        super().__init__(metadata, iter(rows))
        self.rowcount = rowcount
        self.returns_rows = bool(metadata.keys)


class Connection:
    """What repositories run their statements on."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.sqlalchemy = connection

    @property
    def dialect(self) -> Dialect:
        """Of the database."""
        return self.sqlalchemy.dialect

    async def execute(
        self, statement: Executable | Prepared, parameters: Parameters | Many | None = None
    ) -> CursorResult[*tuple[Any, ...]] | Answer:
        """Run a statement; with many parameters, once for each."""
        if isinstance(statement, Prepared):
            statement = statement.statement
        return await self.sqlalchemy.execute(statement, parameters)

    async def exec_driver_sql(self, sql: str, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]:
        """Run a statement as it stands."""
        return await self.sqlalchemy.exec_driver_sql(sql, parameters)
