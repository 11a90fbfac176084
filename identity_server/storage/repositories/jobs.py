"""The outbox: what must be done after a commit, as rows of that commit.

A claim is a lease: whoever holds it works outside any transaction, and if it dies the lease runs out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Row, bindparam, delete, func, insert, or_, select, update

from identity_server.domain.durations import DAY_MS, MINUTE_MS
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import jobs
from identity_server.storage.sealing.sealer import SealBroken, Sealer

_log = structlog.get_logger(__name__)

LEASE_MS = MINUTE_MS
_PAYLOAD = "jobs.sealed_payload"

_claimed = jobs.c.id == bindparam("of_id"), jobs.c.lease == bindparam("of_lease")
_ADD = Prepared(insert(jobs))
_FINISH = Prepared(delete(jobs).where(*_claimed))
_POSTPONE = Prepared(update(jobs).where(*_claimed))
_NEXT = Prepared(select(func.min(jobs.c.run_at_ms)))


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job.

    Attributes:
        kind: which handler it is for.
        queue: what it waits in line with; empty for nothing.
        payload: what the handler needs; sealed in the database.
        attempts: how often it was tried before.
        lease: the claim; the outcome is only recorded while it is still held. In the database it counts the
            claims, and is negative while nobody holds one, or 0 if nobody ever has.
        expires_at_ms: after this the job is given up.
    """

    id: int
    kind: str
    queue: str
    payload: Mapping[str, Any]
    attempts: int
    lease: int
    expires_at_ms: int

    @property
    def is_fresh(self) -> bool:
        """Whether this is the first try, by its maker, right after the transaction that added it."""
        return self.lease == 1

    @property
    def was_interrupted(self) -> bool:
        """Whether an earlier try ended without an outcome: its process died, or took longer than its lease."""
        return self.lease > self.attempts + 1

    def __repr__(self) -> str:
        return f"Job(id={self.id}, kind={self.kind!r}, attempts={self.attempts})"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The jobs of one kind and queue.

    Attributes:
        total: how many there are.
        claimed: how many of them somebody holds, or has left behind with a lease that still runs.
        attempts: the most tries that one of them has had.
        oldest_at_ms: when the first of them was added.
        next_run_at_ms: when the first of them is tried.
    """

    kind: str
    queue: str
    total: int
    claimed: int
    attempts: int
    oldest_at_ms: int
    next_run_at_ms: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The jobs of one kind.

    Attributes:
        total: how many there are.
        oldest_at_ms: when the first of them was added.
        next_run_at_ms: when the first of them is due, or the first lease of those that are being tried runs out.
    """

    kind: str
    total: int
    oldest_at_ms: int
    next_run_at_ms: int


class Jobs:
    """Add, claim, finish, postpone, and what an operator wants to know of them."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def add_claimed(
        self, job_id: int, kind: str, payload: Mapping[str, Any], *, now_ms: int, expires_at_ms: int, queue: str = ""
    ) -> Job:
        """Add a job that its maker will try at once; should it die, the lease runs out and others take over.

        Jobs of one named queue are claimed one at a time, so that a slow one holds up no other queue's.
        """
        await self._insert(
            job_id,
            kind,
            payload,
            now_ms=now_ms,
            run_at_ms=now_ms + LEASE_MS,
            expires_at_ms=expires_at_ms,
            queue=queue,
            lease=1,
        )
        return Job(job_id, kind, queue, payload, attempts=0, lease=1, expires_at_ms=expires_at_ms)

    async def add(
        self,
        job_id: int,
        kind: str,
        payload: Mapping[str, Any],
        *,
        now_ms: int,
        expires_at_ms: int,
        queue: str = "",
        run_at_ms: int | None = None,
    ) -> None:
        """Add a job that is due at once or then, for whoever claims it first: its maker doesn't try it."""
        run_at_ms = now_ms if run_at_ms is None else run_at_ms
        await self._insert(
            job_id,
            kind,
            payload,
            now_ms=now_ms,
            run_at_ms=run_at_ms,
            expires_at_ms=expires_at_ms,
            queue=queue,
            lease=0,
        )

    async def remove(self, job_id: int) -> None:
        """Take back a job that nobody has begun."""
        await self._connection.execute(_FINISH, {"of_id": job_id, "of_lease": 0})

    async def _insert(
        self,
        job_id: int,
        kind: str,
        payload: Mapping[str, Any],
        *,
        now_ms: int,
        run_at_ms: int,
        expires_at_ms: int,
        queue: str,
        lease: int,
    ) -> None:
        row = {
            "id": job_id,
            "kind": kind,
            "queue": queue,
            "key_id": self._sealer.key_id,
            "sealed_payload": self._sealer.seal(_PAYLOAD, job_id, json.dumps(payload)),
            "attempts": 0,
            "created_at_ms": now_ms,
            "run_at_ms": run_at_ms,
            "lease": lease,
            "expires_at_ms": expires_at_ms,
        }
        await self._connection.execute(_ADD, row)

    async def claim(self, *, now_ms: int, limit: int, busy_queues: Collection[str] = ()) -> list[Job]:
        """Take a lease on jobs that are due: the earliest of each queue, and none of a queue that is busy.

        Belongs in `Database.claim`: what another claimer is about to take is passed over, and so is its queue.
        """
        place = func.row_number().over(partition_by=jobs.c.queue, order_by=(jobs.c.run_at_ms, jobs.c.id))
        due = (
            select(jobs.c.id, place.label("place"))
            .where(jobs.c.run_at_ms <= now_ms, jobs.c.queue.not_in(list(busy_queues)))
            .subquery()
        )
        rows = (
            await self._connection.execute(
                select(jobs)
                .join(due, due.c.id == jobs.c.id)
                # That it is due is asked once more of the row that was locked: it may have been taken just before.
                .where(jobs.c.run_at_ms <= now_ms, or_(jobs.c.queue == "", due.c.place == 1))
                .order_by(jobs.c.run_at_ms)
                .limit(limit)
                .with_for_update(of=jobs, skip_locked=True)
            )
        ).all()
        if rows:
            await self._connection.execute(
                update(jobs)
                .where(jobs.c.id.in_([row.id for row in rows]))
                .values(lease=func.abs(jobs.c.lease) + 1, run_at_ms=now_ms + LEASE_MS)
            )
        claimed = {row: self._readable(row, lease=abs(row.lease) + 1) for row in rows}
        await self._drop([row for row, job in claimed.items() if job is None], over_since_ms=now_ms - DAY_MS)
        return [job for job in claimed.values() if job is not None]

    async def _drop(self, unreadable: Collection[Row[Any]], *, over_since_ms: int) -> None:
        """Remove jobs that nobody can give up, since nobody can read them, a day after their time."""
        over = [row.id for row in unreadable if row.expires_at_ms <= over_since_ms]
        if over:
            _log.error("job.dropped", job_ids=over)
            await self._connection.execute(delete(jobs).where(jobs.c.id.in_(over)))

    async def finish(self, job: Job) -> bool:
        """The job is done, or given up: nothing of it stays. False if the lease was lost."""
        return (await self._connection.execute(_FINISH, _held(job))).rowcount > 0

    async def postpone(self, job: Job, *, run_at_ms: int) -> None:
        """Give the lease back and try again then."""
        free = {"attempts": job.attempts + 1, "run_at_ms": run_at_ms, "lease": -job.lease}
        await self._connection.execute(_POSTPONE, _held(job) | free)

    async def list_page(self, *, after_id: int, since_ms: int, limit: int) -> list[Job]:
        """The next jobs in the order of their ids that were added since then, whoever holds them."""
        rows = await self._connection.execute(
            select(jobs)
            .where(jobs.c.id > after_id, jobs.c.created_at_ms >= since_ms)
            .order_by(jobs.c.id)
            .limit(limit)
        )
        return [job for row in rows if (job := self._readable(row, lease=row.lease)) is not None]

    async def list_by_id(self, ids: Sequence[int]) -> list[Job]:
        """Those of these jobs that are still there, whoever holds them."""
        rows = await self._connection.execute(select(jobs).where(jobs.c.id.in_(ids)))
        return [job for row in rows if (job := self._readable(row, lease=row.lease)) is not None]

    async def remove_all(self, ids: Sequence[int]) -> int:
        """Take jobs back, whoever holds them: who is at one finds that its outcome isn't asked for any more."""
        return (await self._connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))).rowcount

    async def rewrite(self, job_id: int, payload: Mapping[str, Any]) -> None:
        """Have a job say something else from its next try on."""
        sealed = self._sealer.seal(_PAYLOAD, job_id, json.dumps(payload))
        await self._connection.execute(
            update(jobs).where(jobs.c.id == job_id).values(sealed_payload=sealed, key_id=self._sealer.key_id)
        )

    async def next_run_at_ms(self) -> int | None:
        """When the next job is due; None if there is none."""
        value: int | None = (await self._connection.execute(_NEXT)).scalar_one()
        return value

    async def list_waiting(self) -> list[Waiting]:
        """What waits, by kind and queue; those that wait longest first."""
        oldest = func.min(jobs.c.created_at_ms)
        rows = await self._connection.execute(
            select(
                jobs.c.kind,
                jobs.c.queue,
                func.count(),
                func.count().filter(jobs.c.lease > 0),
                func.max(jobs.c.attempts),
                oldest,
                func.min(jobs.c.run_at_ms),
            )
            .group_by(jobs.c.kind, jobs.c.queue)
            .order_by(oldest)
        )
        return [Waiting(*row) for row in rows]

    async def backlog(self) -> list[Backlog]:
        """What waits, by kind."""
        columns = func.count(), func.min(jobs.c.created_at_ms), func.min(jobs.c.run_at_ms)
        rows = await self._connection.execute(select(jobs.c.kind, *columns).group_by(jobs.c.kind))
        return [Backlog(*row) for row in rows]

    async def hasten(self, *, now_ms: int, claimed_too: bool) -> int:
        """Make jobs due that wait for a later try; returns how many.

        Those that somebody may be trying at this moment only if `claimed_too`: their leases count as run out.
        """
        late = update(jobs).where(jobs.c.run_at_ms > now_ms).values(run_at_ms=now_ms)
        result = await self._connection.execute(late if claimed_too else late.where(jobs.c.lease <= 0))
        return result.rowcount

    def _readable(self, row: Row[Any], *, lease: int) -> Job | None:
        try:
            return self._from_row(row, lease=lease)
        except (SealBroken, ValueError):
            # One damaged row must not keep all others from being carried out.
            _log.exception("job.unreadable", job_id=row.id, kind=row.kind)
            return None

    def _from_row(self, row: Row[Any], *, lease: int) -> Job:
        payload = json.loads(self._sealer.open(_PAYLOAD, row.id, row.key_id, row.sealed_payload))
        return Job(row.id, row.kind, row.queue, payload, row.attempts, lease, row.expires_at_ms)


def _held(job: Job) -> dict[str, int]:
    return {"of_id": job.id, "of_lease": job.lease}
