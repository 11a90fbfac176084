"""The audit journal's life: entries are linked and their head is signed, and old ones are removed.

The rule: nothing is signed that continues what isn't in order. Whoever could change the database would otherwise only
have to wait until this server vouches for it.
"""

from __future__ import annotations

from itertools import takewhile

import structlog

from identity_server.domain.audit import AuditEvent
from identity_server.domain.audit_chain import BEGINNING, Link, LinkedEntry, Statement, after, sign, signed_link
from identity_server.domain.durations import HOUR_MS
from identity_server.domain.ports import Clock
from identity_server.domain.signing import SigningKey
from identity_server.storage.database import Database, Transaction

_log = structlog.get_logger(__name__)

_BATCH = 1_000
_COMPLAIN_AGAIN_MS = HOUR_MS


class JournalBroken(Exception):
    """What is in the database isn't what this server has left there; the text says what."""


class Journal:
    """Links, signs, prunes.

    Args:
        keep_ms: how long an entry is kept.
    """

    def __init__(self, *, database: Database, clock: Clock, signing_key: SigningKey, keep_ms: int) -> None:
        self._database = database
        self._clock = clock
        self._signing_key = signing_key
        self._keep_ms = keep_ms
        self._complain_at_ms = 0

    async def link(self) -> int:
        """Commit the places of all entries that wait, and a signed head; returns how many these were.

        If the journal isn't in order, nothing is linked, and the log says so once an hour.
        """
        linked = 0
        # Asked without locking anything, for whom there is nothing to do most of the time.
        while await self._database.read(lambda tx: tx.audit_chain.is_waited_for()):
            try:
                linked += await self._database.claim(self._link_some)
            except JournalBroken as error:
                self._complain(error)
                break
        return linked

    async def prune(self) -> int:
        """Commit the removal of entries that have been kept long enough, and a signed note of it; returns how many.

        Only what is in order is removed; otherwise it stays, and the log says so.
        """
        removed = 0
        try:
            while some := await self._database.claim(self._prune_some):
                removed += some
        except JournalBroken as error:
            self._complain(error)
        return removed

    async def tell_head(self) -> None:
        """Have the log say where the journal stands."""
        message = await self._database.read(lambda tx: tx.audit_chain.statement(Statement.HEAD))
        head = None if message is None else signed_link(Statement.HEAD, message, key=self._signing_key)
        if head is not None:
            _log.info("audit.head", seq=head.seq, hash=head.hash_in_groups)

    async def restart(self) -> int:
        """Commit the removal of all linked entries, and an entry that says so; returns how many were removed.

        The numbers go on, so that a head that somebody has kept is known to be of before.
        """

        async def use_case(tx: Transaction) -> int:
            statements = [await self._find(tx, statement) for statement in Statement]
            seqs = [await tx.audit_chain.newest_seq(), *(link.seq for link in statements if link)]
            last = Link(max((seq for seq in seqs if seq is not None), default=0), BEGINNING.hash)
            removed = await tx.audit_chain.remove_up_to(last.seq)
            for statement in Statement:
                await self._sign(tx, statement, last)
            await tx.audit.add(AuditEvent.JOURNAL_RESTARTED, now_ms=self._clock.now_ms(), count=removed)
            return removed

        return await self._database.transaction(use_case, bulk=True)

    async def _link_some(self, tx: Transaction) -> int:
        # Read before the head, which never is behind it: others may link entries between the two.
        newest_seq = await tx.audit_chain.newest_seq()
        place = await self._head(tx, newest_seq=newest_seq)
        linked: list[LinkedEntry] = []
        waiting = await tx.audit_chain.list_waiting(limit=_BATCH)
        for entry in waiting.values():
            place = after(place, entry)
            linked.append(LinkedEntry(place, entry))
        if linked:
            await tx.audit_chain.add(linked, waited=list(waiting))
            await self._sign(tx, Statement.HEAD, place)
        return len(linked)

    async def _head(self, tx: Transaction, *, newest_seq: int | None) -> Link:
        head = await tx.audit_chain.statement(Statement.HEAD, for_update=True)
        if head is None:
            if newest_seq is not None or await tx.audit_chain.statement(Statement.PRUNED) is not None:
                raise JournalBroken("there are entries, but no head")
            return BEGINNING
        link = signed_link(Statement.HEAD, head, key=self._signing_key)
        if link is None:
            raise JournalBroken("the head is not signed by this server's key")
        if newest_seq is not None and newest_seq > link.seq:
            raise JournalBroken("there are entries after the head")
        return link

    async def _prune_some(self, tx: Transaction) -> int:
        before_ms = self._clock.now_ms() - self._keep_ms
        noted = await tx.audit_chain.statement(Statement.PRUNED, for_update=True)
        place = BEGINNING if noted is None else signed_link(Statement.PRUNED, noted, key=self._signing_key)
        if place is None:
            raise JournalBroken("the note of what was removed is not signed by this server's key")
        oldest = await tx.audit_chain.list_after(place.seq, limit=_BATCH)
        old = list(takewhile(lambda each: each.entry.at_ms < before_ms, oldest))
        for linked in old:
            place = after(place, linked.entry)
            if place != linked.link:
                raise JournalBroken(f"entry {place.seq} is missing or was altered")
        if old:
            await self._sign(tx, Statement.PRUNED, place)
            await tx.audit_chain.remove_up_to(place.seq)
        return len(old)

    async def _find(self, tx: Transaction, statement: Statement) -> Link | None:
        message = await tx.audit_chain.statement(statement, for_update=True)
        return None if message is None else signed_link(statement, message, key=self._signing_key)

    async def _sign(self, tx: Transaction, statement: Statement, link: Link) -> None:
        signed = sign(statement, link, now_ms=self._clock.now_ms(), key=self._signing_key)
        await tx.audit_chain.put_statement(statement, signed)

    def _complain(self, error: JournalBroken) -> None:
        now_ms = self._clock.now_ms()
        if now_ms >= self._complain_at_ms:
            self._complain_at_ms = now_ms + _COMPLAIN_AGAIN_MS
            _log.error("audit.broken", reason=str(error), advice="identity-server audit verify")
