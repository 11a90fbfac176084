"""The peppers of hashed lookup: the newest, and those that are still honoured."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update

from identity_server.domain.hashing import Pepper
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import peppers

_LIST = Prepared(select(peppers).order_by(peppers.c.id))


class Peppers:
    """Peppers in the order of their ids.

    Attributes:
        changed: whether this transaction added one.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.changed = False

    async def add(self, value: str, *, now_ms: int) -> None:
        """Store a new pepper; it comes into use once an index has been built for it."""
        self.changed = True
        await self._connection.execute(insert(peppers).values(value=value, created_at_ms=now_ms))

    async def list(self) -> list[Pepper]:
        """All peppers, the oldest first."""
        rows = await self._connection.execute(_LIST)
        return [Pepper(row.id, row.value, row.created_at_ms, row.retired_at_ms) for row in rows]

    async def retire_before(self, pepper_id: int, *, now_ms: int) -> int:
        """Start the grace time of every older pepper that is still in use; returns how many."""
        result = await self._connection.execute(
            update(peppers)
            .where(peppers.c.id < pepper_id, peppers.c.retired_at_ms.is_(None))
            .values(retired_at_ms=now_ms)
        )
        self.changed = self.changed or result.rowcount > 0
        return result.rowcount

    async def cleanup(self, *, retired_before_ms: int) -> int:
        """Remove peppers whose grace time is over; returns how many."""
        result = await self._connection.execute(delete(peppers).where(peppers.c.retired_at_ms <= retired_before_ms))
        self.changed = self.changed or result.rowcount > 0
        return result.rowcount
