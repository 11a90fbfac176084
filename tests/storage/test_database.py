"""Transactions: all or nothing, run again when a race is lost, never half done."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from identity_server.domain.errors import Unavailable
from identity_server.domain.identifiers import UserId
from identity_server.storage.database import Database, Transaction
from identity_server.storage.engines.opening import database_url, make_engine, make_private_file
from identity_server.storage.engines.sqlite import DataVersion, DriverConnection
from tests.support import make
from tests.support.databases import on_postgresql, open_database
from tests.support.fakes import START_MS

ALICE = UserId("@alice:example.org")


async def add_alice(tx: Transaction) -> None:
    await tx.accounts.add_if_new(ALICE, now_ms=START_MS)


async def accounts(database: Database) -> int:
    async def use_case(tx: Transaction) -> int:
        result = await tx.accounts._connection.execute(text("SELECT count(*) FROM accounts"))
        return int(result.scalar_one())

    return await database.read(use_case)


async def test_failing_use_case_leaves_nothing(database: Database) -> None:
    async def use_case(tx: Transaction) -> None:
        await add_alice(tx)
        raise KeyError

    with pytest.raises(KeyError):
        await database.transaction(use_case)
    assert await accounts(database) == 0


async def test_cancelled_caller_does_not_stop_a_transaction(database: Database, tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def use_case(tx: Transaction) -> None:
        await add_alice(tx)
        begun.set()
        await go_on.wait()

    caller = asyncio.create_task(database.transaction(use_case))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await database.close()
    async with open_database(tmp_path) as again:
        assert await accounts(again) == 1


def busy() -> OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return OperationalError("BEGIN", {}, error)


async def test_lost_race_is_run_again(database: Database) -> None:
    runs = 0

    async def use_case(tx: Transaction) -> str:
        nonlocal runs
        runs += 1
        await add_alice(tx)
        if runs < 3:
            raise busy()
        return "done"

    assert await database.transaction(use_case) == "done"
    assert runs == 3
    assert await accounts(database) == 1


async def test_database_that_stays_busy_is_unavailable(database: Database) -> None:
    runs = 0

    async def use_case(_tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        raise busy()

    with pytest.raises(Unavailable):
        await database.transaction(use_case)
    assert runs == (20 if on_postgresql() else 4)


async def test_other_database_errors_are_not_repeated(database: Database) -> None:
    runs = 0

    async def use_case(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await tx.accounts._connection.execute(text("SELECT nonsense"))

    with pytest.raises(DBAPIError) as error:
        await database.transaction(use_case)
    assert runs == 1
    assert "hidden" in str(error.value) or "parameters" not in str(error.value)


@pytest.mark.sqlite(reason="PostgreSQL has many writers at once")
async def test_writers_of_one_process_queue(database: Database) -> None:
    inside = 0

    async def use_case(tx: Transaction) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        await add_alice(tx)
        await asyncio.sleep(0.001)
        inside -= 1

    await asyncio.gather(*(database.transaction(use_case) for _ in range(20)))


async def test_readers_go_on_while_someone_writes(database: Database) -> None:
    async def use_case(tx: Transaction) -> None:
        await add_alice(tx)
        assert await accounts(database) == 0, "a reader sees what is committed"

    await database.transaction(use_case)
    assert await accounts(database) == 1


async def test_follower_that_fails_does_not_undo_a_commit(database: Database) -> None:
    async def follower() -> None:
        raise RuntimeError

    database.follow(follower)
    await database.transaction(lambda tx: tx.associations.put(1, make.association()))
    assert await database.read(lambda tx: tx.associations.find(make.email())) == make.association()


@pytest.mark.sqlite(reason="elsewhere anybody may have committed at any time")
async def test_commits_of_others_are_noticed_without_a_stamp(database: Database, tmp_path: Path) -> None:
    database.committed_elsewhere()
    assert not database.committed_elsewhere()
    async with open_database(tmp_path) as other:
        await other.transaction(add_alice)
    assert database.committed_elsewhere()
    assert not database.committed_elsewhere()


@pytest.mark.sqlite(reason="its own errors")
async def test_commit_that_fails_for_want_of_room_is_a_passing_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_connection: DriverConnection) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    async def use_case(tx: Transaction) -> None:
        # By SQLAlchemy, which has a transaction of its own to end.
        await tx.accounts._connection.execute(
            text("INSERT INTO accounts (user_id, created_at_ms) VALUES ('@a:b', 1)")
        )

    with monkeypatch.context() as patched:
        patched.setattr(DriverConnection, "commit", full)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await database.transaction(use_case)
    await database.transaction(use_case)


@pytest.mark.sqlite(reason="a file")
async def test_file_that_is_moved_away_is_not_written_until_it_is_back(database: Database, tmp_path: Path) -> None:
    await database.transaction(add_alice)
    file, elsewhere = tmp_path / "identity.db", tmp_path / "elsewhere.db"
    file.rename(elsewhere)
    for use in (database.transaction, database.read, database.claim):
        with pytest.raises(Unavailable):
            await use(add_alice)
    with pytest.raises(Unavailable):
        await database.ping()
    assert not file.exists()
    elsewhere.rename(file)
    await database.ping()
    assert await accounts(database) == 1


@pytest.mark.sqlite(reason="a file")
async def test_file_in_the_place_of_another_is_not_taken_for_it(database: Database, tmp_path: Path) -> None:
    await database.transaction(add_alice)
    file = tmp_path / "identity.db"
    (tmp_path / "copy.db").write_bytes(file.read_bytes())
    file.rename(tmp_path / "elsewhere.db")
    assert not database.was_replaced
    (tmp_path / "copy.db").rename(file)
    assert database.was_replaced
    with pytest.raises(Unavailable):
        await database.transaction(add_alice)
    with pytest.raises(Unavailable):
        await database.ping()


@pytest.mark.sqlite(reason="a file")
async def test_no_connection_makes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a #name?of%20its own.db"
    engine = make_engine(database_url(url=None, file=file), makes_file=False)
    with pytest.raises(OperationalError):
        await engine.connect()
    with pytest.raises(sqlite3.OperationalError):
        DataVersion(file).has_moved()
    assert not file.exists()
    make_private_file(file)
    async with engine.connect():
        assert DataVersion(file).has_moved()
    await engine.dispose()
    assert [path.name for path in tmp_path.glob("*.db")] == [file.name]
