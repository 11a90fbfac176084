"""What an operator can read of the audit journal; a server may be running beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from identity_server.domain.audit import AuditEntry, AuditEvent, Subject
from identity_server.domain.audit_chain import BEGINNING, LinkedEntry, Statement, to_wire
from identity_server.storage.database import Database, Transaction

_PAGE = 5_000
_MOST_WAITING = 1_000

Numbered = tuple[int | None, AuditEntry]
"""An entry with its number; None while it isn't linked."""


class AuditDesk:
    """Lists, finds, and gives out the head."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def list_newest(self, *, event: AuditEvent | None, limit: int) -> list[Numbered]:
        """The last entries, of one kind or of all; the oldest of these first."""

        async def use_case(tx: Transaction) -> list[Numbered]:
            linked = await tx.audit_chain.list_newest(event=event, limit=limit)
            waiting = await tx.audit_chain.list_waiting(limit=_MOST_WAITING)
            late: list[Numbered] = [(None, each) for each in waiting.values() if event in {None, each.event}]
            return [*((each.link.seq, each.entry) for each in reversed(linked)), *late][-limit:]

        return await self._database.read(use_case, bulk=True)

    async def find(self, *subjects: Subject) -> list[Numbered]:
        """All entries about any of these, the oldest first.

        Nothing in an entry can be looked for: each is asked, which takes some ten seconds for a million. Entries that
        are keyed by an earlier root key are never found.
        """

        async def waiting(tx: Transaction) -> list[Numbered]:
            entries = (await tx.audit_chain.list_waiting(limit=_MOST_WAITING)).values()
            return _about(tx, subjects, [(None, each) for each in entries])

        async def page(tx: Transaction, *, after_seq: int) -> tuple[int | None, list[Numbered]]:
            linked = await tx.audit_chain.list_after(after_seq, limit=_PAGE)
            last_seq = linked[-1].link.seq if linked else None
            return last_seq, _about(tx, subjects, [(each.link.seq, each.entry) for each in linked])

        # First, so that what is linked meanwhile is seen twice rather than not at all.
        late = await self._database.read(waiting, bulk=True)
        found: dict[bytes, Numbered] = {}
        last_seq: int | None = 0
        while last_seq is not None:
            last_seq, some = await self._database.read(partial(page, after_seq=last_seq), bulk=True)
            found.update((each[1].salt, each) for each in some)
        return [*found.values(), *(each for each in late if each[1].salt not in found)]

    async def everything(self) -> AsyncIterator[dict[str, Any]]:
        """What each linked entry's hash is over, and its hash; the oldest first."""
        pruned = await self._database.read(lambda tx: tx.audit_chain.statement(Statement.PRUNED))
        previous = BEGINNING.hash.hex() if pruned is None else str(pruned.get("hash"))
        after_seq = 0
        while page := await self._database.read(partial(_page, after_seq=after_seq), bulk=True):
            for linked in page:
                own = linked.link.hash.hex()
                yield {**to_wire(linked.entry, seq=linked.link.seq, previous=previous), "hash": own}
                previous = own
            after_seq = page[-1].link.seq

    async def head(self) -> dict[str, Any] | None:
        """The signed head, to be kept elsewhere; None while nothing is linked."""
        return await self._database.read(lambda tx: tx.audit_chain.statement(Statement.HEAD))


async def _page(tx: Transaction, *, after_seq: int) -> list[LinkedEntry]:
    return await tx.audit_chain.list_after(after_seq, limit=_PAGE)


def _about(tx: Transaction, subjects: tuple[Subject, ...], entries: list[Numbered]) -> list[Numbered]:
    return [each for each in entries if any(tx.audit.is_about(each[1], subject) for subject in subjects)]
