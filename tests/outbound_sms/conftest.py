from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from identity_server.outbound.sms import Poster
from tests.outbound_sms.kit import FixedClock, Vendor, open_vendor


@pytest.fixture(autouse=True, scope="session")
def _short_list_of_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """To read the system's authorities takes longer than the rest of a test, and none of them is met here."""
    path = tmp_path_factory.mktemp("system") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture
async def vendor(ca: trustme.CA) -> AsyncIterator[Vendor]:
    async with open_vendor(ca) as opened:
        yield opened


@pytest.fixture
async def http(ca_file: Path) -> AsyncIterator[Poster]:
    poster = Poster(clock=FixedClock(), ca_file=ca_file)
    yield poster
    await poster.close()
