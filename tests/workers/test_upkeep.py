"""Chores come round: of those that are about the database, each once for all processes, whatever becomes of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from identity_server.domain.retention import Lifetimes, retention_schedule
from identity_server.storage.database import Database
from identity_server.workers.upkeep import LEASE_MS, Chore, Once, Upkeep, schedule
from tests.support.databases import open_database
from tests.support.fakes import FakeClock
from tests.support.harness import Fakes, Harness, running

HOUR = 3600.0


async def test_every_chore_can_be_done_and_gives_its_reason(server: Harness) -> None:
    chores = schedule(server.system.services, server.system.index, server.system.look_at_keys)
    for chore in chores:
        assert len(chore.reason) > 20
        assert chore.every_seconds >= 0.5
        await chore.run()
    assert len({chore.name for chore in chores}) == len(chores)


async def test_what_the_schedule_of_retention_promises_is_done_as_often_as_it_says(server: Harness) -> None:
    chores = {
        chore.name: chore
        for chore in schedule(server.system.services, server.system.index, server.system.look_at_keys)
    }
    sweeps = {row.sweep for row in retention_schedule(Lifetimes(phone_months=6))} - {None}
    assert len(sweeps) > 8
    for sweep in sweeps:
        assert sweep is not None
        assert chores[sweep.name].every_seconds == sweep.every_ms / 1000


async def test_chore_that_fails_comes_round_again(tmp_path: Path) -> None:
    runs = 0
    done = asyncio.Event()

    async def fails() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            done.set()
        raise RuntimeError

    async with open_database(tmp_path) as database:
        own = Chore("test", Once.PER_PROCESS, 0.0, fails, "to be tested")
        upkeep = Upkeep([own], database=database, clock=FakeClock(), holder="a")
        tasks = [asyncio.create_task(work) for work in upkeep.run_forever()]
        await asyncio.wait_for(done.wait(), 60)
        for task in tasks:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


class Cluster:
    """Processes that share a database, with one chore an hour."""

    def __init__(self, databases: list[Database]) -> None:
        self.clock = FakeClock()
        self.done_by: list[str] = []
        self.failures: list[Exception] = []
        self.processes = [
            Upkeep([self._chore(name)], database=database, clock=self.clock, holder=name)
            for name, database in zip("abcd", databases, strict=False)
        ]

    def _chore(self, name: str) -> Chore:
        async def run() -> None:
            self.done_by.append(name)
            # Others look for something to do meanwhile.
            await asyncio.sleep(0.01)
            if self.failures:
                raise self.failures.pop()

        return Chore("test", Once.PER_DATABASE, HOUR, run, "to be tested")

    async def look(self) -> int:
        """Have every process look for what is due, at the same time; how many have done something."""
        return sum(await asyncio.gather(*(process.run_due() for process in self.processes)))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster([await stack.enter_async_context(open_database(tmp_path)) for _ in range(4)])


async def test_chore_is_done_once_for_all_and_comes_round(cluster: Cluster) -> None:
    for hour in range(1, 4):
        assert await cluster.look() == 1
        assert await cluster.look() == 0
        assert len(cluster.done_by) == hour
        cluster.clock.advance(hours=1)


async def test_chore_that_fails_is_left_for_its_next_time(cluster: Cluster) -> None:
    cluster.failures = [RuntimeError()]
    assert await cluster.look() == 1
    assert await cluster.look() == 0
    cluster.clock.advance(hours=1)
    assert await cluster.look() == 1


async def test_chore_of_a_process_that_died_is_taken_over(cluster: Cluster, tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        now_ms = cluster.clock.now_ms()
        await database.transaction(
            lambda tx: tx.chores.claim("test", holder="dead", now_ms=now_ms, lease_ms=LEASE_MS)
        )
    assert await cluster.look() == 0
    cluster.clock.advance(seconds=LEASE_MS / 1000)
    assert await cluster.look() == 1


async def test_who_was_too_slow_does_not_decide_when_the_next_time_is(cluster: Cluster, tmp_path: Path) -> None:
    now_ms = cluster.clock.now_ms()
    async with open_database(tmp_path) as database:
        await database.transaction(
            lambda tx: tx.chores.claim("test", holder="slow", now_ms=now_ms, lease_ms=LEASE_MS)
        )
        cluster.clock.advance(seconds=LEASE_MS / 1000)
        assert await cluster.look() == 1
        await database.transaction(lambda tx: tx.chores.finish("test", holder="slow", run_at_ms=now_ms))
    assert await cluster.look() == 0


async def test_two_servers_on_one_database_rotate_the_pepper_once(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as one, running(tmp_path, fakes=fakes) as other:
        fakes.clock.advance(days=31)
        before = one.count("peppers")
        done = await asyncio.gather(one.system.upkeep.run_due(), other.system.upkeep.run_due())
        assert sum(done) == one.count("chores") > 0
        assert one.count("peppers") == before + 1
