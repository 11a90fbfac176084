"""Removing everything about somebody, by the operator's command.

The rule: what is about one person goes in one transaction, with an entry in the journal that names no one, and is gone
from the files afterwards. It may be done again at any time: whatever came in between, or was left by a process that
died, goes then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from identity_server.domain.audit import AuditEvent, Subject
from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.domain.ports import Clock
from identity_server.domain.rate_limits import mailbox_of
from identity_server.services.waiting_jobs import WaitingJobs
from identity_server.storage.database import Database, Transaction
from identity_server.storage.erasures import People
from identity_server.storage.remains import Cleared

LIMITS_OF_USERS = frozenset({"bind", "validation mail", "visibility"})
LIMITS_OF_MAILBOXES = frozenset({"mailbox", "visit mail"})
LIMITS_OF_NUMBERS = frozenset({"text message", "wrong code", "wrong visit code"})
LIMITS_OF_OTHERS: Mapping[str, str] = {
    "key fetches": "a network",
    "registrations": "a network",
    "text messages": "a country",
    "visit text": "a network",
    "visit texts": "all texts of a day",
    "visits": "a network",
}
"""Limits by whom they count, and those that count nobody. A test fails for one that isn't among them."""

_PLACES = [str(place) for place in range(32)]
"""More than any limit has."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed.

    Attributes:
        rows: how many, by table; of `jobs`, those that say less now are among them.
        traces: what rows about these people can be told by.
    """

    rows: Counter[str]
    traces: frozenset[bytes]

    def __add__(self, others: Erased) -> Erased:
        return Erased(self.rows + others.rows, self.traces | others.traces)

    @property
    def total(self) -> int:
        """How many rows in all."""
        return self.rows.total()


class Erasure:
    """Erases people, and what is left of them in files.

    Args:
        jobs: knows what waits.
        rewrite_index: leaves out of the index file of this machine what isn't bound any more.
        settling_seconds: how long a request may still act for an account that is gone.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        jobs: WaitingJobs,
        rewrite_index: Callable[[], Awaitable[None]],
        settling_seconds: float,
    ) -> None:
        self._database = database
        self._clock = clock
        self._jobs = jobs
        self._rewrite_index = rewrite_index
        self._settling_seconds = settling_seconds

    async def erase_account(self, user_id: UserId, *, dry_run: bool = False) -> Erased:
        """Commit the removal of an account, of the addresses that are bound to it, and of all that is about either.

        An address that wants to be left alone still is. Nobody is told, neither by mail nor otherwise.

        Args:
            user_id: whose; it need not have an account.
            dry_run: commit nothing, only count.
        """
        people = People(user_ids=frozenset({user_id}))
        return await self._erase(AuditEvent.ACCOUNT_ERASED, people, about=(user_id,), dry_run=dry_run)

    async def erase_address(
        self, threepid: Threepid, *, forgets_refusal: bool = False, dry_run: bool = False
    ) -> Erased:
        """Commit the removal of all that is about an address: its binding, invites, sessions, visits, and what waits.

        Nobody is told, neither by mail nor otherwise.

        Args:
            threepid: the address; it need not be bound.
            forgets_refusal: also that it wants to be left alone.
            dry_run: commit nothing, only count.
        """
        people = People(threepids=frozenset({threepid}))
        forgotten = people.threepids if forgets_refusal else frozenset[Threepid]()
        return await self._erase(
            AuditEvent.ASSOCIATION_ERASED, people, about=(threepid,), unrefused=forgotten, dry_run=dry_run
        )

    async def leave_nothing(self, traces: Collection[bytes]) -> Cleared:
        """Remove from the files of the database and of the lookup index what has been erased.

        Args:
            traces: what rows that were removed can be told by.
        """
        await self._rewrite_index()
        return await self._database.remains.clear(traces)

    async def _erase(
        self,
        event: AuditEvent,
        people: People,
        *,
        about: Sequence[Subject],
        unrefused: Collection[Threepid] = (),
        dry_run: bool,
    ) -> Erased:
        async def use_case(tx: Transaction) -> Erased:
            erased = await self._remove(tx, people)
            lifted = sum([await tx.refusals.remove(threepid) for threepid in unrefused])
            erased.rows.update({"refused_addresses": lifted} if lifted else {})
            if erased.total:
                await tx.audit.add(event, now_ms=self._clock.now_ms(), about=about)
            if dry_run:
                raise _Undone(erased)
            return erased

        await self._jobs.look()
        erased = await self._run(use_case)
        if erased.rows["access_tokens"] and not dry_run:
            # What requests that were under way have written for the account since.
            await asyncio.sleep(self._settling_seconds)
            erased = erased + await self._run(use_case)
        return erased

    async def _run(self, use_case: Callable[[Transaction], Awaitable[Erased]]) -> Erased:
        try:
            return await self._database.transaction(use_case, bulk=True)
        except _Undone as undone:
            return undone.erased

    async def _remove(self, tx: Transaction, people: People) -> Erased:
        """Remove all that is about these people and the addresses that are bound to them."""
        texted: set[Threepid] = set()
        for user_id in people.user_ids:
            bound = await tx.associations.list_by_user(user_id)
            people |= People(threepids=frozenset(association.threepid for association in bound))
            sessions = await tx.validation_sessions.list_asked_for_by(user_id)
            texted |= {session.threepid for session in sessions if session.threepid is not None}
        jobs = await self._jobs.remove(tx, people, texted=texted)
        rows = await tx.erasures.remove(people, now_ms=self._clock.now_ms())
        rows["jobs"] = len(jobs)
        for user_id in people.user_ids:
            rows += await tx.budgets.remove_of(user_id)
        rows["rate_limits"] = await tx.rate_limits.forget(list(_limits_of(people)))
        return Erased(+rows, tx.erasures.traces(people))


class _Undone(Exception):
    """What would have been erased, had this not undone it."""

    def __init__(self, erased: Erased) -> None:
        super().__init__()
        self.erased = erased


def _limits_of(people: People) -> Iterator[tuple[str, ...]]:
    """How limits are stored that count these people."""
    counted: list[tuple[str, str]] = [(name, user_id) for name in LIMITS_OF_USERS for user_id in people.user_ids]
    for threepid in people.threepids:
        if threepid.medium is Medium.EMAIL:
            counted += [(name, mailbox_of(threepid.address)) for name in LIMITS_OF_MAILBOXES]
        else:
            counted += [(name, threepid.address) for name in LIMITS_OF_NUMBERS]
    for each in counted:
        yield each
        yield from ((*each, place) for place in _PLACES)
