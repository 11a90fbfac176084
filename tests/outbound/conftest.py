from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from identity_server.outbound import names
from tests.outbound.support import Internet, open_internet


@pytest.fixture(autouse=True)
def _quick_contexts(short_list_of_authorities: None) -> None:
    """Every federation makes one."""


@pytest.fixture
async def internet(ca: trustme.CA, ca_file: Path) -> AsyncIterator[Internet]:
    with pytest.MonkeyPatch.context() as patch:
        # The name server here is the test's own, and as slow as the test.
        patch.setattr(names, "_TRY_SECONDS", 60.0)
        patch.setattr(names, "_LOOKUP_SECONDS", 60.0)
        async with open_internet(ca, ca_file) as opened:
            yield opened
