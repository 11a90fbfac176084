"""Imports point one way, so that a part can be understood without what stands to its right."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import identity_server

PACKAGE = Path(identity_server.__file__).parent

_NONE: frozenset[str] = frozenset()
_DOMAIN = frozenset({"domain"})
_MIDDLE = frozenset({"domain", "storage", "index", "rendering", "services"})
MAY_IMPORT = {
    "domain": _NONE,
    "config": _DOMAIN,
    "shipped": _NONE,
    "observability": _NONE,
    "metrics": _NONE,
    "storage": _DOMAIN | {"shipped"},
    "rendering": _DOMAIN,
    "index": _DOMAIN | {"storage"},
    "outbound": _DOMAIN | {"rendering"},
    "services": _DOMAIN | {"storage", "index", "rendering"},
    "sydent": _DOMAIN | {"storage"},
    "workers": _MIDDLE,
    "api": (_MIDDLE - {"storage", "index"}) | {"observability", "metrics"},
    "key_files": _DOMAIN | {"storage"},
    "key_watch": _DOMAIN | {"storage", "key_files"},
    "wiring": _MIDDLE | {"api", "outbound", "config", "key_files", "key_watch", "observability", "metrics"},
    "app": _MIDDLE | {"api", "workers", "config", "key_watch", "wiring", "metrics"},
    "server": frozenset({"app", "api", "config", "wiring", "metrics", "observability"}),
}
# The same for the folders in a part: none imports from those of its own row, or of one to the right. Whatever isn't named
# here, all of them may use, and it uses none.
ROWS = {
    "services": (
        {"outbox", "audit", "lookup", "keys", "authentication"},
        {"validation", "associations"},
        {"invites", "erasure", "privacy"},
        {"terms"},
    ),
    "storage": ({"engines"}, {"schema"}, {"sealing"}, {"repositories"}, {"erasure", "moving"}, {"database"}),
}
# The command line, the doctor and the demo may use everything.
FREE = {"commands", "demo", "doctor", "__main__", "__init__"}

# The only folder each of these may be used in.
ONLY_IN = {
    "aiohttp": {"api", "outbound", "app", "server", "demo"},
    "sqlalchemy": {"storage", "config"},
    "click": {"commands"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


@cache
def read(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """A module's docstring, and what it imports; once for all tests here, as it takes seconds for all modules."""
    tree = ast.parse(path.read_text())
    return ast.get_docstring(tree), tuple(_imported(tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "identity_server":
                yield from (f"identity_server.{alias.name}" for alias in node.names)
            else:
                yield node.module


def imported(path: Path) -> tuple[str, ...]:
    _, names = read(path)
    return names


def folder_named_in(name: str, part: str) -> str:
    """The folder of the part that a module is in, or its own name if it is in none; empty for those of other parts."""
    prefix = f"identity_server.{part}."
    return name.removeprefix(prefix).partition(".")[0] if name.startswith(prefix) else ""


def test_nothing_imports_to_its_right() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for part, path in modules()
        if part not in FREE
        for name in imported(path)
        if name.startswith("identity_server.") and name.split(".")[1] not in MAY_IMPORT[part] | {part, "__version__"}
    ]
    assert wrong == []


@pytest.mark.parametrize("part", ROWS)
def test_nothing_imports_to_its_right_within_a_part(part: str) -> None:
    row_of = {folder: number for number, row in enumerate(ROWS[part]) for folder in row}
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted((PACKAGE / part).rglob("*.py"))
        for own, name in (
            (path.relative_to(PACKAGE / part).parts[0].removesuffix(".py"), name) for name in imported(path)
        )
        if own != "__init__"
        and (other := folder_named_in(name, part)) in row_of
        and other != own
        and row_of[other] >= row_of.get(own, 0)
    ]
    assert wrong == []


@pytest.mark.parametrize("part", ROWS)
def test_every_folder_of_a_part_has_its_place(part: str) -> None:
    folders = {path.parent.name for path in (PACKAGE / part).glob("*/__init__.py")}
    files = {path.stem for path in (PACKAGE / part).glob("*.py")}
    placed = [name for row in ROWS[part] for name in row]
    assert len(placed) == len(set(placed))
    assert folders <= set(placed) <= folders | files


def test_every_part_has_its_place() -> None:
    assert {part for part, _ in modules()} <= MAY_IMPORT.keys() | FREE


def test_libraries_stay_where_they_belong() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for part, path in modules()
        for name in imported(path)
        if (library := name.partition(".")[0]) in ONLY_IN and part not in ONLY_IN[library] | {"__main__"}
    ]
    assert wrong == []


def test_every_module_says_why_it_exists() -> None:
    silent = [str(path.relative_to(PACKAGE)) for _, path in modules() if not read(path)[0]]
    assert silent == []
