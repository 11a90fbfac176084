from __future__ import annotations

import asyncio

import pytest

from identity_server.outbound.single_flight import FetchAbandoned, Fetched, SingleFlightCache
from tests.outbound.support import FakeClock


class Source:
    """Something to fetch from, which answers when it is told to."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def fetch(self, key: str) -> Fetched[str]:
        self.fetched.append(key)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return Fetched(f"{key} {len(self.fetched)}", lifetime_ms=1000)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_at_once_share_one_fetch() -> None:
    source = Source()
    cache = SingleFlightCache(source.fetch, clock=FakeClock())
    callers = [asyncio.create_task(cache.get("a")) for _ in range(10)]
    await settle()
    source.open.set()
    assert await asyncio.gather(*callers) == ["a 1"] * 10
    assert source.fetched == ["a"]


async def test_a_caller_who_gives_up_takes_no_one_along() -> None:
    source = Source()
    cache = SingleFlightCache(source.fetch, clock=FakeClock())
    first, second = (asyncio.create_task(cache.get("a")) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    source.open.set()
    assert await second == "a 1"


async def test_a_fetch_goes_on_when_all_callers_have_gone() -> None:
    source = Source()
    cache = SingleFlightCache(source.fetch, clock=FakeClock())
    only = asyncio.create_task(cache.get("a"))
    await settle()
    only.cancel()
    source.open.set()
    await settle()
    assert await cache.get("a") == "a 1"
    assert source.fetched == ["a"]


async def test_values_live_as_long_as_they_say() -> None:
    source, clock = Source(), FakeClock()
    source.open.set()
    cache = SingleFlightCache(source.fetch, clock=clock)
    assert await cache.get("a") == "a 1"
    clock.advance(seconds=0.999)
    assert await cache.get("a") == "a 1"
    clock.advance(seconds=0.001)
    assert await cache.get("a") == "a 2"


async def test_errors_reach_every_caller_and_are_not_kept() -> None:
    source = Source()
    cache = SingleFlightCache(source.fetch, clock=FakeClock())
    source.error = ValueError("no")
    callers = [asyncio.create_task(cache.get("a")) for _ in range(2)]
    source.open.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError]
    source.error = None
    assert await cache.get("a") == "a 2"


async def test_keeps_no_more_than_its_capacity() -> None:
    source = Source()
    source.open.set()
    cache = SingleFlightCache(source.fetch, clock=FakeClock(), capacity=2)
    for key in ("a", "b", "c", "b", "a"):
        await cache.get(key)
    assert source.fetched == ["a", "b", "c", "a"]


async def test_closing_ends_fetches_and_tells_their_callers() -> None:
    source = Source()
    cache = SingleFlightCache(source.fetch, clock=FakeClock())
    caller = asyncio.create_task(cache.get("a"))
    await settle()
    await cache.close()
    with pytest.raises(FetchAbandoned):
        await caller


async def test_peeking_fetches_nothing() -> None:
    source = Source()
    source.open.set()
    cache = SingleFlightCache(source.fetch, clock=(clock := FakeClock()))
    assert cache.peek("a") is None
    await cache.get("a")
    assert cache.peek("a") == "a 1"
    clock.advance(seconds=1)
    assert cache.peek("a") is None
    assert source.fetched == ["a"]


async def test_refreshing_replaces_what_is_kept_unless_it_fails() -> None:
    source = Source()
    source.open.set()
    cache = SingleFlightCache(source.fetch, clock=FakeClock())
    await cache.get("a")
    assert await asyncio.gather(*(cache.refresh("a") for _ in range(2))) == ["a 2"] * 2
    source.error = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        await cache.refresh("a")
    assert await cache.get("a") == "a 2"
