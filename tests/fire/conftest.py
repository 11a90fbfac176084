from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fire.report import Proof


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Iterator[Proof]:
    """How much this run is to prove, and where what it has proven is written down."""
    proof = Proof(request.node.nodeid, full=request.config.getoption("--fire") == "full")
    yield proof
    proof.close()
