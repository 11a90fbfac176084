"""Reads the URL of a database.

The rule: SQLAlchemy is loaded here, and only when there is a URL to be read. A parent whose data is in SQLite does without
it, which is a third of the memory that it would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


def parse_url(text: str) -> URL:
    """The parts of a URL.

    Raises:
        ValueError: it isn't one. The message doesn't show it, because it may hold a password.
    """
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - see above
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("it isn't the URL of a database") from None
