from __future__ import annotations

import pytest

from identity_server.storage.database import Database
from tests.storage.support import Trace


@pytest.fixture
async def trace(database: Database) -> Trace:
    return await Trace.of(database)
