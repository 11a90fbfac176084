"""Writers on SQLite share commits: each as if it were alone, and nobody is answered before the disk has it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from identity_server.domain.errors import Unavailable
from identity_server.domain.identifiers import UserId
from identity_server.storage.database import Database, Transaction
from identity_server.storage.engines.sqlite import SqliteConnection, _wrapped
from tests.storage.support import HERE, THREAD, Trace
from tests.support import make
from tests.support.fakes import START_MS

pytestmark = pytest.mark.sqlite(
    reason="other databases have many writers at once, and group their commits themselves"
)

UseCase = Callable[[Transaction], Awaitable[None]]


def adding(number: int) -> UseCase:
    async def use_case(tx: Transaction) -> None:
        await tx.accounts.add_if_new(UserId(f"@user{number}:example.org"), now_ms=START_MS)

    return use_case


def failing(number: int, error: Exception) -> UseCase:
    async def use_case(tx: Transaction) -> None:
        await adding(number)(tx)
        raise error

    return use_case


async def added(database: Database) -> set[int]:
    async def use_case(tx: Transaction) -> set[int]:
        rows = await tx.accounts._connection.execute(text("SELECT user_id FROM accounts"))
        return {int(row.user_id.removeprefix("@user").removesuffix(":example.org")) for row in rows}

    return await database.read(use_case)


async def all_at_once(database: Database, *use_cases: UseCase) -> list[BaseException | None]:
    return await asyncio.gather(*(database.transaction(each) for each in use_cases), return_exceptions=True)


@contextmanager
def commits(monkeypatch: pytest.MonkeyPatch, before: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Await something before each commit of a writer."""
    commit = SqliteConnection.commit

    async def patched(connection: SqliteConnection) -> None:
        if connection._driver._writes:
            await before()
        await commit(connection)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteConnection, "commit", patched)
        yield


def full_disk() -> BaseException:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return _wrapped("COMMIT", error)


def busy() -> BaseException:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return _wrapped("COMMIT", error)


async def test_those_who_queue_share_a_commit(database: Database, trace: Trace) -> None:
    assert await all_at_once(database, adding(1), adding(2), adding(3)) == [None, None, None]
    assert trace.seen == [
        ("BEGIN", HERE),
        *[("SELECT", HERE), ("INSERT", HERE)],
        *[("SAVEPOINT", HERE), ("SELECT", HERE), ("INSERT", HERE), ("RELEASE", HERE)],
        *[("SAVEPOINT", HERE), ("SELECT", HERE), ("INSERT", HERE), ("RELEASE", HERE)],
        ("COMMIT", THREAD),
    ]
    assert await added(database) == {1, 2, 3}


async def test_who_comes_during_a_commit_has_the_next(
    database: Database, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[asyncio.Task[None]] = []

    async def before() -> None:
        if not later:
            later.extend(asyncio.create_task(database.transaction(adding(number))) for number in (2, 3, 4))
        await asyncio.sleep(0.01)

    with commits(monkeypatch, before):
        await database.transaction(adding(1))
        await asyncio.gather(*later)
    assert trace.count("COMMIT") == 2
    assert await added(database) == {1, 2, 3, 4}


async def test_many_are_more_than_one_commit(database: Database, trace: Trace) -> None:
    await all_at_once(database, *(adding(number) for number in range(40)))
    assert trace.count("COMMIT") == 2
    assert await added(database) == set(range(40))


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_who_fails_is_undone_alone(database: Database, place: int) -> None:
    use_cases = [adding(number) for number in range(3)]
    use_cases[place] = failing(place, KeyError("mine"))
    outcomes = await all_at_once(database, *use_cases)
    assert isinstance(outcomes.pop(place), KeyError)
    assert outcomes == [None, None]
    assert await added(database) == {0, 1, 2} - {place}


async def test_where_all_fail_nothing_is_left(database: Database) -> None:
    outcomes = await all_at_once(database, *(failing(number, KeyError(number)) for number in range(3)))
    assert [type(each) for each in outcomes] == [KeyError] * 3
    assert await added(database) == set()
    await database.transaction(adding(1))
    assert await added(database) == {1}


async def test_each_sees_what_those_before_it_have_written(database: Database) -> None:
    seen: list[bool] = []

    async def look(tx: Transaction) -> None:
        seen.append(await tx.associations.find(make.email()) is not None)

    async def bind(tx: Transaction) -> None:
        await tx.associations.put(1, make.association())

    await all_at_once(database, look, bind, look)
    assert seen == [False, True]


async def test_nobody_is_answered_before_the_commit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def before() -> None:
        begun.set()
        await go_on.wait()

    with commits(monkeypatch, before):
        use_cases = [adding(1), adding(2), failing(3, KeyError())]
        tasks = [asyncio.create_task(database.transaction(each)) for each in use_cases]
        await begun.wait()
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks), "who fails may have seen what isn't true yet"
        assert await added(database) == set()
        go_on.set()
        await asyncio.wait(tasks)
    assert await added(database) == {1, 2}


async def test_commit_that_loses_a_race_is_run_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    errors, runs = [busy()], 0

    async def before() -> None:
        if errors:
            raise errors.pop()

    async def count(_tx: Transaction) -> None:
        nonlocal runs
        runs += 1

    with commits(monkeypatch, before):
        assert await all_at_once(database, adding(1), count, adding(2)) == [None] * 3
    assert runs == 2
    assert await added(database) == {1, 2}


async def test_commit_that_fails_is_everybodys_failure(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def before() -> None:
        raise full_disk()

    with commits(monkeypatch, before):
        outcomes = await all_at_once(database, adding(1), failing(2, KeyError()), adding(3))
    assert [type(each) for each in outcomes] == [Unavailable] * 3
    assert await added(database) == set()
    await database.transaction(adding(4))
    assert await added(database) == {4}


async def test_commit_that_stays_busy_leaves_nobody_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before() -> None:
        raise busy()

    with commits(monkeypatch, before):
        outcomes = await all_at_once(database, adding(1), adding(2))
    assert [type(each) for each in outcomes] == [Unavailable] * 2


async def test_who_loses_the_whole_transaction_takes_nobody_along(database: Database) -> None:
    runs = 0

    async def first(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await adding(1)(tx)

    async def losing(tx: Transaction) -> None:
        await adding(2)(tx)
        # As SQLite does by itself when the disk is full.
        await tx.accounts._connection.exec_driver_sql("ROLLBACK")
        raise KeyError

    outcomes = await all_at_once(database, first, losing, adding(3))
    assert [type(each) for each in outcomes] == [type(None), KeyError, type(None)]
    assert runs == 2
    assert await added(database) == {1, 3}


async def test_member_that_loses_a_race_is_run_again_alone(database: Database) -> None:
    runs = {1: 0, 2: 0}

    def racing(number: int, *, losses: int) -> UseCase:
        async def use_case(tx: Transaction) -> None:
            runs[number] += 1
            await adding(number)(tx)
            if runs[number] <= losses:
                raise busy()

        return use_case

    assert await all_at_once(database, racing(1, losses=0), racing(2, losses=2)) == [None, None]
    assert runs == {1: 1, 2: 3}
    assert await added(database) == {1, 2}


async def test_cancelled_callers_are_committed_with_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def before() -> None:
        begun.set()
        await go_on.wait()

    with commits(monkeypatch, before):
        tasks = [asyncio.create_task(database.transaction(adding(number))) for number in range(3)]
        await begun.wait()
        # Of these, one commits and the others wait for that.
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        go_on.set()
        await database.transaction(adding(3))
    assert await added(database) == {0, 1, 2, 3}


async def test_bulk_has_a_commit_of_its_own_and_keeps_nobody_waiting(database: Database, trace: Trace) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def sweep(tx: Transaction) -> None:
        await adding(9)(tx)
        begun.set()
        await go_on.wait()

    before = [asyncio.create_task(database.transaction(adding(number))) for number in (1, 2)]
    sweeping = asyncio.create_task(database.transaction(sweep, bulk=True))
    await begun.wait()
    await asyncio.wait_for(asyncio.gather(*before), 60)
    assert await added(database) == {1, 2}
    after = asyncio.create_task(database.transaction(adding(3)))
    go_on.set()
    await asyncio.gather(sweeping, after)
    assert await added(database) == {1, 2, 3, 9}


async def test_followers_are_told_once_and_before_anybody_goes_on(database: Database) -> None:
    told: list[set[int]] = []

    async def follower() -> None:
        await asyncio.sleep(0.01)
        told.append({association_id for association_id, _ in await database.read(list_all)})

    async def list_all(tx: Transaction) -> list[tuple[int, object]]:
        return [*await tx.associations.list_page(after_id=0, limit=10)]

    async def bind(number: int) -> None:
        await database.transaction(lambda tx: tx.associations.put(number, make.association(f"n{number}@example.com")))
        assert told, "whoever has bound an address finds it in the next lookup"

    database.follow(follower)
    await asyncio.gather(bind(1), bind(2), database.transaction(adding(1)), bind(3))
    assert told == [{1, 2, 3}]


async def test_who_changed_nothing_tells_nobody(database: Database) -> None:
    told = 0

    async def follower() -> None:
        nonlocal told
        told += 1

    database.follow(follower)
    bind = failing(1, KeyError())
    await all_at_once(database, adding(2), bind, adding(3))
    assert told == 0


async def test_connections_stay_open_and_are_closed_at_the_end(database: Database) -> None:
    pool = database._engine.pool
    await all_at_once(database, adding(1), adding(2))
    await asyncio.gather(*(added(database) for _ in range(5)))
    assert pool.checkedout() <= 2  # type: ignore[attr-defined] # of the pool that SQLite files get
    await database.close()
    assert pool.checkedout() == 0  # type: ignore[attr-defined] # as above
