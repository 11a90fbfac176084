from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from identity_server.outbound.sms import Poster
from tests.outbound_sms.kit import FixedClock, Vendor, open_vendor


@pytest.fixture(autouse=True)
def _quick_contexts(short_list_of_authorities: None) -> None:
    """Every poster makes one."""


@pytest.fixture
async def vendor(ca: trustme.CA) -> AsyncIterator[Vendor]:
    async with open_vendor(ca) as opened:
        yield opened


@pytest.fixture
async def http(ca_file: Path) -> AsyncIterator[Poster]:
    poster = Poster(clock=FixedClock(), ca_file=ca_file)
    yield poster
    await poster.close()
