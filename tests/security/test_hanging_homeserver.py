"""A homeserver that takes notices and never answers holds up its own users' and nobody else's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from identity_server.domain.ports import DeliveryPostponed
from identity_server.storage.repositories.jobs import Job
from identity_server.workers.runner import JobKind, JobRunner
from tests.support.databases import open_database
from tests.support.fakes import START_MS, FakeClock


async def test_other_jobs_have_their_turn(tmp_path: Path) -> None:
    released, mailed = asyncio.Event(), asyncio.Event()

    async def hang(_job: Job) -> None:
        await released.wait()
        raise DeliveryPostponed("no answer")

    async def mail(_job: Job) -> None:
        mailed.set()

    clock = FakeClock()
    kinds = {
        "notice": JobKind(handler=hang, pause_ms=lambda _: 60_000),
        "mail": JobKind(handler=mail, pause_ms=lambda _: 60_000),
    }
    async with open_database(tmp_path) as database:
        runner = JobRunner(database=database, clock=clock, kinds=kinds)

        async def add(number: int, kind: str, queue: str) -> Job:
            return await database.transaction(
                lambda tx: tx.jobs.add_claimed(
                    number, kind, {}, now_ms=clock.now_ms(), expires_at_ms=START_MS * 2, queue=queue
                )
            )

        for number in range(120):
            runner.start(await add(number, "notice", "tarpit.example.org"))
        await add(1_000, "mail", "")
        clock.advance(minutes=2)
        await runner.run_due()
        await asyncio.wait_for(mailed.wait(), 60)
        released.set()
        await runner.close()
