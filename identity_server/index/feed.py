"""How far the change feed has been followed.

PostgreSQL gives out the feed's numbers before the transactions that use them commit, and they may commit in any
order. So the highest number seen says nothing about the lower ones: those that were missing are waited for, until
no transaction can be left that holds them. Changes may then be seen in another order than they were committed in,
which is the same to a reader of the feed: an association's id is never used again, and what was added is read as
it stands.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from identity_server.storage.engines.postgresql import LONGEST_TRANSACTION_SECONDS

PATIENCE_SECONDS = 2 * LONGEST_TRANSACTION_SECONDS
"""After so long, whoever held a missing number must have committed or been rolled back."""

_MOST_MISSING = 50_000


@dataclass(slots=True)
class FeedPosition:
    """Which changes have been seen: all up to `highest` but the missing ones.

    Attributes:
        missing: numbers that may still come, and when they were first missed (seconds, monotonic).
    """

    highest: int
    missing: dict[int, float] = field(default_factory=dict)

    @property
    def complete_to(self) -> int:
        """Every change up to this number has been seen."""
        return min(self.missing) - 1 if self.missing else self.highest

    def advance(self, seen: Collection[int], *, now_seconds: float) -> bool:
        """Note which numbers have been seen; False if there is a gap that no transactions can explain."""
        for number in seen:
            self.missing.pop(number, None)
        newest = max(seen, default=self.highest)
        if newest > self.highest:
            if newest - self.highest - len(seen) > _MOST_MISSING:
                return False
            known = set(seen)
            self.missing |= {n: now_seconds for n in range(self.highest + 1, newest) if n not in known}
            self.highest = newest
        return True

    def give_up_missing(self, *, now_seconds: float) -> None:
        """Stop waiting for numbers whose transactions must have been rolled back."""
        before = now_seconds - PATIENCE_SECONDS
        self.missing = {number: since for number, since in self.missing.items() if since > before}
