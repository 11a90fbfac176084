"""Removing everything about somebody, by the operator's command, or a homeserver's about its own user.

The rule: what is about one person goes in one transaction, with an entry in the journal that names no one, and is gone
from the files afterwards. It may be done again at any time: whatever came in between, or was left by a process that
died, goes then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from identity_server.domain.audit import AuditEvent, Subject
from identity_server.domain.homeserver_policy import HomeserverPolicy
from identity_server.domain.identifiers import ServerName, Threepid, UserId, server_of
from identity_server.domain.ports import Clock
from identity_server.services.erasure.waiting_jobs import WaitingJobs
from identity_server.services.limits import forget_limits_of
from identity_server.storage.bulk import in_parts
from identity_server.storage.database import Database, Transaction
from identity_server.storage.erasure.remains import Cleared
from identity_server.storage.erasure.rows import BY_USER, People, UserColumn

_log = structlog.get_logger(__name__)

_USERS_AT_ONCE = 100
_PAUSE_SECONDS = 0.02
"""Who waits to write looks that often whether it can."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed.

    Attributes:
        rows: how many, by table; of `jobs`, those that say less now are among them.
        traces: what rows about these people can be told by.
        homeservers: how many of whose users these were, where it is about homeservers.
    """

    rows: Counter[str] = field(default_factory=Counter)
    traces: frozenset[bytes] = frozenset()
    homeservers: Counter[ServerName] = field(default_factory=Counter)

    def __add__(self, others: Erased) -> Erased:
        homeservers = self.homeservers + others.homeservers
        return Erased(self.rows + others.rows, self.traces | others.traces, homeservers)

    @property
    def total(self) -> int:
        """How many rows in all."""
        return self.rows.total()


class Erasure:
    """Erases people, and what is left of them in files.

    Args:
        look_for_jobs: makes what knows the jobs that wait, for one erasing.
        rewrite_index: leaves out of the index file of this machine what isn't bound any more.
        settling_seconds: how long a request may still act for an account that is gone.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        look_for_jobs: Callable[[], WaitingJobs],
        rewrite_index: Callable[[], Awaitable[None]],
        settling_seconds: float,
    ) -> None:
        self._database = database
        self._clock = clock
        self._look_for_jobs = look_for_jobs
        self._rewrite_index = rewrite_index
        self._settling_seconds = settling_seconds

    async def erase_account(self, user_id: UserId, *, by_homeserver: bool = False, dry_run: bool = False) -> Erased:
        """Commit the removal of an account, of the addresses that are bound to it, and of all that is about either.

        An address that wants to be left alone still is. Nobody is told, neither by mail nor otherwise.

        Args:
            user_id: whose; it need not have an account.
            by_homeserver: it is the homeserver that wants it, which the caller has made sure of. Limits that protect the
                owners of addresses stay then: nobody is to get rid of one by binding an address and erasing it.
            dry_run: commit nothing, only count.
        """
        event = AuditEvent.ACCOUNT_ERASED_BY_HOMESERVER if by_homeserver else AuditEvent.ACCOUNT_ERASED
        people = People(user_ids=frozenset({user_id}))
        return await self._erase(event, people, about=user_id, spares_limits=by_homeserver, dry_run=dry_run)

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
            AuditEvent.ASSOCIATION_ERASED, people, about=threepid, unrefused=forgotten, dry_run=dry_run
        )

    async def erase_homeserver(self, server_name: ServerName, *, dry_run: bool = False) -> Erased:
        """Commit the removal of everything about the users of a homeserver, some at a time.

        Of each all that `erase_account` removes, in one transaction. Broken off, it is finished by doing it again.

        Args:
            server_name: the homeserver.
            dry_run: commit nothing, only count; what waits and is about two of the users may be counted twice.
        """
        jobs = await self.look()
        erased = await self._erase_users_of(server_name, jobs, dry_run=dry_run)
        if erased.rows["access_tokens"] and not dry_run:
            await asyncio.sleep(self._settling_seconds)
            erased += await self._erase_users_of(server_name, jobs, dry_run=False)
        return erased

    async def erase_not_allowed(self, policy: HomeserverPolicy, *, dry_run: bool = False) -> Erased:
        """Commit the removal of whom the operator's lists of homeservers don't serve.

        Args:
            policy: of homeservers whose users may not use this server, everything is removed; of those to whose
                users nothing may be bound, the bindings.
            dry_run: commit nothing, only count.
        """
        erased = Erased()
        for server_name in sorted(await self._homeservers()):
            if not policy.using.admits(server_name):
                erased += await self.erase_homeserver(server_name, dry_run=dry_run)
            elif not policy.binding.admits(server_name):
                erased += await self._unbind_users_of(server_name, dry_run=dry_run)
        return erased

    async def look(self) -> WaitingJobs:
        """What waits now, for whoever goes on to `remove`."""
        jobs = self._look_for_jobs()
        await jobs.look()
        return jobs

    async def remove(
        self, tx: Transaction, people: People, jobs: WaitingJobs, *, spares_limits: bool = False
    ) -> Erased:
        """Remove all that is about these people and the addresses that are bound to them, as a step of a use case.

        Args:
            tx: the transaction that it is a part of.
            people: a few.
            jobs: what waits.
            spares_limits: limits that count addresses stay.
        """
        limited = people
        bound = await tx.associations.list_by_users(people.user_ids)
        people |= People(threepids=frozenset(association.threepid for _, association in bound))
        sessions = await tx.validation_sessions.list_asked_for_by(*people.user_ids)
        texted = {session.threepid for session in sessions if session.threepid is not None}
        written_to = [(each.requested_by, each.threepid) for each in sessions if each.requested_by and each.threepid]
        for user_id in people.user_ids:
            written_to += [(user_id, invite.threepid) for invite in await tx.invites.list_sent_by(user_id)]
        touched = await jobs.remove(tx, people, texted=texted)
        rows = await tx.erasures.remove(people, now_ms=self._clock.now_ms())
        rows["jobs"] = len(touched)
        for user_id in people.user_ids:
            rows += await tx.budgets.remove_of(user_id)
        rows["rate_limits"] = await forget_limits_of(
            tx, limited if spares_limits else people, written_to=() if spares_limits else written_to
        )
        return Erased(+rows, tx.erasures.traces(people))

    async def empty_log(self) -> None:
        """Leave nothing in the database's log of what has been deleted, where it has one that keeps it."""
        if not await self._database.remains.empty_log():
            _log.warning("log.not_emptied", reason="somebody was reading all the time")

    async def leave_nothing(self, traces: Collection[bytes]) -> Cleared:
        """Remove from the files of the database and of the lookup index what has been erased.

        Args:
            traces: what rows that were removed can be told by.
        """
        await self._rewrite_index()
        return await self._database.remains.clear(traces)

    async def _erase_users_of(self, server_name: ServerName, jobs: WaitingJobs, *, dry_run: bool) -> Erased:
        async def use_case(tx: Transaction, *, user_ids: frozenset[UserId]) -> Erased:
            erased = await self.remove(tx, People(user_ids=user_ids), jobs)
            if not erased.total:
                return erased
            await self._note(tx, AuditEvent.HOMESERVER_ERASED, server_name, count=len(user_ids))
            return replace(erased, homeservers=Counter({server_name: len(user_ids)}))

        erased = Erased()
        async for user_ids in self._users_of(server_name, jobs.user_ids()):
            erased += await self._run(partial(use_case, user_ids=user_ids), dry_run=dry_run)
            await asyncio.sleep(_PAUSE_SECONDS)
        return erased

    async def _unbind_users_of(self, server_name: ServerName, *, dry_run: bool) -> Erased:
        async def use_case(tx: Transaction, *, user_ids: frozenset[UserId]) -> Erased:
            bound = await tx.associations.list_by_users(user_ids)
            await tx.associations.remove_all(
                [association_id for association_id, _ in bound], now_ms=self._clock.now_ms()
            )
            if not bound:
                return Erased()
            await self._note(tx, AuditEvent.SWEPT, server_name, count=len(bound))
            users = {association.user_id for _, association in bound}
            return Erased(Counter(associations=len(bound)), homeservers=Counter({server_name: len(users)}))

        erased = Erased()
        async for user_ids in self._users_of(server_name):
            erased += await self._run(partial(use_case, user_ids=user_ids), dry_run=dry_run)
            await asyncio.sleep(_PAUSE_SECONDS)
        return erased

    async def _users_of(
        self, server_name: ServerName, in_jobs: Collection[UserId] = ()
    ) -> AsyncIterator[frozenset[UserId]]:
        """All users of a homeserver of whom anything is stored, some at a time."""
        seen: set[UserId] = set()
        async for page in self._pages(in_jobs, of=server_name):
            fresh = sorted({user_id for user_id in page if server_of(user_id) == server_name} - seen)
            seen.update(fresh)
            for some in in_parts(fresh, _USERS_AT_ONCE):
                yield frozenset(some)

    async def _homeservers(self) -> set[ServerName]:
        """All homeservers of whose users anything is stored."""
        jobs = await self.look()
        pages = self._pages(jobs.user_ids(), of=None)
        return {server_of(user_id) async for page in pages for user_id in page}

    async def _pages(
        self, in_jobs: Collection[UserId], *, of: ServerName | None
    ) -> AsyncIterator[Collection[UserId]]:
        """All Matrix IDs that are stored anywhere, some of them more than once."""
        yield in_jobs
        for column in BY_USER:
            read = partial(_read_page, column=column, of=of)
            after = ""
            while page := await self._database.read(partial(read, after=after), bulk=True):
                yield page
                after = page[-1]

    async def _erase(
        self,
        event: AuditEvent,
        people: People,
        *,
        about: Subject,
        unrefused: Collection[Threepid] = (),
        spares_limits: bool = False,
        dry_run: bool,
    ) -> Erased:
        jobs = await self.look()

        async def use_case(tx: Transaction) -> Erased:
            erased = await self.remove(tx, people, jobs, spares_limits=spares_limits)
            lifted = sum([await tx.refusals.remove(threepid) for threepid in unrefused])
            erased.rows.update({"refused_addresses": lifted} if lifted else {})
            if erased.total:
                await self._note(tx, event, about)
            return erased

        erased = await self._run(use_case, dry_run=dry_run)
        if erased.rows["access_tokens"] and not dry_run:
            # What requests that were under way have written for the account since.
            await asyncio.sleep(self._settling_seconds)
            erased += await self._run(use_case, dry_run=False)
        return erased

    async def _run(self, use_case: Callable[[Transaction], Awaitable[Erased]], *, dry_run: bool) -> Erased:
        async def undone(tx: Transaction) -> Erased:
            raise _Undone(await use_case(tx))

        try:
            return await self._database.transaction(undone if dry_run else use_case, bulk=True)
        except _Undone as only_counted:
            return only_counted.erased

    async def _note(self, tx: Transaction, event: AuditEvent, whom: Subject, *, count: int | None = None) -> None:
        await tx.audit.add(event, now_ms=self._clock.now_ms(), about=(whom,), count=count)


async def _read_page(tx: Transaction, *, column: UserColumn, of: ServerName | None, after: str) -> list[UserId]:
    return await tx.erasures.list_user_ids(column, of=of, after=after)


class _Undone(Exception):
    """What would have been erased, had this not undone it."""

    def __init__(self, erased: Erased) -> None:
        super().__init__()
        self.erased = erased
