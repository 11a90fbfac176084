"""One server for a whole file: bad input leaves it as it was, so the tests don't meet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.harness import Harness, User, running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """A running server without terms."""
    async with running(tmp_path_factory.mktemp("server")) as harness:
        yield harness


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(server: Harness) -> User:
    """A user with an account."""
    return await server.register("@alice:example.org")


@pytest.fixture(autouse=True)
def _time_passes(request: pytest.FixtureRequest) -> None:
    """Rate limits are another file's business: before each test, they have had time to recover."""
    if "server" in request.fixturenames:
        harness: Harness = request.getfixturevalue("server")
        harness.clock.advance(hours=1)
