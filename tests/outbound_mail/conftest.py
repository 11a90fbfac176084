from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick_contexts(short_list_of_authorities: None) -> None:
    """Every relay with TLS makes one."""
