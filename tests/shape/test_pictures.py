"""Pictures in the documentation are there, and those that are there are shown."""

from __future__ import annotations

import re
from pathlib import Path

_DOCS = Path(__file__).parents[2] / "docs"


def test_every_picture_is_shown_and_there() -> None:
    texts = "".join(page.read_text() for page in _DOCS.glob("*.md"))
    shown = set(re.findall(r'(?:src|srcset)="images/([^"]+)"|\]\(images/([^)]+)\)', texts))
    assert {html or markdown for html, markdown in shown} == {each.name for each in (_DOCS / "images").iterdir()}
