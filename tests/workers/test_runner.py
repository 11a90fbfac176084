"""The outbox: tried at once, tried again, given up; never lost and never held by a lost lease."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from identity_server.domain.ports import DeliveryNeedless, DeliveryPostponed, DeliveryRefused
from identity_server.services.outbox.port import Outcome
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job
from identity_server.workers.deliveries import message_pause_ms
from identity_server.workers.runner import JobKind, JobRunner
from tests.support.databases import open_database
from tests.support.fakes import FakeClock

HOUR_MS = 3_600_000


class Handler:
    """Does what it is told, and remembers having been called."""

    def __init__(self) -> None:
        self.calls = 0
        self.failures: list[Exception] = []
        self.wait: asyncio.Event | None = None
        self.called = asyncio.Event()

    async def __call__(self, _job: Job) -> None:
        self.calls += 1
        self.called.set()
        if self.wait is not None:
            await self.wait.wait()
        if self.failures:
            raise self.failures.pop(0)


class Bench:
    """A runner with one handler, a clock and a database."""

    def __init__(self, database: Database, *, patience_seconds: float = 30.0) -> None:
        self.clock = FakeClock()
        self.handler = Handler()
        self.database = database
        self.runner = JobRunner(
            database=database,
            clock=self.clock,
            kinds={"test": JobKind(self.handler, pause_ms=message_pause_ms)},
            patience_seconds=patience_seconds,
        )

    async def add(self, *, expires_in_ms: int = 24 * HOUR_MS) -> Job:
        now_ms = self.clock.now_ms()
        return await self.database.transaction(
            lambda tx: tx.jobs.add_claimed(1, "test", {}, now_ms=now_ms, expires_at_ms=now_ms + expires_in_ms)
        )

    async def due_in_seconds(self) -> float | None:
        due = await self.database.read(lambda tx: tx.jobs.next_run_at_ms())
        return None if due is None else (due - self.clock.now_ms()) / 1000


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_database(tmp_path) as database:
        bench = Bench(database)
        yield bench
        await bench.runner.close()


async def test_done_and_refused_jobs_are_gone(bench: Bench) -> None:
    assert await bench.runner.attempt(await bench.add()) is Outcome.DONE
    assert await bench.due_in_seconds() is None
    bench.handler.failures = [DeliveryRefused("RCPT: 550")]
    assert await bench.runner.attempt(await bench.add()) is Outcome.REFUSED
    assert await bench.due_in_seconds() is None


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([], {"event": "job.done"}),
        ([DeliveryNeedless("nobody waits for it")], {"event": "job.needless", "reason": "nobody waits for it"}),
        ([DeliveryRefused("RCPT: 550")], {"event": "job.refused", "reason": "RCPT: 550"}),
    ],
)
async def test_end_of_a_job_is_told_once(bench: Bench, failures: list[Exception], told: dict[str, str]) -> None:
    bench.handler.failures = failures
    with capture_logs() as logs:
        await bench.runner.attempt(await bench.add())
    (line,) = [each for each in logs if each["event"].startswith("job.")]
    assert told.items() <= line.items()


async def test_pauses_grow(bench: Bench) -> None:
    bench.handler.failures = [DeliveryPostponed("connect: refused")] * 7
    assert await bench.runner.attempt(await bench.add()) is Outcome.PENDING
    pauses = []
    for _ in range(7):
        pause = await bench.due_in_seconds()
        assert pause is not None
        pauses.append(pause)
        bench.clock.advance(seconds=pause)
        await bench.runner.run_until_idle()
    assert pauses == [30, 120, 300, 900, 1800, 1800, 1800]
    assert bench.handler.calls == 8
    assert await bench.due_in_seconds() is None


async def test_job_is_given_up_when_its_time_is_over(bench: Bench) -> None:
    bench.handler.failures = [DeliveryPostponed("connect: refused")] * 9
    await bench.runner.attempt(await bench.add(expires_in_ms=60_000))
    bench.clock.advance(seconds=30)
    await bench.runner.run_until_idle()
    assert await bench.due_in_seconds() is None
    assert bench.handler.calls == 2


async def test_fault_of_ours_does_not_lose_the_job(bench: Bench) -> None:
    bench.handler.failures = [KeyError("bug")]
    assert await bench.runner.attempt(await bench.add()) is Outcome.PENDING
    bench.clock.advance(seconds=30)
    await bench.runner.run_until_idle()
    assert bench.handler.calls == 2
    assert await bench.due_in_seconds() is None


async def test_impatient_maker_leaves_the_try_to_itself(bench: Bench) -> None:
    bench = Bench(bench.database, patience_seconds=0.01)
    bench.handler.wait = asyncio.Event()
    assert await bench.runner.attempt(await bench.add()) is Outcome.PENDING
    assert await bench.due_in_seconds() is not None
    bench.handler.wait.set()
    await bench.runner.close()
    assert bench.handler.calls == 1
    assert await bench.due_in_seconds() is None


async def test_abandoned_lease_is_taken_over(bench: Bench) -> None:
    await bench.add()
    assert await bench.runner.run_due() == 0
    bench.clock.advance(seconds=60)
    await bench.runner.run_until_idle()
    assert bench.handler.calls == 1


async def test_loop_runs_what_is_due(bench: Bench) -> None:
    await bench.add()
    bench.clock.advance(seconds=60)
    loop = asyncio.create_task(bench.runner.run_forever())
    await asyncio.wait_for(bench.handler.called.wait(), 60)
    await bench.runner.close()
    assert await bench.due_in_seconds() is None
    loop.cancel()
    await asyncio.wait({loop})


async def test_queue_is_worked_off_without_a_pause_between_its_jobs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second, really.
    monkeypatch.setattr("identity_server.workers.runner._IDLE_SECONDS", 3600.0)
    now_ms = bench.clock.now_ms()

    async def add_many(tx: Transaction) -> None:
        for number in range(20):
            await tx.jobs.add_claimed(
                number, "test", {}, now_ms=now_ms, expires_at_ms=now_ms + HOUR_MS, queue="example.org"
            )

    await bench.database.transaction(add_many)
    bench.clock.advance(minutes=1)
    loop = asyncio.create_task(bench.runner.run_forever())
    async with asyncio.timeout(60):
        while bench.handler.calls < 20:
            bench.handler.called.clear()
            await bench.handler.called.wait()
    await bench.runner.close()
    loop.cancel()
    await asyncio.wait({loop})
    assert await bench.due_in_seconds() is None


async def test_processes_on_one_database_try_each_job_once(tmp_path: Path) -> None:
    number_of_jobs, clock = 200, FakeClock()
    tried: Counter[int] = Counter()

    async def handler(job: Job) -> None:
        tried[job.id] += 1
        # Long enough for the others to come and look.
        await asyncio.sleep(0.005)

    async def add_many(tx: Transaction) -> None:
        now_ms = clock.now_ms()
        for number in range(number_of_jobs):
            # A few homeservers' queues among jobs that have none.
            queue = f"{number % 7}.example.org" if number % 2 else ""
            await tx.jobs.add_claimed(number, "test", {}, now_ms=now_ms, expires_at_ms=now_ms + HOUR_MS, queue=queue)

    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(open_database(tmp_path)) for _ in range(4)]
        await databases[0].transaction(add_many)
        clock.advance(minutes=1)
        kinds = {"test": JobKind(handler, pause_ms=message_pause_ms)}
        runners = [JobRunner(database=each, clock=clock, kinds=kinds) for each in databases]
        async with asyncio.timeout(60):
            await asyncio.gather(*(runner.run_until_idle() for runner in runners))
        assert await databases[0].read(lambda tx: tx.jobs.next_run_at_ms()) is None
    assert tried == Counter(range(number_of_jobs))


async def test_every_try_is_counted_by_kind_and_outcome(tmp_path: Path) -> None:
    counted: Counter[tuple[str, str]] = Counter()
    async with open_database(tmp_path) as database:
        bench = Bench(database)
        bench.runner = JobRunner(
            database=database,
            clock=bench.clock,
            kinds={"test": JobKind(bench.handler, pause_ms=message_pause_ms)},
            count=lambda kind, outcome: counted.update([(kind, outcome)]),
        )
        bench.handler.failures = [DeliveryPostponed("connect: refused")]
        await bench.runner.attempt(await bench.add())
        bench.clock.advance(seconds=30)
        await bench.runner.run_until_idle()
    assert counted == {("test", "pending"): 1, ("test", "done"): 1}
