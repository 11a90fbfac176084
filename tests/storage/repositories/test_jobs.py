from __future__ import annotations

from sqlalchemy import update

from identity_server.domain.durations import DAY_MS
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import LEASE_MS, Job, Waiting
from identity_server.storage.schema.tables import jobs
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


async def test_job_that_its_maker_leaves_to_others_is_due_at_once(database: Database) -> None:
    await database.transaction(lambda tx: tx.jobs.add(1, "mail", {"to": "x"}, now_ms=START_MS, expires_at_ms=EXPIRES))
    [waiting] = await database.read(lambda tx: tx.jobs.list_waiting())
    assert (waiting.claimed, waiting.next_run_at_ms) == (0, START_MS)

    (taken,) = await claimed(database, START_MS)

    assert (taken.payload, taken.attempts, taken.was_interrupted) == ({"to": "x"}, 0, False)


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


async def test_postponed_job_is_hastened_and_one_under_way_is_left_alone(database: Database) -> None:
    later_ms = START_MS + 5 * LEASE_MS
    postponed = await added(database)
    await database.transaction(lambda tx: tx.jobs.postpone(postponed, run_at_ms=later_ms))
    await database.transaction(
        lambda tx: tx.jobs.add_claimed(2, "notice", {}, now_ms=START_MS, expires_at_ms=EXPIRES, queue="example.org")
    )

    assert await database.transaction(lambda tx: tx.jobs.hasten(now_ms=START_MS, claimed_too=False)) == 1

    assert [job.id for job in await claimed(database, START_MS)] == [1]
    assert await database.transaction(lambda tx: tx.jobs.hasten(now_ms=START_MS, claimed_too=True)) == 2
    assert {job.id for job in await claimed(database, START_MS)} == {1, 2}


async def test_a_stale_holder_stays_one_after_the_job_was_postponed_by_another(database: Database) -> None:
    stale = await added(database)
    (second,) = await claimed(database, START_MS + LEASE_MS)
    await database.transaction(lambda tx: tx.jobs.postpone(second, run_at_ms=START_MS))
    (third,) = await claimed(database, START_MS + LEASE_MS)

    assert not await database.transaction(lambda tx: tx.jobs.finish(stale))
    assert not await database.transaction(lambda tx: tx.jobs.finish(second))
    assert await database.transaction(lambda tx: tx.jobs.finish(third))


async def test_what_waits_is_counted_by_kind_and_queue(database: Database) -> None:
    async def add_all(tx: Transaction) -> None:
        for number, queue in enumerate(["a.example", "a.example", "b.example"], start=1):
            now_ms = START_MS + number
            job = await tx.jobs.add_claimed(number, "notice", {}, now_ms=now_ms, expires_at_ms=EXPIRES, queue=queue)
            if number == 1:
                await tx.jobs.postpone(job, run_at_ms=START_MS + 7)
        await tx.jobs.add_claimed(4, "mail", {}, now_ms=START_MS, expires_at_ms=EXPIRES)

    await database.transaction(add_all)

    first_end = START_MS + LEASE_MS
    assert await database.read(lambda tx: tx.jobs.list_waiting()) == [
        Waiting("mail", "", 1, 1, 0, START_MS, first_end),
        Waiting("notice", "a.example", 2, 1, 1, START_MS + 1, START_MS + 7),
        Waiting("notice", "b.example", 1, 1, 0, START_MS + 3, first_end + 3),
    ]


async def test_damaged_row_does_not_keep_others_from_being_claimed(database: Database) -> None:
    await added(database)
    now_ms, expires_at_ms = START_MS, EXPIRES

    async def damage(tx: Transaction) -> None:
        await tx.jobs.add_claimed(2, "mail", {}, now_ms=now_ms, expires_at_ms=expires_at_ms)
        await tx.jobs._connection.execute(update(jobs).where(jobs.c.id == 1).values(sealed_payload=b"0"))

    await database.transaction(damage)
    assert [job.id for job in await claimed(database, START_MS + LEASE_MS)] == [2]


async def test_damaged_row_is_not_kept_for_ever(database: Database) -> None:
    await added(database)
    await database.transaction(
        lambda tx: tx.jobs._connection.execute(update(jobs).where(jobs.c.id == 1).values(sealed_payload=b"0"))
    )
    for now_ms, left in ((EXPIRES, 1), (EXPIRES + DAY_MS - 1, 1), (EXPIRES + DAY_MS + LEASE_MS, 0)):
        assert await claimed(database, now_ms) == []
        assert len(await database.read(lambda tx: tx.jobs.list_waiting())) == left
