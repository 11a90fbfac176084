"""SQLite connections that answer a request's statements at once, and leave to a thread what may take its time.

The rule: a use case of a request touches a handful of rows by key. SQLite finds them in microseconds, many times faster
than a thread can be asked, so such statements run where they are called, on the event loop's thread. Into the driver's
thread goes whatever may hold up the loop: waiting for another process's lock, the commit that waits for the disk,
many rows in one statement, and every statement of a transaction that hasn't been declared `inline`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiosqlite
from sqlalchemy import CursorResult, Executable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from identity_server.storage.connection import Answer, Connection, Many, Parameters, Prepared
from identity_server.storage.engines.sqlite_file import connect

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 5.0
"""How long a transaction waits for another process's lock before it is refused."""
_INLINE = frozenset({"Connection.cursor", "Connection.rollback", "Cursor.execute", "Cursor.fetchall", "Cursor.close"})
_COMMIT = "Connection.commit"
_MAY_WAIT = frozenset({"Cursor.execute", "Cursor.executemany", "Cursor.executescript", _COMMIT})
_FETCH_SIZE = 64
_CACHED_STATEMENTS = 256
_NOTHING: Parameters = {}
_OUT_OF_ORDER = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)
_DAMAGED = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


def is_busy(error: BaseException | None) -> bool:
    """Whether something couldn't be done because another connection has a lock."""
    # Its lower byte is the kind; errors of Python's module itself have none.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_out_of_order(error: BaseException | None) -> bool:
    """Whether the file can't be used at present: the disk is full, fails, or can't be written."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _OUT_OF_ORDER


def is_damaged(error: BaseException | None) -> bool:
    """Whether the file is none of SQLite's, or not as SQLite has written it."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED


def open_connection(database: str, **options: Any) -> DriverConnection:
    """A connection, still to be awaited; options are those of `sqlite3.connect`."""
    # Never two threads at once, but not always the same. Nobody waits for a lock unless told to.
    options |= {"check_same_thread": False, "timeout": 0, "cached_statements": _CACHED_STATEMENTS}
    file = None if database == ":memory:" else Path(database)
    return DriverConnection(partial(connect, file, **options))


class DriverConnection(aiosqlite.Connection):
    """A connection used by the event loop's thread or by its own, never by both at once.

    While its own thread has anything to do, or to do next, whatever is asked for queues behind it there: so nothing
    overtakes a statement whose caller was cancelled.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, _FETCH_SIZE)
        # A process that ends doesn't wait for connections that were never closed.
        self._thread.daemon = True
        self._inline = False
        self._writes = True
        # Each is counted by one thread only, so neither needs a lock.
        self._asked_of_thread = 0
        self._done_by_thread = 0

    def begin(self, *, inline: bool, writes: bool) -> None:
        """Say what the next transaction is like.

        Args:
            inline: its statements touch a handful of rows by key.
            writes: its commit has to wait for the disk.
        """
        self._inline = inline
        self._writes = writes

    @property
    def is_inline(self) -> bool:
        """Whether statements run where they are called."""
        return self._inline

    async def run(self, sql: str, values: Sequence[Any] = ()) -> tuple[list[Any], int]:
        """Run a statement; returns all of its rows, and how many rows it has changed."""
        return await self._here_or_in_thread(partial(self._fetched, sql, values))

    async def run_many(self, sql: str, several: Sequence[Sequence[Any]]) -> int:
        """Run a statement once with each of these values; returns how many rows all of it has changed."""
        # Where a transaction is `inline`, these are rows of a handful of requests that share it.
        return (await self._here_or_in_thread(partial(self._conn.executemany, sql, several))).rowcount

    async def _here_or_in_thread(self, function: Callable[[], T]) -> T:
        if self._inline and self._asked_of_thread == self._done_by_thread:
            try:
                return function()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
        return await self._in_thread(function, waits=True)

    def _fetched(self, sql: str, values: Sequence[Any]) -> tuple[list[Any], int]:
        cursor = self._conn.execute(sql, values)
        return cursor.fetchall(), cursor.rowcount

    async def _execute(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        name = getattr(fn, "__qualname__", "")
        if self._runs_here(name):
            try:
                return fn(*args, **kwargs)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                # Another process has a lock. It had no effect, so it is asked for again where it can be waited for.
        return await self._in_thread(partial(fn, *args, **kwargs), waits=name in _MAY_WAIT)

    async def _in_thread(self, function: Callable[[], T], *, waits: bool) -> T:
        self._asked_of_thread += 1
        work = self._run_in_thread, function, waits
        result: T = await super()._execute(*work)  # type: ignore[no-untyped-call] # the driver has no types there
        return result

    def _runs_here(self, name: str) -> bool:
        if not self._inline or self._asked_of_thread != self._done_by_thread:
            return False
        return name in _INLINE or (name == _COMMIT and not self._writes)

    def _run_in_thread(self, function: Callable[[], T], waits: bool) -> T:  # noqa: FBT001 - the driver passes it on
        try:
            return self._waiting_for_locks(function) if waits else function()
        finally:
            self._done_by_thread += 1

    def _waiting_for_locks(self, function: Callable[[], T]) -> T:
        self._set_busy_timeout(round(1000 * BUSY_SECONDS))
        try:
            return function()
        finally:
            self._set_busy_timeout(0)

    def _set_busy_timeout(self, timeout_ms: int) -> None:
        self._conn.execute(f"PRAGMA busy_timeout = {timeout_ms}").close()


class SqliteConnection(Connection):
    """A connection that stays open between transactions, and knows where each of them begins and ends."""

    def __init__(self, connection: AsyncConnection, driver: DriverConnection) -> None:
        super().__init__(connection)
        self._driver = driver

    @classmethod
    async def open(cls, engine: AsyncEngine) -> SqliteConnection:
        """One of the engine's."""
        connection = await engine.connect()
        # What it runs by SQLAlchemy is part of a transaction that has begun without it.
        await connection.execution_options(no_begin=True)
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, DriverConnection)
        return cls(connection, driver)

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction still stands: SQLite itself ends it when the disk is full or fails."""
        return self._driver.in_transaction

    async def begin(self, *, inline: bool, writes: bool) -> None:
        """Begin a transaction; `inline` and `writes` are as for the driver."""
        self._driver.begin(inline=inline, writes=writes)
        await self._run("BEGIN IMMEDIATE" if writes else "BEGIN")

    async def commit(self) -> None:
        """End the transaction."""
        if self.sqlalchemy.in_transaction():
            await self.sqlalchemy.commit()
            return
        try:
            await self._driver.commit()
        except sqlite3.Error as error:
            raise _wrapped("COMMIT", error) from error

    async def rollback(self) -> None:
        """End the transaction as if it had never been."""
        # After a commit that has failed, SQLAlchemy's isn't active any more, and yet in the way of the next.
        await self.sqlalchemy.rollback()
        await self._driver.rollback()

    async def savepoint(self, name: str) -> None:
        """Mark a place in the transaction that can be gone back to."""
        await self._run(f"SAVEPOINT {name}")

    async def release(self, name: str) -> None:
        """Forget the mark."""
        await self._run(f"RELEASE {name}")

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since the mark, and forget it."""
        await self._run(f"ROLLBACK TO {name}")
        await self._run(f"RELEASE {name}")

    async def close(self) -> None:
        """Give it back to the engine."""
        await self.sqlalchemy.close()

    async def execute(
        self, statement: Executable | Prepared, parameters: Parameters | Many | None = None
    ) -> CursorResult[*tuple[Any, ...]] | Answer:
        """Run a statement; one that is built once doesn't pass through SQLAlchemy."""
        if not isinstance(statement, Prepared):
            return await super().execute(statement, parameters)
        if isinstance(parameters, Sequence):
            return await self._execute_many(statement, parameters)
        given = parameters or _NOTHING
        compiled = statement.compiled(self.dialect, given)
        return compiled.answer(*await self._run(*compiled.bind(given)))

    async def _execute_many(self, statement: Prepared, several: Many) -> Answer:
        compiled = statement.compiled(self.dialect, several[0])
        sql, values = compiled.bind_many(several)
        try:
            return compiled.answer([], await self._driver.run_many(sql, values))
        except sqlite3.Error as error:
            raise _wrapped(sql, error) from error

    async def _run(self, sql: str, values: Sequence[Any] = ()) -> tuple[list[Any], int]:
        try:
            return await self._driver.run(sql, values)
        except sqlite3.Error as error:
            raise _wrapped(sql, error) from error


class DataVersion:
    """Tells whether anybody else has committed: `PRAGMA data_version` on a connection of its own, opened when first asked."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._seen = -1

    def has_moved(self) -> bool:
        """Whether somebody has, since this was last asked."""
        if self._connection is None:
            self._connection = connect(self._file, isolation_level=None)
        before = self._seen
        self._seen = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return self._seen != before

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _wrapped(sql: str, error: sqlite3.Error) -> BaseException:
    """As SQLAlchemy raises it, without the values."""
    return DBAPIError.instance(sql, None, error, sqlite3.Error, hide_parameters=True)
