"""A bounded cache of things fetched from elsewhere, in which no two callers fetch the same thing at once.

The rule: a fetch belongs to nobody. It runs in a task of its own, so that a caller who gives up takes neither
the fetch nor the other callers with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cachetools import TLRUCache

from identity_server.domain.ports import Clock

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Fetched(Generic[_Value]):
    """A value, and for how many milliseconds it may be kept."""

    value: _Value
    lifetime_ms: int


class FetchAbandoned(Exception):
    """The cache was closed while the fetch was under way."""


class SingleFlightCache(Generic[_Key, _Value]):
    """Values by key, each fetched when it is first asked for and again when its lifetime is over.

    Args:
        fetch: gets the value for a key; limits its own time. What it raises reaches every caller that waits
            for this fetch, and is not kept.
        clock: tells lifetimes.
        capacity: how many values are kept; the least recently used go first.
    """

    def __init__(
        self, fetch: Callable[[_Key], Coroutine[Any, Any, Fetched[_Value]]], *, clock: Clock, capacity: int = 10_000
    ) -> None:
        self._fetch = fetch
        self._kept: TLRUCache[_Key, Fetched[_Value]] = TLRUCache(
            maxsize=capacity, ttu=lambda _, fetched, now_ms: now_ms + fetched.lifetime_ms, timer=clock.now_ms
        )
        self._flights: dict[_Key, asyncio.Task[Fetched[_Value]]] = {}

    async def get(self, key: _Key) -> _Value:
        """The value, from the cache or fetched.

        Raises:
            FetchAbandoned: the cache was closed meanwhile.
        """
        kept = self._kept.get(key)
        return await self.refresh(key) if kept is None else kept.value

    def peek(self, key: _Key) -> _Value | None:
        """The value as it is kept, or None; fetches nothing."""
        kept = self._kept.get(key)
        return None if kept is None else kept.value

    async def refresh(self, key: _Key) -> _Value:
        """The value as it is fetched now, whether one is kept or not; one that is stays if the fetch fails.

        Raises:
            FetchAbandoned: the cache was closed meanwhile.
        """
        flight = self._flights.get(key) or self._take_off(key)
        # Unlike awaiting the task, waiting for it doesn't pass a cancellation on to it.
        await asyncio.wait([flight])
        if flight.cancelled():
            raise FetchAbandoned
        return flight.result().value

    async def close(self) -> None:
        """End the fetches under way and wait for their end."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _take_off(self, key: _Key) -> asyncio.Task[Fetched[_Value]]:
        flight = asyncio.create_task(self._fetch(key))
        self._flights[key] = flight
        flight.add_done_callback(lambda landed: self._land(key, landed))
        return flight

    def _land(self, key: _Key, flight: asyncio.Task[Fetched[_Value]]) -> None:
        del self._flights[key]
        # Asking for the exception also marks it as seen: all callers may have gone by now.
        if not flight.cancelled() and flight.exception() is None:
            self._kept[key] = flight.result()
