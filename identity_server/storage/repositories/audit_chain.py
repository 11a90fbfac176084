"""The audit journal as a chain: entries wait until they are linked, one after the other, and are not touched again.

The rule: a use case that writes an entry never waits for the chain, nor the chain for it. Whoever links entries holds
the head, and takes those that were committed by then; their order in the chain is the order of that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from identity_server.domain.audit import AuditEntry, AuditEvent
from identity_server.domain.audit_chain import Link, LinkedEntry, Statement
from identity_server.storage.bulk import insert_many
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.repositories.audit import entry_from_row, entry_to_row
from identity_server.storage.schema.tables import audit_chain, audit_heads, audit_pending

_IS_WAITED_FOR = Prepared(select(audit_pending.c.id).limit(1))


@dataclass(frozen=True, slots=True)
class Waiting:
    """What isn't linked yet.

    Attributes:
        count: how many entries.
        oldest_at_ms: of the oldest; None if there is none.
    """

    count: int
    oldest_at_ms: int | None


class AuditChain:
    """The linked entries, those that wait, and what the server has signed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def is_waited_for(self) -> bool:
        """Whether any entry isn't linked yet."""
        return (await self._connection.execute(_IS_WAITED_FOR)).first() is not None

    async def waiting_since_ms(self) -> int | None:
        """When the first entry was written that isn't linked yet; None if all are."""
        query = select(audit_pending.c.at_ms).order_by(audit_pending.c.id).limit(1)
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def waiting(self) -> Waiting:
        """How much isn't linked yet."""
        query = select(func.count(), func.min(audit_pending.c.at_ms)).select_from(audit_pending)
        count, oldest_at_ms = (await self._connection.execute(query)).one()
        return Waiting(count, oldest_at_ms)

    async def list_waiting(self, *, limit: int) -> dict[int, AuditEntry]:
        """Entries that aren't linked yet, the oldest first, by what `add` knows them by."""
        rows = await self._connection.execute(select(audit_pending).order_by(audit_pending.c.id).limit(limit))
        return {row.id: entry_from_row(row) for row in rows}

    async def statement(self, statement: Statement, *, for_update: bool = False) -> dict[str, Any] | None:
        """What was signed last, as it is in the database: whether it is genuine is for the caller to find out.

        Args:
            statement: which.
            for_update: keep others from signing another one until this transaction is over.
        """
        query = select(audit_heads.c.signed).where(audit_heads.c.name == statement.value)
        if for_update:
            query = query.with_for_update()
        signed = (await self._connection.execute(query)).scalar_one_or_none()
        return None if signed is None else _message(signed)

    async def newest_seq(self) -> int | None:
        """The number of the last linked entry that is still kept."""
        seq: int | None = (await self._connection.execute(select(func.max(audit_chain.c.seq)))).scalar_one()
        return seq

    async def add(self, entries: Sequence[LinkedEntry], *, waited: Sequence[int]) -> None:
        """Put entries in their places, and remove them from where they have waited."""
        rows = [{"seq": each.link.seq, "hash": each.link.hash} | entry_to_row(each.entry) for each in entries]
        await insert_many(self._connection, audit_chain, rows)
        await self._connection.execute(delete(audit_pending).where(audit_pending.c.id.in_(waited)))

    async def put_statement(self, statement: Statement, signed: dict[str, Any]) -> None:
        """Store what was signed, in place of the one before."""
        text = json.dumps(signed)
        this = update(audit_heads).where(audit_heads.c.name == statement.value).values(signed=text)
        if (await self._connection.execute(this)).rowcount == 0:
            await self._connection.execute(insert(audit_heads).values(name=statement.value, signed=text))

    async def list_after(self, seq: int, *, limit: int) -> list[LinkedEntry]:
        """The next linked entries."""
        query = select(audit_chain).where(audit_chain.c.seq > seq).order_by(audit_chain.c.seq).limit(limit)
        return [_linked(row) for row in await self._connection.execute(query)]

    async def list_newest(self, *, event: AuditEvent | None, limit: int) -> list[LinkedEntry]:
        """The last linked entries, of one kind or of all; the newest first."""
        query = select(audit_chain).order_by(audit_chain.c.seq.desc()).limit(limit)
        if event is not None:
            query = query.where(audit_chain.c.event == event.value)
        return [_linked(row) for row in await self._connection.execute(query)]

    async def remove_up_to(self, seq: int) -> int:
        """Remove the first entries, up to and with this one; returns how many these were."""
        return (await self._connection.execute(delete(audit_chain).where(audit_chain.c.seq <= seq))).rowcount


def _message(signed: str) -> dict[str, Any]:
    """JSON as this server writes it; anything else is nothing that it has signed."""
    try:
        message = json.loads(signed)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _linked(row: Any) -> LinkedEntry:
    return LinkedEntry(Link(row.seq, row.hash), entry_from_row(row))
