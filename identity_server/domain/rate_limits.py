"""Rate limits by the generic cell rate algorithm: one timestamp per key, no counters, no windows.

The timestamp ("theoretical arrival time") is the moment at which a key's allowance is whole again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """An allowance: `burst` calls at once, and then one every `interval_ms`."""

    burst: int
    interval_ms: int

    @property
    def longest_ms(self) -> int:
        """How long it takes until an allowance that was used up is whole again."""
        return self.burst * self.interval_ms

    @classmethod
    def per_second(cls, *, burst: int, rate_hz: float) -> RateLimit:
        """From Sydent's pair of a burst and a rate in calls per second."""
        return cls(burst=burst, interval_ms=math.ceil(1000 / rate_hz))

    def take(self, arrival_ms: int | None, *, now_ms: int) -> tuple[bool, int]:
        """Try to use one call.

        Args:
            arrival_ms: the key's theoretical arrival time; None for a key not seen before.
            now_ms: the time.

        Returns:
            (True, the new theoretical arrival time), or (False, milliseconds until a call is allowed).
        """
        start = now_ms if arrival_ms is None else max(arrival_ms, now_ms)
        taken = start + self.interval_ms
        wait_ms = taken - (now_ms + self.burst * self.interval_ms)
        return (False, wait_ms) if wait_ms > 0 else (True, taken)
