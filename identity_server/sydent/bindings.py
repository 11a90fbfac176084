"""Of all that Sydent says about an address, the newest.

The rule: the newest row of an address decides, whatever it says. So an unbinding hides every older binding, and a
binding that can't be moved does not bring back the one that it had replaced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

LOCAL = "local_threepid_associations"
GLOBAL = "global_threepid_associations"

# Of two rows of the same moment, the one that was made here is the better witness.
_RANKS = {GLOBAL: 0, LOCAL: 1}
_TABLES = {rank: table for table, rank in _RANKS.items()}
_CACHE_KIB = 32 * 1024


class Candidate(NamedTuple):
    """What one row says, without saying about whom. A tuple, because there are millions of these.

    Attributes:
        blind: stands for the address.
        ts: when it was made, in milliseconds.
    """

    blind: bytes
    ts: int
    table: str
    row: int


class NewestBindings:
    """Finds the newest candidate of each address, in the order of their blinds.

    A million of them would fill the memory, so they are kept in a temporary file of SQLite's, which has no name
    and goes with this object. It holds no address.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute(
            "CREATE TABLE newest (blind BLOB PRIMARY KEY, ts INTEGER, rank INTEGER, id INTEGER) WITHOUT ROWID"
        )

    def offer(self, candidates: Iterable[Candidate]) -> None:
        """Let candidates in that are newer than what is known of their addresses."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO newest VALUES (?, ?, ?, ?) ON CONFLICT (blind) DO UPDATE"
            " SET ts = excluded.ts, rank = excluded.rank, id = excluded.id"
            " WHERE (excluded.ts, excluded.rank, excluded.id) > (ts, rank, id)",
            ((each.blind, each.ts, _RANKS[each.table], each.row) for each in candidates),
        )
        self._db.execute("COMMIT")

    def count(self) -> dict[str, int]:
        """How many addresses each table decides."""
        found = dict(self._db.execute("SELECT rank, count(*) FROM newest GROUP BY rank"))
        return {table: found.get(rank, 0) for rank, table in _TABLES.items()}

    def batches(self, size: int) -> Iterator[list[Candidate]]:
        """The newest of each address."""
        cursor = self._db.execute("SELECT blind, ts, rank, id FROM newest ORDER BY blind")
        while rows := cursor.fetchmany(size):
            yield [Candidate(blind, ts, _TABLES[rank], row) for blind, ts, rank, row in rows]

    def close(self) -> None:
        """Forget everything."""
        self._db.close()
