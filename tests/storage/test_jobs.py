from __future__ import annotations

from identity_server.storage.database import Database, Transaction
from identity_server.storage.jobs import LEASE_MS, Job
from tests.support.fakes import START_MS

EXPIRES = START_MS + 10 * LEASE_MS


async def added(database: Database) -> Job:
    return await database.transaction(
        lambda tx: tx.jobs.add_claimed(1, "mail", {"to": "x"}, now_ms=START_MS, expires_at_ms=EXPIRES)
    )


async def claimed(database: Database, now_ms: int) -> list[Job]:
    return await database.transaction(lambda tx: tx.jobs.claim(now_ms=now_ms, limit=10))


async def test_maker_holds_the_first_lease(database: Database) -> None:
    job = await added(database)
    assert await claimed(database, START_MS + LEASE_MS - 1) == []
    (taken,) = await claimed(database, START_MS + LEASE_MS)
    assert taken.payload == {"to": "x"}
    assert taken.lease != job.lease
    assert await claimed(database, START_MS + LEASE_MS) == [], "one claim at a time"


async def test_outcome_of_a_lost_lease_changes_nothing(database: Database) -> None:
    job = await added(database)
    (taken,) = await claimed(database, START_MS + LEASE_MS)

    async def late(tx: Transaction) -> None:
        await tx.jobs.finish(job)
        await tx.jobs.postpone(job, run_at_ms=START_MS)

    await database.transaction(late)
    assert await claimed(database, START_MS + LEASE_MS) == []
    await database.transaction(lambda tx: tx.jobs.finish(taken))
    assert await database.read(lambda tx: tx.jobs.next_run_at_ms()) is None


async def test_postponed_job_comes_back_with_its_count(database: Database) -> None:
    job = await added(database)
    await database.transaction(lambda tx: tx.jobs.postpone(job, run_at_ms=START_MS + 5))
    assert await database.read(lambda tx: tx.jobs.next_run_at_ms()) == START_MS + 5
    (again,) = await claimed(database, START_MS + 5)
    assert again.attempts == 1
