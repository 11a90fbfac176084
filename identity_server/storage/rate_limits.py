"""The state of rate limits that must hold across restarts and workers."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from identity_server.domain.errors import RateLimited
from identity_server.domain.rate_limits import RateLimit
from identity_server.storage.sealing import Sealer
from identity_server.storage.tables import rate_limits


class RateLimits:
    """One timestamp per limit and caller, under a keyed digest."""

    def __init__(self, connection: AsyncConnection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def take(self, name: str, caller: str, limit: RateLimit, *, now_ms: int, cost: int = 1) -> None:
        """Use one call of the caller's allowance, or what counts for several.

        Raises:
            RateLimited: it is used up.
        """
        digest = self._sealer.digest("rate limit", name, caller)
        found = await self._connection.execute(
            select(rate_limits.c.whole_again_at_ms).where(rate_limits.c.key_digest == digest)
        )
        stored: int | None = found.scalar_one_or_none()
        allowed, value = limit.take(stored, now_ms=now_ms, cost=cost)
        if not allowed:
            raise RateLimited(retry_after_ms=value, limit=name)
        if stored is None:
            await self._connection.execute(insert(rate_limits).values(key_digest=digest, whole_again_at_ms=value))
        else:
            await self._connection.execute(
                update(rate_limits).where(rate_limits.c.key_digest == digest).values(whole_again_at_ms=value)
            )

    async def take_place(self, name: str, caller: str, *, places: int, window_ms: int, now_ms: int) -> bytes:
        """Use one of the caller's places, each of which is free again after the window.

        Where `take` lets a few more through in the long run, this never lets more through than there are places
        in any window; it costs a row for each, so there should be few. Returns what `give_back` needs.

        Raises:
            RateLimited: all are in use.
        """
        digests = [self._sealer.digest("rate limit", name, caller, str(place)) for place in range(places)]
        rows = await self._connection.execute(select(rate_limits).where(rate_limits.c.key_digest.in_(digests)))
        free_at = {row.key_digest: row.whole_again_at_ms for row in rows}
        chosen = min(digests, key=lambda digest: free_at.get(digest, 0))
        if chosen not in free_at:
            await self._connection.execute(
                insert(rate_limits).values(key_digest=chosen, whole_again_at_ms=now_ms + window_ms)
            )
            return chosen
        if free_at[chosen] > now_ms:
            raise RateLimited(retry_after_ms=free_at[chosen] - now_ms, limit=name)
        await self._connection.execute(
            update(rate_limits).where(rate_limits.c.key_digest == chosen).values(whole_again_at_ms=now_ms + window_ms)
        )
        return chosen

    async def give_back(self, place: bytes) -> None:
        """Free a place that `take_place` gave."""
        await self._connection.execute(delete(rate_limits).where(rate_limits.c.key_digest == place))

    async def cleanup(self, *, now_ms: int) -> int:
        """Forget callers whose allowance is whole again; returns how many."""
        result = await self._connection.execute(delete(rate_limits).where(rate_limits.c.whole_again_at_ms <= now_ms))
        return result.rowcount
