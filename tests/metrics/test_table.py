"""The table of metrics: it is the documentation, and it knows every limit."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import identity_server
from identity_server.domain.budgets import BudgetKind
from identity_server.metrics.documents import reference
from identity_server.metrics.table import LIMITS, METRICS, Kind

REPOSITORY = Path(__file__).parents[2]
PACKAGE = Path(identity_server.__file__).parent
_LIMIT = re.compile(r"\b(take|take_place|ClientLimits|RateLimited)\(")


def test_page_in_the_documentation_is_current() -> None:
    assert (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8") == reference()


def test_names_are_as_prometheus_wants_them() -> None:
    names = [metric.full_name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z]", metric.name)
        assert not re.search(r"_(ms|milliseconds|minutes|kib|mib|total|count|sum|bucket)$", metric.name)
        assert metric.full_name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.meaning.endswith(".")


def test_every_limit_in_the_code_is_in_the_table() -> None:
    budgets = {f"{kind} budget" for kind in BudgetKind}
    assert {*limits_in_the_code(), *budgets} == set(LIMITS)


def limits_in_the_code() -> Iterator[str]:
    """The names that limits are given where they are taken, made or refused."""
    for source in (path.read_text() for path in PACKAGE.rglob("*.py")):
        if not _LIMIT.search(source):
            # Parsing takes far longer.
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            given = {
                "take": node.args[0] if len(node.args) > 1 else None,
                "take_place": node.args[0] if node.args else None,
                "ClientLimits": named.get("name"),
                "RateLimited": named.get("limit"),
            }.get(called)
            if isinstance(given, ast.Constant):
                yield str(given.value)
