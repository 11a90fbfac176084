"""What requests ask a SQLite database for on the event loop's thread: a handful of rows by key."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from identity_server.api.visibility import VISIBILITY_PATH
from tests.flows.test_invites import invite, settle
from tests.support.harness import SECRET, Harness, User

pytestmark = pytest.mark.sqlite(reason="elsewhere a server looks for rows in its own time")

EMAIL = "carol@example.com"
FEW_ROWS = {"peppers", "chores", "CONSTANT"}
"""These tables never have more than a few rows, and this is none."""


@contextmanager
def statements(server: Harness, *, inline: bool = True) -> Iterator[dict[str, Any]]:
    """The statements that run while the block does, with their parameters; those of requests, or all."""
    seen: dict[str, Any] = {}
    engine = server.system.database._engine.sync_engine

    def note(connection: Any, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if not inline or connection.get_execution_options().get("inline"):
            seen[statement] = parameters

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


@contextmanager
def all_statements(server: Harness) -> Iterator[list[str]]:
    """Every statement that runs while the block does, on whatever engine and thread."""
    seen: list[str] = []
    engine = server.system.database._engine.sync_engine

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


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
