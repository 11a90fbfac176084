"""The database of a server that is stopped: put into the form that an earlier version has left it in, looked at, upgraded.

The rule: an upgrade is the command itself in a process of its own, which can be killed or stopped where the test wants.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection, delete, insert, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.engines.opening import database_url, make_engine
from identity_server.storage.schema.upgrade import Schema
from tests.e2e.processes import PATIENCE_SECONDS, Program
from tests.fire.stage import Engine, Server, postgresql_server
from tests.support.old_schemas import GONE, RowKind, Rows, build, describe, make_row, read_tables

T = TypeVar("T")

COPIES: Final = "*.before-upgrade-*"
_BATCH: Final = 1_000


class Installation:
    """A server's database while the server is stopped.

    Attributes:
        server: whose it is.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._numbers = count(1)

    @property
    def _url(self) -> URL:
        if self.server.postgresql is None:
            return database_url(url=None, file=self.server.database)
        return self.server.postgresql.url("postgres")

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[AsyncEngine]:
        """An engine on it, for as long as the block runs."""
        engine = make_engine(self._url)
        try:
            yield engine
        finally:
            await engine.dispose()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do something with it in one transaction."""
        async with self.engine() as engine, engine.begin() as connection:
            return await connection.run_sync(work)

    async def read(self) -> Rows:
        """Everything that it holds."""
        return await self.run(read_tables)

    async def status(self) -> str | None:
        """Its revision."""
        async with self.engine() as engine:
            return (await Schema(engine).status()).current

    async def put(self, revision: str, fill: Callable[[Connection], None]) -> None:
        """Put one of that schema in its place."""
        if self.server.postgresql is not None:
            self.server.postgresql.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        for file in self.server.database.parent.glob(f"{self.server.database.name}*"):
            file.unlink()
        async with self.engine() as engine:
            await build(engine, revision, self.server.folder)
        await self.run(fill)

    def command(self, *words: str) -> Program:
        """A command of the server's, with points in it."""
        return Program(
            words[0],
            [sys.executable, "-m", "tests.fire.launcher", *words, "-c", self.server.conf],
            log=self.server.folder / f"{words[0]}{next(self._numbers)}.log",
            home=self.server.folder,
            env=self.server.env,
        )

    def copies(self) -> list[Path]:
        """What upgrades have put beside it."""
        return sorted(self.server.database.parent.glob(COPIES))


@asynccontextmanager
async def installed(folder: Path, engine: Engine) -> AsyncIterator[Installation]:
    """A server that isn't started, for as long as the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    if engine == "sqlite":
        yield _make(Server(folder, postgresql=None, workers=1))
        return
    with postgresql_server() as postgresql:
        yield _make(Server(folder, postgresql=postgresql, workers=1))


def _make(server: Server) -> Installation:
    server.conf.write_text(f"""
[general]
server.name = localhost
pidfile.path = {server.folder}/identity.pid
[db]
db.file = {server.database}
[crypto]
key_dir = {server.folder}/keys
[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {server.base.rpartition(":")[2]}
client_http_base = {server.base}
""")
    return Installation(server)


async def ended(program: Program, *, seconds: float = PATIENCE_SECONDS) -> int:
    """Wait until a program has ended; its exit status, negative if it was killed."""
    return await asyncio.to_thread(program.wait, seconds=seconds)


def put_rows(connection: Connection, rows: Rows) -> None:
    """Have a database of an earlier schema hold these rows, as far as it has a place for them.

    A table that isn't there any more gets one of its own.
    """
    tables = describe(connection)
    for table in reversed(tables):
        connection.execute(delete(table))
    for table in tables:
        of_table = rows.get(table.name) or [make_row(table, RowKind.USUAL)] * (table.name in GONE)
        known = [{name: value for name, value in row.items() if name in table.c} for row in of_table]
        for first in range(0, len(known), _BATCH):
            connection.execute(insert(table), known[first : first + _BATCH])
    if connection.dialect.name == "postgresql":
        _count_on(connection)


def _count_on(connection: Connection) -> None:
    """Have counters go on after the highest number there is, as they would have."""
    for table in describe(connection):
        for column in table.primary_key:
            if column.server_default is None:
                continue
            name = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
            highest = f"SELECT max({column.name}) FROM {table.name}"
            connection.execute(text(f"SELECT setval({name}, ({highest}))"))
