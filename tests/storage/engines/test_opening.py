"""Engines: where the database is, and what it is told to keep to."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from identity_server.storage.database import Database, Transaction
from identity_server.storage.engines.opening import database_url


@pytest.mark.sqlite(reason="PRAGMAs")
async def test_sqlite_is_durable_and_forgets_what_is_deleted(database: Database) -> None:
    async def use_case(tx: Transaction) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        return {name: (await tx.accounts._connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in names}

    assert await database.read(use_case) == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
    }


def test_url_of_postgresql_is_taken_as_it_is() -> None:
    url = database_url(url="postgresql+asyncpg://db.example/identity", file=Path("unused"))
    assert url.get_backend_name() == "postgresql"
