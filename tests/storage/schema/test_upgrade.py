"""Migrations: they build what tables.py says, keep what is there, and know when not to touch a database."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from identity_server.observability import redact_text
from identity_server.shipped import shipped
from identity_server.storage.engines import sqlite
from identity_server.storage.schema.tables import metadata
from identity_server.storage.schema.upgrade import Schema, SchemaProblem
from tests.support.databases import (
    engine_at,
    on_postgresql,
    open_database,
    put_empty,
    put_migrated,
    read_everything,
    read_rows,
    write_rows,
)
from tests.support.fakes import START_MS
from tests.support.old_schemas import build

NEXT_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = {head!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("nickname", sa.String(20)))
    {then}
"""


async def test_migrations_build_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database, database._engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
        )
    assert differences == []


def test_migrations_are_named_by_the_order_they_run_in() -> None:
    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")))
    in_order = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    names = sorted(path.name for path in (shipped("migrations") / "versions").glob("*.py"))
    assert [name.partition("_")[0] for name in names] == in_order


def test_tables_suit_postgresql() -> None:
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


async def _head(tmp_path: Path) -> str:
    engine = engine_at(tmp_path)
    expected = (await Schema(engine).status()).expected
    await engine.dispose()
    return expected


async def with_next_migration(tmp_path: Path, *, then: str = "pass") -> Path:
    """The migrations, and one more."""
    scripts = tmp_path / "scripts"
    shutil.copytree(shipped("migrations"), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    body = NEXT_MIGRATION.format(head=await _head(tmp_path), then=then)
    (scripts / "versions" / "9999_next.py").write_text(body)
    return scripts


async def _populate(tmp_path: Path) -> Path:
    file = tmp_path / "identity.db"
    await put_migrated(file)
    write_rows(file, "INSERT INTO accounts (user_id, created_at_ms) VALUES ('@alice:example.org', 1)")
    return file


async def test_an_empty_database_is_not_called_an_older_one(tmp_path: Path) -> None:
    await put_empty(tmp_path / "identity.db")
    engine = engine_at(tmp_path)
    with pytest.raises(SchemaProblem, match="the database is empty: run `identity-server db upgrade` first"):
        await Schema(engine).require_current()
    await engine.dispose()


async def test_upgrade_keeps_the_data(tmp_path: Path) -> None:
    file = await _populate(tmp_path)
    scripts = await with_next_migration(tmp_path)
    engine = engine_at(tmp_path)
    schema = Schema(engine, scripts=scripts)
    assert not (await schema.status()).up_to_date
    with pytest.raises(SchemaProblem, match="older schema: run `identity-server db upgrade` first"):
        await schema.require_current()
    await schema.upgrade(now_ms=START_MS)
    await schema.require_current()
    await engine.dispose()
    assert read_rows(file, "SELECT user_id, nickname FROM accounts") == [("@alice:example.org", None)]


@pytest.mark.sqlite(reason="PostgreSQL is copied by its own tools")
async def test_file_is_copied_before_an_upgrade(tmp_path: Path) -> None:
    await _populate(tmp_path)
    engine = engine_at(tmp_path)
    await Schema(engine, scripts=await with_next_migration(tmp_path)).upgrade(now_ms=START_MS)
    await engine.dispose()
    (copy,) = tmp_path.glob("*.before-upgrade-*")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert redact_text(copy.name) == copy.name, "the log can't say how it is called"
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (1,)
        assert "nickname" not in str(connection.execute("SELECT sql FROM sqlite_schema").fetchall())


@pytest.mark.sqlite(reason="PostgreSQL waits, and says it in words of its own")
async def test_who_is_in_the_way_of_an_upgrade_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await _populate(tmp_path)
    scripts = await with_next_migration(tmp_path)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    engine = engine_at(tmp_path)
    with closing(sqlite3.connect(file, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        # Whoever only looks isn't held up.
        assert not (await Schema(engine, scripts=scripts).status()).up_to_date
        with pytest.raises(SchemaProblem, match=r"kept the database locked.*nothing was changed"):
            await Schema(engine, scripts=scripts).upgrade(now_ms=START_MS)
    await engine.dispose()
    assert read_rows(file, "SELECT * FROM accounts") == [("@alice:example.org", 1, None, None)]


@pytest.mark.sqlite(reason="PostgreSQL looks after its files itself")
@pytest.mark.parametrize("damage", ["another file", "zeros in its midst"])
async def test_file_that_is_damaged_is_told_in_words(tmp_path: Path, damage: str) -> None:
    file = await _populate(tmp_path)
    with file.open("r+b") as opened:
        if damage == "another file":
            opened.write(b"-- a dump, not a database\n" * 200)
        else:
            # The page that says which tables there are; the header before it stays.
            opened.seek(100)
            opened.write(bytes(3000))
    damaged = file.read_bytes()
    engine = engine_at(tmp_path)
    with pytest.raises(SchemaProblem, match=r"a damaged one \(.*nothing was changed"):
        await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()
    assert file.read_bytes() == damaged


@pytest.mark.sqlite(reason="PostgreSQL is copied by its own tools")
async def test_copy_without_room_stops_the_upgrade_and_leaves_nothing(tmp_path: Path) -> None:
    file = await _populate(tmp_path)
    scripts = await with_next_migration(tmp_path)
    engine = engine_at(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(SchemaProblem, match=r"can't be written.*nothing was changed"):
            await Schema(engine, scripts=scripts).upgrade(now_ms=START_MS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.glob("*.before-upgrade-*")) == []
    assert (await Schema(engine, scripts=scripts).upgrade(now_ms=START_MS)).up_to_date
    await engine.dispose()
    assert len(list(tmp_path.glob("*.before-upgrade-*"))) == 1


async def test_bindings_made_before_there_was_a_choice_stay_known_to_everyone_and_where_they_are(
    tmp_path: Path,
) -> None:
    file = tmp_path / "identity.db"
    await put_empty(file)
    engine = engine_at(tmp_path)
    await build(engine, "0007", tmp_path)
    columns = "id, medium, address_blind, key_id, sealed_address, user_id, ts, not_before, not_after"
    write_rows(
        file,
        f"INSERT INTO associations ({columns}) VALUES (1, 'email', 'b', 'k', 's', '@alice:example.org', 1, 1, 2)",
    )
    place = (
        "SELECT relfilenode FROM pg_class WHERE relname = 'associations'"
        if on_postgresql()
        else "SELECT rootpage FROM sqlite_schema WHERE name = 'associations'"
    )
    before = read_rows(file, place)
    await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()
    assert read_rows(file, "SELECT id, user_id, not_after, visibility FROM associations") == [
        (1, "@alice:example.org", 2, "everyone")
    ]
    assert read_rows(file, place) == before, "its rows were not written anew"


async def test_failing_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    file = await _populate(tmp_path)
    scripts = await with_next_migration(tmp_path, then="op.drop_table('there_is_no_such_table')")
    engine = engine_at(tmp_path)
    with pytest.raises(Exception, match="there_is_no_such_table"):
        await Schema(engine, scripts=scripts).upgrade(now_ms=START_MS)
    status = await Schema(engine, scripts=scripts).status()
    await engine.dispose()
    assert not status.up_to_date
    assert read_rows(file, "SELECT * FROM accounts") == [("@alice:example.org", 1, None, None)]


async def test_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    file = await _populate(tmp_path)
    write_rows(file, "UPDATE alembic_version SET version_num = 'from_the_future'")
    before = read_everything(file)
    engine = engine_at(tmp_path)
    with pytest.raises(SchemaProblem, match="newer"):
        await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()
    assert read_everything(file) == before


@pytest.mark.sqlite(reason="Sydent knows no other engine")
async def test_database_of_sydent_is_refused_untouched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "identity.db") as connection:
        connection.execute("CREATE TABLE threepid_validation_sessions (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE threepid_token_auths (id INTEGER PRIMARY KEY)")
    before = (tmp_path / "identity.db").read_bytes()
    engine = engine_at(tmp_path)
    with pytest.raises(SchemaProblem, match="Sydent"):
        await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()
    assert (tmp_path / "identity.db").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["identity.db"]


@pytest.mark.sqlite(reason="a PRAGMA of the file")
async def test_no_writer_holds_up_a_reader(tmp_path: Path) -> None:
    """Not even in a file that was put back from a copy, which doesn't remember."""
    (tmp_path / "first").mkdir()
    await _populate(tmp_path / "first")
    file = tmp_path / "identity.db"
    with closing(sqlite3.connect(tmp_path / "first" / "identity.db")) as connection:
        connection.execute(f"VACUUM INTO '{file}'")
    engine = engine_at(tmp_path)
    await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
