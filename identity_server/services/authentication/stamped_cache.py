"""Remembers what the database said, until somebody on this node has changed that.

The rule: what was read before a change is never remembered after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

from identity_server.storage.stamps import Stamps, Subject

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_SIZE = 20_000


class StampedCache(Generic[K, V]):
    """Values by key, all forgotten when the stamp of their subject changes.

    Args:
        lifetime_seconds: how long a value holds where changes may be made that the stamps don't tell of.
    """

    def __init__(self, stamps: Stamps, subject: Subject, *, lifetime_seconds: float | None) -> None:
        self._stamps = stamps
        self._subject = subject
        self._lifetime_seconds = lifetime_seconds
        self._stamp = -1
        self._values: dict[K, tuple[V, float]] = {}

    def get(self, key: K) -> V | None:
        """The value, if it still holds."""
        stamp = self._stamps.read(self._subject)
        if stamp != self._stamp:
            self._values.clear()
            self._stamp = stamp
        found = self._values.get(key)
        if found is None:
            return None
        value, read_at = found
        if self._lifetime_seconds is not None and _now() >= read_at + self._lifetime_seconds:
            del self._values[key]
            return None
        return value

    def as_of(self) -> int:
        """To be asked before the database is, and handed to `put` with what it said."""
        return self._stamps.read(self._subject)

    def put(self, key: K, value: V, *, as_of: int) -> None:
        """Remember a value, unless something has changed since."""
        if as_of != self._stamp:
            return
        if len(self._values) >= _SIZE:
            # The one that was read longest ago; dictionaries keep their order.
            del self._values[next(iter(self._values))]
        self._values[key] = value, _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
