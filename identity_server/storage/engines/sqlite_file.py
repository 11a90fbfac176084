"""SQLite's file, and how it is opened.

The rule: whoever opens a database never makes one. A volume that is away leaves an empty folder behind, in which SQLite would
begin a new database without a word.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL


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
