"""SQLite's file: who opens it, and whether it is still there.

The rule: whoever opens a database never makes one. A volume that is away leaves an empty folder behind, in which SQLite would
begin a new database without a word; and a file that is removed from under a server still takes what is written to it, for
nobody.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL


class NotInPlace(OSError):
    """The file that is open isn't the one under its name any more."""


def sqlite_file(url: URL) -> Path | None:
    """The file of a database; None where there is none: in memory, or on PostgreSQL."""
    is_file = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    return Path(str(url.database)) if is_file else None


def connect(file: Path | None, **options: Any) -> sqlite3.Connection:
    """Open a file that is there, or a database in memory; options are those of `sqlite3.connect`.

    Raises:
        sqlite3.OperationalError: it isn't there.
    """
    name = ":memory:" if file is None else f"{file.absolute().as_uri()}?mode=rw"
    connection: sqlite3.Connection = sqlite3.connect(name, uri=True, **options)
    return connection


class Place:
    """Where a file was when it was opened; a few millionths of a second tell whether it still is there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity = self._look()

    def require(self) -> None:
        """Make sure that the file is still there, and no other one under its name.

        Raises:
            NotInPlace: it isn't.
        """
        if self._identity is None or self._look() != self._identity:
            raise NotInPlace

    @property
    def is_anothers(self) -> bool:
        """Whether there is another file under the name now: then this one doesn't come back."""
        return self._look() not in {None, self._identity}

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
