"""When what is done once for all processes was done last, and who does it now."""

from __future__ import annotations

from sqlalchemy import insert, select, update

from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import chores

_NEXT = Prepared(select(chores.c.name, chores.c.run_at_ms))


class Chores:
    """One row per chore. Whoever has claimed it holds it until its lease runs out, whatever becomes of the holder."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def next_run_at_ms(self) -> dict[str, int]:
        """When each chore is due, or its holder's lease runs out; chores that were never done are missing."""
        rows = await self._connection.execute(_NEXT)
        return {row.name: row.run_at_ms for row in rows}

    async def claim(self, name: str, *, holder: str, now_ms: int, lease_ms: int) -> bool:
        """Take a chore that is due; False if it isn't, or if somebody holds it."""
        lease = {"holder": holder, "run_at_ms": now_ms + lease_ms}
        found = await self._connection.execute(select(chores.c.run_at_ms).where(chores.c.name == name))
        run_at_ms = found.scalar_one_or_none()
        if run_at_ms is None:
            await self._connection.execute(insert(chores).values(name=name, **lease))
            return True
        if run_at_ms > now_ms:
            return False
        # Compared once more, for engines that let two transactions read the same row.
        due = update(chores).where(chores.c.name == name, chores.c.run_at_ms == run_at_ms)
        return (await self._connection.execute(due.values(**lease))).rowcount > 0

    async def finish(self, name: str, *, holder: str, run_at_ms: int) -> None:
        """Say when it is due again; without effect for whoever doesn't hold it any more."""
        held = update(chores).where(chores.c.name == name, chores.c.holder == holder)
        await self._connection.execute(held.values(run_at_ms=run_at_ms))
