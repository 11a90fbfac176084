"""What is left in a database's files of what was deleted, and how it is got rid of.

SQLite overwrites what it deletes, but its write-ahead log holds pages as they were before until it is begun anew. And
what some other program deletes without overwriting it stays in the file until that is written anew.
PostgreSQL keeps deleted rows, invisible, until a vacuum; see docs/operating.md for what even that leaves.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.engines.outside import outside_transactions
from identity_server.storage.engines.sqlite_file import sqlite_file
from identity_server.storage.schema.tables import metadata

_TRIES = 10
_PAUSE_SECONDS = 0.5
_MOST_TRACES = 50
"""Looking for more of them takes longer than writing the file anew."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was done about remains.

    Attributes:
        is_complete: nothing is left that this database can be made to give up. Otherwise somebody was reading or
            writing all the time, and it is worth another try.
        rewrote_file: whether the whole file was written anew.
    """

    is_complete: bool
    rewrote_file: bool = False


class Remains:
    """Gets rid of what is left; outside any transaction, and beside whoever else uses the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def empty_log(self) -> bool:
        """Bring SQLite's write-ahead log into the file, and leave it empty; False if readers were always in the way.

        Whoever wants to write waits meanwhile, as for any other writer.
        """
        if self._file is None:
            return True
        for _ in range(_TRIES):
            async with outside_transactions(self._engine) as connection:
                busy = (await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()[0]
            if not busy:
                return True
            await asyncio.sleep(_PAUSE_SECONDS)
        return False

    async def clear(self, traces: Collection[bytes]) -> Cleared:
        """Leave nothing of what has been deleted.

        On SQLite the log is emptied and the file is searched; if it holds a trace, or if there are too many of them to
        look for, it is written anew. That takes about a second for half a million bindings, in which others can read
        and not write. PostgreSQL is told to
        reclaim the space of deleted rows, beside everybody else.

        Args:
            traces: bytes that can only stand there if a deleted row is left, or part of one.
        """
        if self._engine.dialect.name == "postgresql":
            await self._vacuum_tables()
            return Cleared(is_complete=True)
        emptied = await self.empty_log()
        file = self._file
        if file is None or not await asyncio.to_thread(_may_hold_any, file, traces):
            return Cleared(is_complete=emptied)
        async with outside_transactions(self._engine) as connection:
            await connection.execute(text("VACUUM"))
        return Cleared(is_complete=await self.empty_log(), rewrote_file=True)

    @property
    def _file(self) -> Path | None:
        """SQLite's file; None where there is none."""
        return sqlite_file(self._engine.url)

    async def _vacuum_tables(self) -> None:
        async with outside_transactions(self._engine) as connection:
            if not connection.info["is_postgresql"]:
                return
            # A pooler has no limit for a session, and would hand ours on to others.
            limited = not connection.info["sets_limits"]
            if limited:
                await connection.execute(text("SET statement_timeout = 0"))
            try:
                for table in metadata.sorted_tables:
                    await connection.execute(text(f"VACUUM {table.name}"))
            finally:
                if limited:
                    await connection.execute(text("RESET statement_timeout"))


def _may_hold_any(file: Path, traces: Collection[bytes]) -> bool:
    if len(traces) > _MOST_TRACES:
        return True
    with file.open("rb") as opened:
        # An empty file can't be mapped, and holds nothing.
        if not opened.seek(0, 2):
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(trace) >= 0 for trace in traces)
