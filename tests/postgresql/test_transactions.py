"""What only an engine with many writers can get wrong."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from identity_server.domain.errors import Unavailable
from identity_server.domain.identifiers import UserId
from identity_server.storage.database import Database, Transaction
from identity_server.storage.engines import postgresql
from identity_server.storage.repositories.jobs import LEASE_MS
from tests.support.fakes import START_MS

pytestmark = pytest.mark.postgresql(reason="many writers at once")

ALICE = UserId("@alice:example.org")
BOB = UserId("@bob:example.org")


async def execute(tx: Transaction, statement: str) -> object:
    result = await tx.accounts._connection.execute(text(statement))
    return result.scalar() if result.returns_rows else None


# --- limits ---------------------------------------------------------------------------------


async def test_no_transaction_outlives_the_bound(database: Database) -> None:
    async def use_case(tx: Transaction) -> list[object]:
        names = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_isolation")
        return [await execute(tx, f"SHOW {name}") for name in names]

    assert await database.transaction(use_case) == ["10s", "5s", "serializable"]
    assert await database.read(use_case) == ["10s", "5s", "repeatable read"]
    assert await database.claim(use_case) == ["10s", "5s", "read committed"]
    assert database._transaction_seconds == 15
    assert postgresql.LONGEST_TRANSACTION_SECONDS == 30


async def test_slow_statement_is_a_passing_failure(database: Database) -> None:
    async def use_case(tx: Transaction) -> None:
        await execute(tx, "SET LOCAL statement_timeout = '50ms'")
        await execute(tx, "SELECT pg_sleep(60)")

    with pytest.raises(Unavailable):
        await database.transaction(use_case)


async def test_silent_process_loses_its_transaction(database: Database, other: Database) -> None:
    lost = False

    async def use_case(tx: Transaction) -> None:
        nonlocal lost
        await tx.accounts.add_if_new(ALICE, now_ms=START_MS)
        session = await execute(tx, "SELECT pg_backend_pid()")
        is_there = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {session}"
        await execute(tx, "SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        while await other.read(lambda tx: execute(tx, is_there)):
            await asyncio.sleep(0.01)
        lost = True
        await tx.accounts.add_if_new(BOB, now_ms=START_MS)

    with pytest.raises(Unavailable):
        await database.transaction(use_case)
    assert lost
    assert await database.read(lambda tx: execute(tx, "SELECT count(*) FROM accounts")) == 0


async def test_many_short_statements_are_limited_together(database: Database) -> None:
    database._transaction_seconds = 0.3

    async def use_case(tx: Transaction) -> None:
        await tx.accounts.add_if_new(ALICE, now_ms=START_MS)
        while True:
            await execute(tx, "SELECT pg_sleep(0.01)")

    with pytest.raises(Unavailable):
        await database.transaction(use_case)
    database._transaction_seconds = 15
    assert await database.read(lambda tx: execute(tx, "SELECT count(*) FROM accounts")) == 0


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match="read-only transaction"):
        await database.read(lambda tx: tx.accounts.add_if_new(ALICE, now_ms=START_MS))


# --- races ----------------------------------------------------------------------------------


async def test_two_that_insert_the_same_row_both_succeed(database: Database, other: Database) -> None:
    both_have_looked = asyncio.Barrier(2)
    runs = 0

    async def use_case(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        assert await execute(tx, "SELECT count(*) FROM accounts") == (0 if runs < 3 else 1)
        if runs < 3:
            await both_have_looked.wait()
        await tx.accounts.add_if_new(ALICE, now_ms=START_MS)

    await asyncio.gather(database.transaction(use_case), other.transaction(use_case))
    assert runs == 3


async def test_row_that_is_there_every_time_is_no_lost_race(database: Database) -> None:
    await database.transaction(lambda tx: tx.accounts.add_if_new(ALICE, now_ms=START_MS))
    runs = 0

    async def use_case(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await execute(tx, f"INSERT INTO accounts (user_id, created_at_ms) VALUES ('{ALICE}', 1)")

    with pytest.raises(IntegrityError):
        await database.transaction(use_case)
    assert runs == 20


async def test_write_skew_is_noticed(database: Database, other: Database) -> None:
    """Each takes the last place that both have seen free: serializable means that one of them sees it taken."""
    both_have_looked = asyncio.Barrier(2)
    refused = 0

    def taking(user_id: UserId) -> object:
        runs = 0

        async def use_case(tx: Transaction) -> None:
            nonlocal refused, runs
            runs += 1
            taken = await execute(tx, "SELECT count(*) FROM accounts")
            if runs == 1:
                await both_have_looked.wait()
            if taken:
                refused += 1
                return
            await tx.accounts.add_if_new(user_id, now_ms=START_MS)

        return use_case

    await asyncio.gather(database.transaction(taking(ALICE)), other.transaction(taking(BOB)))  # type: ignore[arg-type]
    assert refused == 1


async def test_long_one_has_its_turn_among_short_ones_without_end(database: Database) -> None:
    ended = asyncio.Event()
    committed = asyncio.Event()
    runs = 0

    async def everything(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await execute(tx, "SELECT count(*) FROM accounts")
        # Whoever has read before this has committed the first time, and whoever begins after it the second.
        for _ in range(2):
            committed.clear()
            while not (committed.is_set() or database._turn._waiters):
                await asyncio.sleep(0.001)
        await tx.accounts.add_if_new(ALICE, now_ms=START_MS)

    async def short(tx: Transaction) -> None:
        await execute(tx, "SELECT count(*) FROM accounts")
        await execute(tx, f"DELETE FROM accounts WHERE user_id = '{BOB}'")
        await tx.accounts.add_if_new(BOB, now_ms=START_MS)

    async def others() -> None:
        while not ended.is_set():
            await database.transaction(short)
            committed.set()

    crowd = asyncio.create_task(others())
    try:
        await database.transaction(everything)
    finally:
        ended.set()
        await crowd
    assert runs in {5, 6}, "it loses to them until they wait for it"


class Guard:
    """Counts how often the keys were looked at."""

    holds = True

    def __init__(self) -> None:
        self.looked = 0

    async def hold(self) -> None:
        self.looked += 1


async def test_keys_are_looked_at_when_it_is_ones_turn(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that was waited for, nothing is written with keys that may have been replaced meanwhile."""
    guard = Guard()
    monkeypatch.setattr(database, "_key_guard", guard)
    monkeypatch.setattr(database, "_often_lost", {asyncio.current_task()})
    async with database._turn:
        waiting = asyncio.create_task(database.transaction(lambda tx: tx.accounts.add_if_new(ALICE, now_ms=START_MS)))
        while not database._turn._waiters:
            await asyncio.sleep(0)
        assert guard.looked == 0
    await waiting
    assert guard.looked == 1


# --- claims ---------------------------------------------------------------------------------


async def add_jobs(database: Database, count: int, *, queue: str = "", first: int = 0) -> None:
    async def use_case(tx: Transaction) -> None:
        for number in range(first, first + count):
            await tx.jobs.add_claimed(
                number, "mail", {}, now_ms=START_MS - LEASE_MS, expires_at_ms=START_MS * 2, queue=queue
            )

    await database.transaction(use_case)


async def test_no_job_is_claimed_twice(database: Database, other: Database) -> None:
    await add_jobs(database, 200)

    async def claim_all(by: Database) -> list[int]:
        claimed: list[int] = []
        while jobs := await by.claim(lambda tx: tx.jobs.claim(now_ms=START_MS, limit=7)):
            claimed += [job.id for job in jobs]
        return claimed

    claimers = [claim_all(by) for by in (database, other) for _ in range(4)]
    claimed = [job_id for ids in await asyncio.gather(*claimers) for job_id in ids]
    assert sorted(claimed) == list(range(200))


async def test_claimer_passes_over_what_another_is_taking(database: Database, other: Database) -> None:
    await add_jobs(database, 2, queue="slow.example")
    await add_jobs(database, 3, first=10)

    async def use_case(tx: Transaction) -> None:
        first = await tx.jobs.claim(now_ms=START_MS, limit=2)
        # The other neither waits for this one, nor takes the next of a queue whose first is being taken.
        second = await other.claim(lambda tx: tx.jobs.claim(now_ms=START_MS, limit=10))
        assert len(first) == 2
        assert {job.id for job in first} | {job.id for job in second} == {0, 10, 11, 12}
        assert len(second) == 2

    await database.claim(use_case)


async def test_claims_make_nobody_run_again(database: Database, other: Database) -> None:
    await add_jobs(database, 5)
    runs = 0

    async def use_case(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        assert await tx.jobs.next_run_at_ms() == START_MS
        assert len(await other.claim(lambda tx: tx.jobs.claim(now_ms=START_MS, limit=10))) == 5
        assert await other.read(lambda tx: tx.jobs.next_run_at_ms()) == START_MS + LEASE_MS
        await tx.jobs.add_claimed(9, "mail", {}, now_ms=START_MS, expires_at_ms=START_MS * 2)

    await database.transaction(use_case)
    assert runs == 1
