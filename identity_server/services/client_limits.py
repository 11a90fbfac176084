"""Limits per client network. Of the network itself, a keyed hash is stored and nothing else.

The rule: whoever asks too often costs nothing but memory. So each process counts for itself first, and asks the
database, which counts for all processes, only about what passes here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cachetools import TTLCache

from identity_server.domain.errors import RateLimited
from identity_server.domain.ports import Clock
from identity_server.domain.rate_limits import RateLimit
from identity_server.storage.database import Database, Transaction

_MAX_NETWORKS = 100_000
_BUSY_RETRY_MS = 1_000


class ClientLimits:
    """How often a client network may do one thing, and how often at once.

    How often holds for all processes that share the database. How often at once holds for each: it is about what
    lies around in one process, and the other limit bounds the sum.

    Args:
        name: of the limit, in the database and in the metrics.
        limit: how often.
        at_once: how many may be under way.
    """

    def __init__(self, *, name: str, database: Database, clock: Clock, limit: RateLimit, at_once: int) -> None:
        self._name = name
        self._database = database
        self._clock = clock
        self._limit = limit
        self._at_once = at_once
        self._arrivals: TTLCache[str, int] = TTLCache(
            # Forgotten as soon as it makes no difference any more.
            _MAX_NETWORKS,
            ttl=limit.longest_ms,
            timer=clock.now_ms,
        )
        self._under_way: Counter[str] = Counter()

    @asynccontextmanager
    async def admit(self, network: str) -> AsyncIterator[None]:
        """Count one call while the block runs.

        Raises:
            RateLimited: too many, or too many at once.
            Unavailable: the database can't be asked.
        """
        self._take_here(network)
        self._under_way[network] += 1
        try:
            await self._take_of_all(network)
            yield
        finally:
            self._under_way[network] -= 1
            if not self._under_way[network]:
                del self._under_way[network]

    def _take_here(self, network: str) -> None:
        if self._under_way[network] >= self._at_once:
            raise RateLimited(retry_after_ms=_BUSY_RETRY_MS, limit=self._name)
        allowed, value = self._limit.take(self._arrivals.get(network), now_ms=self._clock.now_ms())
        if not allowed:
            raise RateLimited(retry_after_ms=value, limit=self._name)
        self._arrivals[network] = value

    async def _take_of_all(self, network: str) -> None:
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> None:
            await tx.rate_limits.take(self._name, network, self._limit, now_ms=now_ms)

        await self._database.transaction(use_case)
