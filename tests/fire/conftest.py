from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fire.report import Proof


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Iterator[Proof]:
    """How much this run is to prove, and where what it has proven is written down."""
    option = request.config.getoption
    proof = Proof(request.node.nodeid, full=option("--fire") == "full", share=option("--fire-share"))
    yield proof
    proof.close()
