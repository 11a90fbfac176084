"""A real database, built by the migrations, without a server around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.database import Database, database_url, make_engine
from identity_server.storage.schema import Schema
from identity_server.storage.sealing import RootKey, Sealer
from tests.support.fakes import START_MS, FakeRandomness

ROOT_KEY = RootKey(b"r" * 32)


def engine_at(directory: Path) -> AsyncEngine:
    """An engine on the database of a directory."""
    return make_engine(database_url(url=None, file=directory / "identity.db"))


@asynccontextmanager
async def open_database(directory: Path, *, root_key: RootKey = ROOT_KEY) -> AsyncIterator[Database]:
    """The database of a directory; opened twice, it is as two processes see it."""
    engine = engine_at(directory)
    await Schema(engine).upgrade(now_ms=START_MS)
    database = Database(engine, Sealer(root_key, randomness=FakeRandomness(str(id(engine)))))
    try:
        yield database
    finally:
        await database.close()
