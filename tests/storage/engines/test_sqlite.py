"""What runs on the event loop's thread, what in the driver's, and that the two never get into each other's way."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from identity_server.domain.identifiers import UserId
from identity_server.storage.database import Database, Transaction
from identity_server.storage.engines.sqlite import DriverConnection, open_connection
from tests.storage.support import HERE, THREAD, Trace, where
from tests.support import make
from tests.support.fakes import START_MS

pytestmark = pytest.mark.sqlite(reason="elsewhere the driver needs no thread")

ALICE = UserId("@alice:example.org")


async def add_alice(tx: Transaction) -> None:
    await tx.accounts.add_if_new(ALICE, now_ms=START_MS)


async def find(tx: Transaction) -> object:
    return await tx.associations.find(make.email())


async def test_request_that_writes_waits_in_a_thread_for_its_commit_alone(database: Database, trace: Trace) -> None:
    await database.transaction(add_alice)
    assert trace.take() == [("BEGIN", HERE), ("SELECT", HERE), ("INSERT", HERE), ("COMMIT", THREAD)]


async def test_request_that_reads_needs_no_thread(database: Database, trace: Trace) -> None:
    await database.read(find)
    assert trace.take() == [("BEGIN", HERE), ("SELECT", HERE), ("COMMIT", HERE)]


async def test_bulk_is_left_to_the_thread(database: Database, trace: Trace) -> None:
    await database.read(find, bulk=True)
    assert trace.take() == [("BEGIN", THREAD), ("SELECT", THREAD), ("COMMIT", THREAD)]
    await database.transaction(add_alice, bulk=True)
    assert trace.take() == [("BEGIN", THREAD), ("SELECT", THREAD), ("INSERT", THREAD), ("COMMIT", THREAD)]
    await database.read(find)
    assert {place for _, place in trace.take()} == {HERE}, "it holds for one transaction"


async def test_many_rows_in_one_statement_are_left_to_the_thread(database: Database, trace: Trace) -> None:
    rows = [(number, make.association(f"n{number}@example.com")) for number in (1, 2)]
    await database.transaction(lambda tx: tx.associations.put_all(rows, now_ms=START_MS))
    assert ("INSERT", THREAD) in trace.seen
    assert ("INSERT", HERE) not in trace.seen


async def test_failing_use_case_is_rolled_back_at_once(database: Database, trace: Trace) -> None:
    async def use_case(tx: Transaction) -> None:
        await add_alice(tx)
        raise KeyError

    with pytest.raises(KeyError):
        await database.transaction(use_case)
    assert trace.take() == [("BEGIN", HERE), ("SELECT", HERE), ("INSERT", HERE), ("ROLLBACK", HERE)]


async def test_claim_is_left_to_the_thread(database: Database, trace: Trace) -> None:
    await database.claim(lambda tx: tx.jobs.claim(now_ms=START_MS, limit=1))
    assert {place for _, place in trace.take()} == {THREAD}


async def test_nobody_waits_for_a_writer_of_another_process(database: Database, tmp_path: Path) -> None:
    file = next(path for path in tmp_path.iterdir() if path.read_bytes()[:6] == b"SQLite")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writer = asyncio.create_task(database.transaction(add_alice))
        for _ in range(20):
            assert await database.read(find) is None
            await asyncio.sleep(0.01)
        assert not writer.done()
    await writer


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[DriverConnection]:
    file = tmp_path / "bare.db"
    file.touch()
    opened = open_connection(str(file), isolation_level=None)
    await opened
    await opened.executescript("CREATE TABLE numbers (place INTEGER PRIMARY KEY, number INTEGER, at TEXT)")
    await opened.create_function("place", 0, where)
    opened.begin(inline=True, writes=True)
    yield opened
    await opened.close()


INSERT = "INSERT INTO numbers (number, at) VALUES (?, place())"


async def test_nothing_overtakes_what_a_cancelled_caller_has_asked_for(connection: DriverConnection) -> None:
    go_on = threading.Event()
    await connection.create_function("hold", 0, lambda: go_on.wait(60))
    cursor = await connection.cursor()
    cancelled = asyncio.create_task(
        connection.executescript("SELECT hold(); INSERT INTO numbers (number, at) VALUES (1, place())")
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    second = asyncio.create_task(cursor.execute(INSERT, (2,)))
    third = asyncio.create_task(cursor.execute(INSERT, (3,)))
    await asyncio.sleep(0.01)
    assert not second.done()
    go_on.set()
    await asyncio.gather(second, third)
    await cursor.execute(INSERT, (4,))
    await cursor.execute("SELECT number, at FROM numbers ORDER BY place")
    assert list(await cursor.fetchall()) == [(1, THREAD), (2, THREAD), (3, THREAD), (4, HERE)]


async def test_statement_that_fails_in_the_thread_holds_up_nothing(connection: DriverConnection) -> None:
    cursor = await connection.cursor()
    with pytest.raises(sqlite3.OperationalError):
        await connection.executescript("nonsense")
    await cursor.execute(INSERT, (1,))
    await cursor.execute("SELECT at FROM numbers")
    assert list(await cursor.fetchall()) == [(HERE,)]


async def test_lock_that_stays_is_reported(
    connection: DriverConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity_server.storage.engines.sqlite.BUSY_SECONDS", 0.01)
    cursor = await connection.cursor()
    with closing(sqlite3.connect(tmp_path / "bare.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as error:
            await cursor.execute("BEGIN IMMEDIATE")
    assert error.value.sqlite_errorcode == sqlite3.SQLITE_BUSY
    await cursor.execute("BEGIN IMMEDIATE")
    await connection.rollback()


async def test_locks_are_waited_for_in_the_thread_alone(connection: DriverConnection) -> None:
    async def busy_timeouts_ms() -> list[int]:
        cursor = await connection.cursor()
        await cursor.execute("PRAGMA busy_timeout")
        return [row[0] for row in await cursor.fetchall()]

    assert await busy_timeouts_ms() == [0]
    connection.begin(inline=False, writes=True)
    cursor = await connection.cursor()
    await cursor.execute(INSERT, (1,))
    await cursor.execute("SELECT timeout FROM pragma_busy_timeout")
    assert list(await cursor.fetchall()) == [(5_000,)]
    connection.begin(inline=True, writes=True)
    assert await busy_timeouts_ms() == [0]


async def test_closed_connection_says_so(connection: DriverConnection) -> None:
    cursor = await connection.cursor()
    await connection.close()
    with pytest.raises(ValueError, match="closed"):
        await cursor.execute("SELECT 1")
