"""Carries out the jobs of the outbox: claim, try, then finish, postpone or give up.

The rule: claim and outcome are short transactions; whatever a job does in between is outside both. A handler
may run more than once for one job, and must be able to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import structlog

from identity_server.domain.ports import (
    Clock,
    DeliveryNeedless,
    DeliveryPostponed,
    DeliveryRefused,
    TracedJob,
    Traces,
)
from identity_server.services.outbox.port import Outcome
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job

Handler = Callable[[Job], Awaitable[None]]
_log = structlog.get_logger(__name__)

_AT_ONCE = 100
_AT_ONCE_BY_QUEUE = 4
_IDLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class JobKind:
    """How jobs of one kind are carried out.

    Attributes:
        handler: raises DeliveryRefused, DeliveryPostponed or DeliveryNeedless, or succeeds.
        pause_ms: how long to wait after a number of failed tries.
        give_up: what is left to do, in the transaction that ends the job, when it was refused or took too long.
        succeed: what is left to do in the transaction that ends the job when it is done.
        lapse: the same when it needn't be done any more.
    """

    handler: Handler
    pause_ms: Callable[[int], int]
    give_up: Callable[[Transaction, Job], Awaitable[None]] | None = None
    succeed: Callable[[Transaction, Job], Awaitable[None]] | None = None
    lapse: Callable[[Transaction, Job], Awaitable[None]] | None = None


class JobRunner:
    """Tries jobs; implements the `Outbox` of the services.

    Args:
        kinds: how to carry out each kind of job.
        count: is told the kind and the outcome of every try.
        traces: where else tries are noted.
        patience_seconds: how long `attempt` waits for a first try.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        kinds: Mapping[str, JobKind],
        count: Callable[[str, str], None] = lambda _kind, _outcome: None,
        traces: Traces | None = None,
        patience_seconds: float = 5.0,
    ) -> None:
        self._database = database
        self._clock = clock
        self._kinds = kinds
        self._count = count
        self._traces = traces
        self._patience_seconds = patience_seconds
        self._under_way: dict[asyncio.Task[Outcome], Job] = {}
        self._queue_moved = asyncio.Event()

    async def attempt(self, job: Job) -> Outcome:
        """Try a claimed job now; what isn't finished in time goes on by itself and counts as pending."""
        task = self._start(job)
        done, _ = await asyncio.wait({task}, timeout=self._patience_seconds)
        return task.result() if done else Outcome.PENDING

    async def run_due(self) -> int:
        """Claim what is due and try it; returns how many jobs that were."""
        now_ms = self._clock.now_ms()
        free = _AT_ONCE - len(self._under_way)
        if free <= 0:
            return 0
        busy = {job.queue for job in self._under_way.values()} - {""}
        jobs = await self._database.claim(lambda tx: tx.jobs.claim(now_ms=now_ms, limit=free, busy_queues=busy))
        for job in jobs:
            self._start(job)
        return len(jobs)

    async def run_until_idle(self) -> None:
        """Carry out everything that is due now, and wait for it."""
        while await self.run_due() or self._under_way:
            await self._wait_for_all()

    async def run_forever(self) -> None:
        """Look for due jobs once a second, and whenever a queue has moved, for as long as the process lives."""
        while True:
            self._queue_moved.clear()
            try:
                due = await self._database.read(lambda tx: tx.jobs.next_run_at_ms())
                if due is not None and due <= self._clock.now_ms():
                    await self.run_due()
            except Exception:  # noqa: BLE001 - the outbox must outlive a database that is away for a while
                _log.exception("jobs.not_claimed")
            # Not `wait_for`: on Python 3.11 it may swallow a cancellation that comes with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._queue_moved.wait()

    async def close(self) -> None:
        """Let the tries that are under way end."""
        await self._wait_for_all()

    async def _wait_for_all(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)

    def start(self, job: Job) -> None:
        """Try a claimed job without waiting for it; where many of its queue are under way, it waits for its turn.

        So a homeserver that keeps its notices hanging takes up a few places and not all of them.
        """
        if job.queue and sum(each.queue == job.queue for each in self._under_way.values()) >= _AT_ONCE_BY_QUEUE:
            return  # Its lease runs out within a minute, and then the queue is claimed in order.
        self._start(job)

    def _start(self, job: Job) -> asyncio.Task[Outcome]:
        task = asyncio.create_task(self._try(job))
        self._under_way[task] = job
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        job = self._under_way.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits for it is told by it. It is tried again when its lease has run out.
            _log.warning("job.outcome_not_recorded", job_id=job.id, kind=job.kind, reason=type(error).__name__)
        if job.queue:
            # The next of its queue may be due, and shouldn't wait a second for each before it.
            self._queue_moved.set()

    async def _try(self, job: Job) -> Outcome:
        started = monotonic()
        outcome = await self._carry_out(job)
        # A kind that is unknown here comes from the database, where anything may stand.
        kind = job.kind if job.kind in self._kinds else "unknown"
        self._count(kind, outcome.value)
        if self._traces is not None:
            request_id = structlog.contextvars.get_contextvars().get("request_id")
            now_ms = self._clock.now_ms()
            self._traces.job(TracedJob(kind, outcome.value, now_ms, monotonic() - started, request_id))
        return outcome

    async def _carry_out(self, job: Job) -> Outcome:
        log = _log.bind(job_id=job.id, kind=job.kind, attempt=job.attempts + 1)
        kind = self._kinds.get(job.kind)
        if kind is None:
            # A newer version's, by its looks: left to it, or to the next upgrade.
            log.error("job.of_unknown_kind")
            return Outcome.PENDING
        if self._clock.now_ms() >= job.expires_at_ms:
            # The server was away for long: what the job is about is over.
            log.warning("job.too_late")
            await self._finish(job, kind.give_up)
            return Outcome.REFUSED
        last, ended_as = kind.succeed, "job.done"
        try:
            await kind.handler(job)
        except DeliveryRefused as error:
            log.warning("job.refused", reason=str(error))
            await self._finish(job, kind.give_up)
            return Outcome.REFUSED
        except DeliveryNeedless as error:
            last, ended_as = kind.lapse, "job.needless"
            log = log.bind(reason=str(error))
        except DeliveryPostponed as error:
            return await self._postpone(job, str(error), at_least_ms=(error.retry_after_seconds or 0) * 1000)
        except Exception:
            log.exception("job.failed")
            return await self._postpone(job, "an error in this server")
        await self._finish(job, last)
        log.info(ended_as)
        return Outcome.DONE

    async def _finish(self, job: Job, last: Callable[[Transaction, Job], Awaitable[None]] | None) -> None:
        async def use_case(tx: Transaction) -> None:
            # A lost lease means that someone else carries the job out; so its end is theirs, too.
            if await tx.jobs.finish(job) and last is not None:
                await last(tx, job)

        await self._database.transaction(use_case)

    async def _postpone(self, job: Job, reason: str, *, at_least_ms: int = 0) -> Outcome:
        log = _log.bind(job_id=job.id, kind=job.kind, attempt=job.attempts + 1, reason=reason)
        kind = self._kinds[job.kind]
        pause_ms = max(kind.pause_ms(job.attempts), at_least_ms)
        run_at_ms = self._clock.now_ms() + pause_ms
        if run_at_ms >= job.expires_at_ms:
            log.error("job.given_up")
            await self._finish(job, kind.give_up)
            return Outcome.REFUSED
        log.warning("job.postponed", seconds=pause_ms // 1000)
        await self._database.transaction(lambda tx: tx.jobs.postpone(job, run_at_ms=run_at_ms))
        return Outcome.PENDING
