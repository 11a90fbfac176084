from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity_server.storage.database import Database
from tests.support.databases import open_database


@pytest.fixture
async def other(database: Database, tmp_path: Path) -> AsyncIterator[Database]:
    """The same database, as another process sees it."""
    async with open_database(tmp_path) as opened:
        yield opened
