from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from identity_server.domain.errors import RateLimited
from identity_server.domain.rate_limits import RateLimit
from identity_server.services.client_limits import ClientLimits
from identity_server.storage.database import Database
from tests.support.databases import open_database
from tests.support.fakes import FakeClock


def limits_over(
    database: Database, *, limit: RateLimit, at_once: int = 5, clock: FakeClock | None = None
) -> ClientLimits:
    return ClientLimits(name="test", database=database, clock=clock or FakeClock(), limit=limit, at_once=at_once)


async def test_networks_do_not_share_their_allowance(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        limits = limits_over(database, limit=RateLimit(burst=1, interval_ms=1000))
        async with limits.admit("a"):
            pass
        async with limits.admit("b"):
            pass
        with pytest.raises(RateLimited):
            async with limits.admit("a"):
                pass


async def test_processes_share_the_allowance_of_a_network(tmp_path: Path) -> None:
    clock = FakeClock()
    passed = 0
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(open_database(tmp_path)) for _ in range(4)]
        limit = RateLimit(burst=30, interval_ms=2_000)
        workers = [limits_over(each, limit=limit, at_once=10, clock=clock) for each in databases]
        for number in range(120):
            with suppress(RateLimited):
                async with workers[number % len(workers)].admit("a"):
                    passed += 1
        assert passed == 30
        clock.advance(seconds=2)
        async with workers[0].admit("a"):
            pass
        with pytest.raises(RateLimited):
            async with workers[1].admit("a"):
                pass


async def test_what_failed_is_no_longer_under_way(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        limits = limits_over(database, limit=RateLimit(burst=9, interval_ms=1), at_once=1)
        with pytest.raises(KeyError):
            async with limits.admit("a"):
                raise KeyError
        async with limits.admit("a"):
            with pytest.raises(RateLimited):
                async with limits.admit("a"):
                    pass


async def test_network_is_forgotten_when_it_makes_no_difference_any_more(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        limits = limits_over(database, limit=RateLimit(burst=2, interval_ms=30_000), clock=clock)
        async with limits.admit("192.0.2.0/24"):
            pass
        assert "192.0.2.0/24" in repr(vars(limits))
        clock.advance(seconds=60)
        async with limits.admit("198.51.100.0/24"):
            assert "192.0.2.0/24" not in repr(vars(limits))
