"""Limits per client network, kept in memory: they protect this process, and no client address is stored."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cachetools import LRUCache

from identity_server.domain.errors import RateLimited
from identity_server.domain.ports import Clock
from identity_server.domain.rate_limits import RateLimit

_MAX_NETWORKS = 100_000
_IPV4_PREFIX = 24
_IPV6_PREFIX = 56
_BUSY_RETRY_MS = 1_000


def client_network(address: str | None) -> str:
    """The network that a client address counts for: a /24 or a /56.

    What is no address (a unix socket's peer, say) counts as one network of its own.
    """
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return "local"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    prefix = _IPV4_PREFIX if isinstance(parsed, ipaddress.IPv4Address) else _IPV6_PREFIX
    return str(ipaddress.ip_network((parsed, prefix), strict=False))


class ClientLimits:
    """How often, and how often at once, a client network may do one thing.

    Args:
        limit: how often.
        at_once: how many may be under way.
    """

    def __init__(self, *, clock: Clock, limit: RateLimit, at_once: int) -> None:
        self._clock = clock
        self._limit = limit
        self._at_once = at_once
        self._arrivals: LRUCache[str, int] = LRUCache(_MAX_NETWORKS)
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def admit(self, network: str) -> Iterator[None]:
        """Count one call while the block runs.

        Raises:
            RateLimited: too many, or too many at once.
        """
        if self._under_way[network] >= self._at_once:
            raise RateLimited(retry_after_ms=_BUSY_RETRY_MS)
        allowed, value = self._limit.take(self._arrivals.get(network), now_ms=self._clock.now_ms())
        if not allowed:
            raise RateLimited(retry_after_ms=value)
        self._arrivals[network] = value
        self._under_way[network] += 1
        try:
            yield
        finally:
            self._under_way[network] -= 1
            if not self._under_way[network]:
                del self._under_way[network]
