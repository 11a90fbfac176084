"""What this server writes is for its own eyes, whatever the umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from identity_server.storage.schema.sqlite_upgrade import copy_aside
from identity_server.storage.schema.upgrade import Schema
from tests.support.databases import engine_at
from tests.support.fakes import START_MS


@pytest.fixture(autouse=True)
def _careless_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


def readable_by_others(directory: Path) -> list[str]:
    return [file.name for file in directory.rglob("*") if stat.S_IMODE(file.stat().st_mode) & 0o077]


@pytest.mark.sqlite(reason="the database is a file of ours")
async def test_database_made_by_any_command_is_private(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "new")
    await Schema(engine).status()
    await Schema(engine).upgrade(now_ms=START_MS)
    assert (tmp_path / "new" / "identity.db").exists()
    assert readable_by_others(tmp_path) == []
    await engine.dispose()


@pytest.mark.sqlite(reason="only SQLite is copied")
async def test_copy_before_an_upgrade_is_private_from_its_first_byte(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "new")
    await Schema(engine).upgrade(now_ms=START_MS)
    seen: list[list[str]] = []

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("VACUUM"):
            seen.append(readable_by_others(tmp_path))

    event.listen(engine.sync_engine, "after_cursor_execute", look)
    copy = await copy_aside(engine, revision="test", now_ms=START_MS)
    await engine.dispose()
    assert copy == tmp_path / "new" / f"identity.db.before-upgrade-test.{START_MS}"
    assert copy.stat().st_size > 0
    assert seen == [[]]
