from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.logs import logging_as_before


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command that runs in the tests' own process sets logging up for itself."""
    with logging_as_before():
        yield
