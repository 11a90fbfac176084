"""What a process has done with its database, in plain numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy.pool import Pool, QueuePool


@dataclass(slots=True)
class Activity:
    """Counts; nothing is ever set back.

    Attributes:
        transactions: those that were begun, by what for: "write", "read" or "claim".
        reruns: those that had lost a race and were done again.
        outages: those that failed because the database couldn't be used.
        waits: those that found all connections in use.
    """

    transactions: Counter[str] = field(default_factory=Counter)
    reruns: int = 0
    outages: int = 0
    waits: int = 0

    def begin(self, purpose: str, pool: Pool) -> None:
        """A transaction is about to ask for a connection."""
        self.transactions[purpose] += 1
        state = PoolState.of(pool)
        self.waits += state is not None and state.in_use >= state.limit


@dataclass(frozen=True, slots=True)
class PoolState:
    """How many connections there are, and how many there may be."""

    in_use: int
    free: int
    limit: int

    @classmethod
    def of(cls, pool: Pool) -> PoolState | None:
        """As it is now; None for a pool that has nothing to wait for."""
        if not isinstance(pool, QueuePool):
            return None
        return cls(pool.checkedout(), pool.checkedin(), pool.size() + max(pool._max_overflow, 0))  # noqa: SLF001 - told nowhere else
