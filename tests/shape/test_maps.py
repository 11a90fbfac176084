"""Each folder's `__init__.py` is its table of contents: whoever looks for something reads that first."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.shape.test_imports import PACKAGE

_NAMES = re.compile(r"(?<![\w./])(\w+\.py|\w+/)(?![\w/])")
# Not code.
_NO_PACKAGES = frozenset({"templates", "__pycache__", "_shipped"})
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def named_in(folder: Path) -> set[str]:
    """The files and folders that a folder's docstring names."""
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    return set(_NAMES.findall(said))


def held_by(folder: Path) -> set[str]:
    """The files and folders that there are in it."""
    files = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
    folders = {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and path.name not in _NO_PACKAGES}
    return files | folders


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE.parent)))
def test_a_folder_names_every_file_in_it(folder: Path) -> None:
    assert held_by(folder) <= named_in(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE.parent)))
def test_a_folder_names_no_file_that_is_not_there(folder: Path) -> None:
    there = {path.name for path in PACKAGE.rglob("*.py")} | {f"{path.name}/" for path in PACKAGE.rglob("*")}
    assert named_in(folder) <= there
