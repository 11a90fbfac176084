"""What all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.harness import Harness, User, running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Harness]:
    """A running server without terms."""
    async with running(tmp_path) as harness:
        yield harness


@pytest.fixture
async def alice(server: Harness) -> User:
    """A user with an account."""
    return await server.register("@alice:example.org")


@pytest.fixture
async def bob(server: Harness) -> User:
    """Another one, on another homeserver."""
    return await server.register("@bob:elsewhere.example")
