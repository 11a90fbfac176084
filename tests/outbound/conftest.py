from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from tests.outbound.support import Internet, open_internet


@pytest.fixture(autouse=True)
def _quick_contexts(short_list_of_authorities: None) -> None:
    """Every federation makes one."""


@pytest.fixture
async def internet(ca: trustme.CA, ca_file: Path) -> AsyncIterator[Internet]:
    async with open_internet(ca, ca_file) as opened:
        yield opened
