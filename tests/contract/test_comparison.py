"""The API's own document beside the specification's: docs/differences.md lists where they part, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract import document
from tests.contract.comparison import differences

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(not document.IS_HERE, reason=document.WHY_SKIPPED),
]

_PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


def listed() -> list[tuple[str, ...]]:
    """Operation, here and specification, of every row of the page's table."""
    section = _PAGE.read_text().partition("\n### Operation by operation\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | "))[:3] for row in rows]


def test_every_difference_is_listed_and_no_other() -> None:
    assert sorted(listed()) == differences()
