from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity_server.storage.database import Database
from tests.storage.support import Trace
from tests.support.databases import open_database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path) as opened:
        yield opened


@pytest.fixture
async def trace(database: Database) -> Trace:
    return await Trace.of(database)
