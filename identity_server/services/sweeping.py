"""Removes what may be a million rows without keeping anybody waiting: in small transactions, one after the other.

The rule: whoever has a single row to write comes between two of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from identity_server.storage.database import Database, Transaction

BATCH = 500
"""How many rows one transaction touches at most; some milliseconds' work on either engine."""


async def in_batches(database: Database, sweep: Callable[[Transaction, int], Awaitable[int]]) -> int:
    """Commit one batch after the other, until one isn't full; returns how many rows that were.

    Args:
        database: where.
        sweep: removes so many rows at most, and returns how many these were.
    """
    total = 0
    while True:
        removed = await database.transaction(lambda tx: sweep(tx, BATCH), bulk=True)
        total += removed
        if removed < BATCH:
            return total
