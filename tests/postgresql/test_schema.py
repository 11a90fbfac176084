"""Upgrades of a database that others use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from identity_server.__main__ import main
from identity_server.storage.engines import postgresql as limits
from identity_server.storage.engines.opening import make_engine
from identity_server.storage.schema.upgrade import Schema, SchemaProblem
from tests.storage.schema.test_upgrade import with_next_migration
from tests.support.databases import (
    PATIENT,
    connect_to,
    engine_at,
    put_empty,
    put_migrated,
    read_rows,
    url_for,
    variables_for,
    write_rows,
)
from tests.support.fakes import START_MS
from tests.support.harness import running

pytestmark = pytest.mark.postgresql(reason="SQLite upgrades itself, alone with its file")


async def test_nodes_that_upgrade_at_once_do_it_once(tmp_path: Path) -> None:
    await put_empty(tmp_path / "identity.db")
    engines = [engine_at(tmp_path) for _ in range(4)]
    found = await asyncio.gather(*(Schema(engine).upgrade(now_ms=START_MS) for engine in engines))
    for engine in engines:
        await engine.dispose()
    assert all(status.up_to_date for status in found)
    assert read_rows(tmp_path / "identity.db", "SELECT version_num FROM alembic_version") == [(found[0].expected,)]


async def test_table_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "identity.db"
    await put_migrated(file)
    scripts = await with_next_migration(tmp_path)
    monkeypatch.setattr(limits, "_LOCK_SECONDS", 0.2)
    reader = await connect_to(file)
    engine = make_engine(url_for(file), PATIENT)
    try:
        async with reader.transaction():
            await reader.execute("SELECT * FROM accounts")
            with pytest.raises(SchemaProblem, match="using a table for"):
                await Schema(engine, scripts=scripts).upgrade(now_ms=START_MS)
        assert (await Schema(engine, scripts=scripts).upgrade(now_ms=START_MS)).up_to_date
    finally:
        await reader.close()
        await engine.dispose()
    assert read_rows(file, "SELECT nickname FROM accounts") == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"database": "there_is_none"}, "doesn't exist"),
        ({"username": "nobody_here", "password": "hunter2"}, "refuses the user or the password"),
        ({"host": "127.0.0.1", "port": 1, "query": {}, "password": "hunter2"}, "can't be reached"),
    ],
)
async def test_what_is_wrong_is_told_without_the_password(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    engine = make_engine(url_for(tmp_path).set(**change), PATIENT)  # type: ignore[arg-type]
    with pytest.raises(SchemaProblem, match=sentence) as caught:
        await Schema(engine).status()
    await engine.dispose()
    assert "hunter2" not in str(caught.value)


async def test_user_who_may_not_create_tables_is_told_so(tmp_path: Path) -> None:
    await put_empty(tmp_path / "identity.db")
    role = f"r{url_for(tmp_path).database}"
    write_rows(tmp_path / "identity.db", f"CREATE ROLE {role} LOGIN", "REVOKE CREATE ON SCHEMA public FROM public")
    engine = make_engine(url_for(tmp_path / "identity.db").set(username=role), PATIENT)
    with pytest.raises(SchemaProblem, match="may not create tables"):
        await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()


async def test_server_starts_on_an_old_schema_only_where_it_may_upgrade_it(tmp_path: Path) -> None:
    await put_empty(tmp_path / "db" / "identity.db")
    with pytest.raises(SchemaProblem, match="db upgrade"):
        async with running(tmp_path):
            pass
    async with running(tmp_path, settings={"DB__DB_AUTO_UPGRADE": "true"}) as server:
        assert (await server.get("/ready")).status == 200


async def test_commands_tell_and_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await put_empty(tmp_path / "identity.db")
    conf = tmp_path / "identity.conf"
    conf.write_text("[general]\nserver.name = id.example.org\n")
    for name, value in variables_for(tmp_path / "identity.db").items():
        monkeypatch.setenv(name, value)

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, ["db", *arguments, "-c", str(conf)])

    before = await run("status")
    assert (before.exit_code, before.stdout.partition(",")[0]) == (1, "schema none yet")
    assert (await run("upgrade")).exit_code == 0
    assert (await run("upgrade")).exit_code == 0
    assert (await run("status")).exit_code == 0
    write_rows(tmp_path / "identity.db", "UPDATE alembic_version SET version_num = 'from_the_future'")
    refused = await run("upgrade")
    assert refused.exit_code == 1
    assert "newer" in refused.stderr
