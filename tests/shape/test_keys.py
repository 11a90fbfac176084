"""What hangs on the root key is looked for under every key there is: while one takes another's place, there are two."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import identity_server
from identity_server.storage.tables import metadata

PACKAGE = Path(identity_server.__file__).parent
_KEYED = re.compile(r"address_blind|address_digest|client_secret_digest")
_COMPARING = {"in_", "not_in", "between", "startswith", "is_distinct_from", "is_not_distinct_from"}


def _is_keyed(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _KEYED.fullmatch(node.attr) is not None


def comparisons(source: str) -> list[int]:
    """The lines in which a keyed column is compared in some way of its own."""
    nodes = list(ast.walk(ast.parse(source)))
    by_operator = [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Compare) and any(map(_is_keyed, (node.left, *node.comparators)))
    ]
    by_method = [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr in _COMPARING and _is_keyed(node.value)
    ]
    return by_operator + by_method


def test_keyed_columns_are_compared_under_every_key() -> None:
    # It reads from one blind to another only while there are no others (`Importer._bound`).
    allowed = {("associations.py", "list_blinds")}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        functions = [
            node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        ]
        for line in comparisons(source):
            inside = {node.name for node in functions if node.lineno <= line <= (node.end_lineno or line)}
            if not any((path.name, name) in allowed for name in inside):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: use Sealer.is_blind_of, is_digest_of or is_among")
    assert wrong == []


def test_such_a_comparison_is_found() -> None:
    assert comparisons("a.c.address_blind == blind") == [1]
    assert comparisons("a.c.address_blind.in_(blinds)") == [1]
    assert comparisons("is_blind_of(a.c.address_blind, threepid)") == []


def test_the_columns_looked_for_are_those_of_the_schema() -> None:
    columns = {column.name for table in metadata.tables.values() for column in table.columns}
    assert {name for name in columns if _KEYED.fullmatch(name)} == set(_KEYED.pattern.split("|"))
