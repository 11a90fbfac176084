"""A real database, built by the migrations, without a server around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.database import Database, database_url, make_engine
from identity_server.storage.schema import Schema
from identity_server.storage.sealing import RootKey, Sealer
from identity_server.storage.stamps import Stamps
from tests.support.fakes import START_MS, FakeRandomness

ROOT_KEY = RootKey(b"r" * 32)


def engine_at(directory: Path) -> AsyncEngine:
    """An engine on the database of a directory."""
    return make_engine(database_url(url=None, file=directory / "identity.db"))


_migrated: bytes | None = None


async def put_migrated(file: Path) -> None:
    """Put a new database where there is none: one that the migrations built, once for all tests of a process."""
    global _migrated  # noqa: PLW0603 - what takes a tenth of a second is not done a thousand times
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if _migrated is None:
        engine = make_engine(database_url(url=None, file=file))
        await Schema(engine).upgrade(now_ms=START_MS)
        await engine.dispose()
        _migrated = file.read_bytes()
    else:
        file.write_bytes(_migrated)
    file.chmod(0o600)


@asynccontextmanager
async def open_database(directory: Path, *, root_key: RootKey = ROOT_KEY) -> AsyncIterator[Database]:
    """The database of a directory; opened twice, it is as two processes see it."""
    await put_migrated(directory / "identity.db")
    engine = engine_at(directory)
    sealer = Sealer(root_key, randomness=FakeRandomness(str(id(engine))))
    database = Database(engine, sealer, stamps=Stamps(directory / "stamps"))
    try:
        yield database
    finally:
        await database.close()
