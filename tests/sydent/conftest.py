from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.sydent.support import OldSydent, Target, open_target


@pytest.fixture
def sydent(tmp_path: Path) -> Iterator[OldSydent]:
    database = OldSydent(tmp_path / "sydent.db")
    yield database
    database.connection.close()


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    async with open_target(tmp_path) as opened:
        yield opened
