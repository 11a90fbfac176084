"""What is remembered of limits, whoever takes them: it is forgotten when it makes no difference any more."""

from __future__ import annotations

from identity_server.domain.ports import Clock
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database


class Limits:
    """Forgets."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def cleanup(self) -> int:
        """Commit the removal of allowances that are whole again; returns how many."""
        now_ms = self._clock.now_ms()
        return await in_batches(self._database, lambda tx, limit: tx.rate_limits.cleanup(now_ms=now_ms, limit=limit))
