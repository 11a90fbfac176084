"""Opening the database for who isn't the first to use it: nothing is made in the place of what is gone."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from identity_server.config import Config
from identity_server.key_files import KeyProblem
from identity_server.storage.schema.upgrade import SchemaProblem
from identity_server.wiring.storage import open_database
from tests.support.databases import put_empty, put_migrated, table_names
from tests.support.fakes import FakeClock, FakeRandomness
from tests.support.harness import make_config


async def open_as_replacement(config: Config) -> None:
    async with AsyncExitStack() as stack:
        await open_database(config, FakeClock(), FakeRandomness("replacement"), stack, may_make=False)


async def open_as_first(config: Config) -> None:
    async with AsyncExitStack() as stack:
        await open_database(config, FakeClock(), FakeRandomness("first"), stack)


@pytest.mark.sqlite(reason="a file")
async def test_no_file_is_made(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(SchemaProblem, match=f"the database {config.db.file} has vanished"):
        await open_as_replacement(config)
    assert not config.db.file.parent.exists()
    assert not config.crypto.key_dir.exists()


async def test_nothing_is_made_in_an_empty_database(tmp_path: Path) -> None:
    config = make_config(tmp_path, settings={"DB__DB_AUTO_UPGRADE": "true"})
    config.db.file.parent.mkdir()
    config.db.file.touch()
    await put_empty(config.db.file)
    with pytest.raises(SchemaProblem, match="is empty all of a sudden"):
        await open_as_replacement(config)
    assert table_names(config.db.file) == []
    assert not config.crypto.key_dir.exists()


async def test_no_keys_are_made(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    await put_migrated(config.db.file)
    with pytest.raises(KeyProblem, match="the database knows of no keys"):
        await open_as_replacement(config)
    assert not config.crypto.key_dir.exists()


async def test_what_the_first_has_made_others_use(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    await put_migrated(config.db.file)
    await open_as_first(config)
    keys = {path.name: path.read_bytes() for path in config.crypto.key_dir.iterdir()}
    await open_as_replacement(config)
    assert {path.name: path.read_bytes() for path in config.crypto.key_dir.iterdir()} == keys
