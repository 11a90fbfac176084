"""What an operator may have to account for later; never names a person or an address."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from identity_server.domain.identifiers import ServerName
from identity_server.storage.tables import audit


class Audit:
    """Entries are added and read; nothing changes them."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, event: str, *, now_ms: int, server_name: ServerName | None = None) -> None:
        """Write an entry."""
        await self._connection.execute(insert(audit).values(at_ms=now_ms, event=event, server_name=server_name))

    async def list(self, event: str) -> list[tuple[int, str | None]]:
        """Time and homeserver of every entry of this kind, the oldest first."""
        rows = await self._connection.execute(
            select(audit.c.at_ms, audit.c.server_name).where(audit.c.event == event).order_by(audit.c.id)
        )
        return [(row.at_ms, row.server_name) for row in rows]
