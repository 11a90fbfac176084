"""What hangs on the root key is looked for under every key there is: while one takes another's place, there are two."""

from __future__ import annotations

import ast
import re
from itertools import combinations
from pathlib import Path

from sqlalchemy import LargeBinary

import identity_server
from identity_server.storage.schema.tables import metadata
from identity_server.storage.sealing.resealing import DROPPED_TABLES, INDEPENDENT, SEALED_TABLES, STAYING

PACKAGE = Path(identity_server.__file__).parent
_KEYED = re.compile(r"address_blind|address_digest|client_secret_digest")
_COMPARING = {"in_", "not_in", "between", "startswith", "is_distinct_from", "is_not_distinct_from"}


def _is_keyed(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _KEYED.fullmatch(node.attr) is not None


def comparisons(source: str) -> list[int]:
    """The lines in which a keyed column is compared in some way of its own."""
    if not _KEYED.search(source):
        # Parsing takes far longer, and few modules know these columns.
        return []
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


def functions_around(line: int, source: str) -> set[str]:
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
    ]
    return {node.name for node in functions if node.lineno <= line <= (node.end_lineno or line)}


def test_keyed_columns_are_compared_under_every_key() -> None:
    # It reads from one blind to another only while there are no others (`Importer._bound`).
    allowed = {("associations.py", "list_blinds")}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        wrong += [
            f"{path.relative_to(PACKAGE)}:{line}: use Sealer.is_blind_of, is_digest_of or is_among"
            for line in comparisons(source)
            if not any((path.name, name) in allowed for name in functions_around(line, source))
        ]
    assert wrong == []


def test_such_a_comparison_is_found() -> None:
    assert comparisons("a.c.address_blind == blind") == [1]
    assert comparisons("a.c.address_blind.in_(blinds)") == [1]
    assert comparisons("is_blind_of(a.c.address_blind, threepid)") == []


def test_every_column_that_may_hang_on_the_root_key_is_in_the_table_that_says_so() -> None:
    sealed = {
        f"{each.table.name}.{column}"
        for each in SEALED_TABLES
        for column in (each.row, "key_id", *each.sealed, *each.stands_for)
    }
    dropped = {f"{table.name}.{column.name}" for table in DROPPED_TABLES for column in table.columns}
    said = [sealed, dropped, set(STAYING), set(INDEPENDENT)]
    hidden = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
        or re.search("key_id|sealed|blind|digest|hash|fingerprint", column.name)
    }
    assert hidden - set().union(*said) == set(), (
        "say in storage/sealing/resealing.py what becomes of these at a new root key"
    )
    columns = {f"{table.name}.{column.name}" for table in metadata.tables.values() for column in table.columns}
    assert set().union(*said) <= columns
    # The digest of a visit's token is what its sealed values are tied to.
    assert set().union(*(one & other for one, other in combinations(said, 2))) == {"visits.token_digest"}


def test_every_table_with_sealed_rows_names_their_key() -> None:
    for each in SEALED_TABLES:
        names = {column.name for column in each.table.columns}
        assert "key_id" in names
        assert set(each.sealed) == {name for name in names if name.startswith("sealed_")}


def test_the_columns_looked_for_are_those_of_the_schema() -> None:
    columns = {column.name for table in metadata.tables.values() for column in table.columns}
    assert {name for name in columns if _KEYED.fullmatch(name)} == set(_KEYED.pattern.split("|"))
