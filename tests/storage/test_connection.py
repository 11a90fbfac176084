"""Statements that are built once say the same as those that SQLAlchemy runs, on whatever engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Executable, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.database import Database, Transaction
from identity_server.storage.schema.tables import ephemeral_keys

_keys = ephemeral_keys.c
ADD = Prepared(insert(ephemeral_keys))
AMONG = Prepared(select(ephemeral_keys).where(_keys.public_key.in_(bindparam("keys"))).order_by(_keys.public_key))
VALID = Prepared(
    select(_keys.public_key).where(
        _keys.revoked.is_(False), _keys.created_at_ms >= 2, _keys.valid_until_ms > bindparam("now_ms")
    )
)
REVOKE = Prepared(update(ephemeral_keys).where(_keys.public_key.in_(bindparam("keys"))))
COUNT = Prepared(select(func.count()).select_from(ephemeral_keys))
REMOVE = Prepared(delete(ephemeral_keys).where(_keys.created_at_ms < bindparam("before_ms")))


async def on(database: Database, work: Callable[[Connection], Awaitable[Any]], *, bulk: bool = False) -> Any:
    async def use_case(tx: Transaction) -> Any:
        return await work(tx.ephemeral_keys._connection)

    return await database.transaction(use_case, bulk=bulk)


async def add_three(connection: Connection) -> None:
    for number in (1, 2, 3):
        row = {"public_key": bytes([number]), "created_at_ms": number, "valid_until_ms": 10, "revoked": number == 3}
        await connection.execute(ADD, row)


@pytest.mark.parametrize("bulk", [False, True])
async def test_values_come_back_as_they_were(database: Database, bulk: bool) -> None:
    async def work(connection: Connection) -> list[Any]:
        await add_three(connection)
        return [*(await connection.execute(AMONG, {"keys": [b"\1", b"\3"]}))]

    rows = await on(database, work, bulk=bulk)
    assert [tuple(row) for row in rows] == [(b"\1", 1, 10, False), (b"\3", 3, 10, True)]
    assert rows[1].revoked is True


@pytest.mark.parametrize(("keys", "found"), [([], 0), ([b"\2"], 1), ([b"\2", b"\3", b"\4"], 2)])
async def test_lists_may_have_any_length(database: Database, keys: list[bytes], found: int) -> None:
    async def work(connection: Connection) -> int:
        await add_three(connection)
        return len((await connection.execute(AMONG, {"keys": keys})).all())

    assert await on(database, work) == found


async def test_what_is_fixed_in_a_statement_stands_beside_its_parameters(database: Database) -> None:
    async def work(connection: Connection) -> list[bytes]:
        await add_three(connection)
        return [row.public_key for row in await connection.execute(VALID, {"now_ms": 9})]

    assert await on(database, work) == [b"\2"]


async def test_statements_tell_how_many_rows_they_have_changed(database: Database) -> None:
    async def work(connection: Connection) -> tuple[int, int, int]:
        await add_three(connection)
        revoked = await connection.execute(REVOKE, {"keys": [b"\1", b"\2", b"\7"], "revoked": True})
        removed = await connection.execute(REMOVE, {"before_ms": 2})
        return revoked.rowcount, removed.rowcount, (await connection.execute(COUNT)).scalar_one()

    assert await on(database, work) == (2, 1, 2)


@pytest.mark.parametrize("statement", [AMONG.statement, AMONG])
async def test_what_is_built_anew_is_part_of_the_same_transaction(
    database: Database, statement: Prepared | Executable
) -> None:
    async def work(connection: Connection) -> int:
        await connection.execute(insert(ephemeral_keys).values(ROW))
        await connection.execute(ADD, ROW | {"public_key": b"\2"})
        return len((await connection.execute(statement, {"keys": [b"\1", b"\2"]})).all())

    assert await on(database, work) == 2


ROW = {"public_key": b"\1", "created_at_ms": 1, "valid_until_ms": 10, "revoked": False}


async def failing(connection: Connection) -> None:
    await connection.execute(ADD, ROW | {"public_key": b"\3"})
    await connection.execute(insert(ephemeral_keys).values(ROW | {"public_key": b"\4"}))
    raise KeyError


async def test_neither_way_leaves_anything_behind_when_it_fails(database: Database) -> None:
    with pytest.raises(KeyError):
        await on(database, failing)

    async def count(connection: Connection) -> int:
        return int((await connection.execute(COUNT)).scalar_one())

    assert await on(database, count) == 0


async def test_an_error_holds_no_value(database: Database) -> None:
    async def work(connection: Connection) -> None:
        for _ in range(2):
            await connection.execute(ADD, ROW | {"public_key": b"canary"})

    with pytest.raises(IntegrityError) as error:
        await on(database, work)
    assert "canary" not in str(error.value).partition("DETAIL")[0]


@pytest.mark.sqlite(reason="elsewhere SQLAlchemy looks at the parameters")
async def test_other_parameters_than_the_first_time_are_refused(database: Database) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute(ADD, ROW)
        await connection.execute(ADD, {**ROW, "public_key": b"\2", "number": 7})

    with pytest.raises(AssertionError):
        await on(database, work)
