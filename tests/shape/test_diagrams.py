"""The diagrams in docs/ are such as Mermaid draws; what it can't read it shows as a bomb, to readers only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_DOCS = Path(__file__).parents[2] / "docs"
_DIAGRAMS = [
    (f"{path.name}-{number}", diagram)
    for path in sorted(_DOCS.glob("*.md"))
    for number, diagram in enumerate(re.findall(r"```mermaid\n(.*?)```", path.read_text(), re.DOTALL), start=1)
]
_PARTICIPANT = re.compile(r"participant (\w+)(?: as [^;#]+)?")
# A semicolon would end the statement, and a # begin an entity.
_STATEMENT = re.compile(r"(?:(\w+)-?->>(\w+)|Note over (\w+)(?:,(\w+))?): [^;#]+")


@pytest.mark.parametrize("diagram", [diagram for _, diagram in _DIAGRAMS], ids=[name for name, _ in _DIAGRAMS])
def test_diagram_can_be_drawn(diagram: str) -> None:
    kind, *lines = (line.strip() for line in diagram.strip().splitlines())
    assert kind == "sequenceDiagram"
    known: set[str] = set()
    for line in lines:
        if participant := _PARTICIPANT.fullmatch(line):
            known.add(participant[1])
            continue
        statement = _STATEMENT.fullmatch(line)
        assert statement, line
        assert {name for name in statement.groups() if name} <= known, line


def test_there_are_diagrams() -> None:
    assert len(_DIAGRAMS) >= 6
