"""Every schema that there ever was, with rows in all its tables, is brought to the newest one without losing any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert

from identity_server.storage.schema.tables import metadata
from identity_server.storage.schema.upgrade import Schema
from tests.flows.test_terms import write_policy
from tests.flows.test_unaccepted_terms import pass_days
from tests.support.databases import engine_at, put_empty, read_rows, write_rows
from tests.support.fakes import START_MS
from tests.support.harness import ALICE, BOB, running
from tests.support.old_schemas import assert_kept, build, describe, fill, read_tables, revisions

_MORE_THAN_A_BATCH = 10_001


@pytest.mark.parametrize("revision", revisions())
async def test_nothing_of_an_old_database_is_lost(tmp_path: Path, revision: str) -> None:
    await put_empty(tmp_path / "identity.db")
    engine = engine_at(tmp_path)
    await build(engine, revision, tmp_path)
    async with engine.begin() as connection:
        await connection.run_sync(fill)
    async with engine.connect() as connection:
        before = await connection.run_sync(read_tables)
    assert (await Schema(engine).upgrade(now_ms=START_MS)).up_to_date
    async with engine.connect() as connection:
        after = await connection.run_sync(read_tables)
        differences = await connection.run_sync(_differences_from_the_code)
    await engine.dispose()
    assert all(before.values()), "a table was empty"
    assert_kept(before, after)
    assert differences == []


def _differences_from_the_code(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_entries_of_the_first_audit_are_in_the_journal(tmp_path: Path) -> None:
    file = tmp_path / "identity.db"
    await put_empty(file)
    engine = engine_at(tmp_path)
    await build(engine, "0004", tmp_path)
    names = [f"hs{number}.example" for number in range(_MORE_THAN_A_BATCH)]
    async with engine.begin() as connection:
        audit = await connection.run_sync(lambda sync: {table.name: table for table in describe(sync)}["audit"])
        entries = [{"at_ms": at_ms, "event": "given_up", "server_name": name} for at_ms, name in enumerate(names)]
        await connection.execute(insert(audit), entries)
    await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()
    moved = read_rows(file, "SELECT at_ms, event, server_name, key_id FROM audit_pending ORDER BY id")
    assert moved == [(at_ms, "notice_given_up", name, "") for at_ms, name in enumerate(names)]
    assert read_rows(file, "SELECT count(DISTINCT salt) FROM audit_pending") == [(len(names),)]


async def test_accounts_from_before_there_was_an_end_of_grace_have_all_of_it(tmp_path: Path) -> None:
    """Whoever never accepted anything, years ago, isn't erased, or even warned, by the server's first sweep."""
    file = tmp_path / "db" / "identity.db"
    await put_empty(file)
    file.parent.mkdir(exist_ok=True)
    write_policy(tmp_path / "terms")
    engine = engine_at(file.parent)
    await build(engine, "0014", tmp_path)
    write_rows(
        file,
        f"INSERT INTO accounts VALUES ('{BOB}', 1, NULL)",
        f"INSERT INTO accounts VALUES ('{ALICE}', 1, '1.0')",
        f"INSERT INTO accepted_terms VALUES ('{ALICE}', 'privacy', '0.9', 'en', 'https://id.example.org/old', 2)",
    )
    await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()
    assert read_rows(file, "SELECT user_id, created_at_ms, agreed_master_version, warned_at_ms FROM accounts") == [
        (BOB, 1, None, None),
        (ALICE, 1, "1.0", None),
    ]
    settings = {
        "GENERAL__TERMS_PATH": str(tmp_path / "terms"),
        "GENERAL__TERMS_ERASE_UNACCEPTED_AFTER_DAYS": "30",
    }
    async with running(tmp_path, settings=settings) as server:
        warned = "SELECT user_id FROM accounts WHERE warned_at_ms IS NOT NULL ORDER BY user_id"
        await pass_days(server, 1)
        await pass_days(server, 14.5)
        assert server.rows(warned) == []
        await pass_days(server, 1)
        assert server.rows(warned) == [(ALICE,), (BOB,)]
        await pass_days(server, 14)
        assert server.count("accounts") == 2
        await pass_days(server, 1.5)
        assert server.count("accounts") == server.count("accepted_terms") == 0
