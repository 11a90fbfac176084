"""For what a database refuses to do inside the transaction that a connection opens by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


@asynccontextmanager
async def outside_transactions(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection, each statement of which is a transaction of its own, or none."""
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT", no_begin=True)
