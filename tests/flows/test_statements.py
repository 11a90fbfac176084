"""What requests ask a SQLite database for on the event loop's thread: a handful of rows by key."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import event

from identity_server.api.visibility import VISIBILITY_PATH
from identity_server.storage.engines.sqlite import DriverConnection
from tests.flows.test_invites import invite, settle
from tests.support.harness import SECRET, Harness, User

pytestmark = pytest.mark.sqlite(reason="elsewhere a server looks for rows in its own time")

EMAIL = "carol@example.com"
FEW_ROWS = {"peppers", "chores", "CONSTANT"}
"""These tables never have more than a few rows, and this is none."""
_OF_TRANSACTIONS = ("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK")


@contextmanager
def statements(server: Harness, *, inline: bool = True) -> Iterator[dict[str, Any]]:
    """The statements that run while the block does, with their parameters; those of requests, or all."""
    seen: dict[str, Any] = {}

    def note(driver: DriverConnection, statement: str, parameters: Any) -> None:
        if driver.is_inline or not inline:
            seen[statement] = parameters

    with _watched(server, note):
        yield seen


@contextmanager
def all_statements(server: Harness) -> Iterator[list[str]]:
    """Every statement that runs while the block does, on whatever engine and thread."""
    seen: list[str] = []
    with _watched(server, lambda _driver, statement, _parameters: seen.append(statement)):
        yield seen


@contextmanager
def _watched(server: Harness, note: Callable[[Any, str, Any], None]) -> Iterator[None]:
    engine = server.system.database._engine.sync_engine
    run = DriverConnection.run

    def by_sqlalchemy(connection: Any, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        note(connection.connection.driver_connection, statement, parameters)

    async def by_itself(driver: DriverConnection, sql: str, values: Sequence[Any] = ()) -> tuple[list[Any], int]:
        if not sql.startswith(_OF_TRANSACTIONS):
            note(driver, sql, values)
        return await run(driver, sql, values)

    event.listen(engine, "before_cursor_execute", by_sqlalchemy)
    with patch.object(DriverConnection, "run", by_itself):
        yield
    event.remove(engine, "before_cursor_execute", by_sqlalchemy)


async def test_no_request_goes_through_a_table(server: Harness, alice: User) -> None:
    with statements(server) as seen:
        assert (await invite(server, alice, EMAIL)).status == 200
        sid = await server.bound(alice, EMAIL)
        await settle(server)
        assert await server.find(alice, EMAIL) == alice.user_id
        assert (await server.get(f"3pid/getValidated3pid?sid={sid}&client_secret={SECRET}", as_=alice)).status == 200
        threepid = {"medium": "email", "address": EMAIL}
        hidden = {**threepid, "visibility": "nobody"}
        assert (await server.request("PUT", VISIBILITY_PATH, as_=alice, json=hidden)).status == 200
        body = {"sid": sid, "client_secret": SECRET, "mxid": alice.user_id, "threepid": threepid}
        assert (await server.post("3pid/unbind", body)).status == 200
        phone = {"client_secret": SECRET, "country": "GB", "phone_number": "07400123456", "send_attempt": 1}
        assert (await server.post("validate/msisdn/requestToken", phone, as_=alice)).status == 200
        for path, field, value in (("", "email", EMAIL), ("/phone", "number", "+44 7400 123456")):
            reply = await server.post(f"/_matrix/identity/privacy{path}", data={field: value})
            assert reply.status == 200
        assert (await server.post("account/logout", as_=alice)).status == 200
    assert len(seen) > 30
    assert_no_table_is_gone_through(server, seen)


async def test_nor_does_what_comes_round_for_bindings(server: Harness, alice: User) -> None:
    with statements(server, inline=False) as seen:
        assert (await server.get(VISIBILITY_PATH, as_=alice)).status == 200
        assert await server.system.services.associations.sweep_expired() == 0
    assert any("not_after <= " in statement for statement in seen)
    assert_no_table_is_gone_through(server, seen)


def assert_no_table_is_gone_through(server: Harness, seen: dict[str, Any]) -> None:
    with closing(sqlite3.connect(server.config.db.file)) as connection:
        for statement, parameters in seen.items():
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            scanned = {step.split()[1] for step in plan if step.startswith("SCAN ")}
            assert scanned <= FEW_ROWS, (statement, plan)
