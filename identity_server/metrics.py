"""What this process counts, in plain numbers: requests, lookups, jobs.

The rule: what is counted here happens on the way of every request, so counting costs a dictionary's look-up and an
addition; making a page of it (server/metrics_page.py) is for whoever asks. No label may hold anything that
a caller wrote.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import orjson

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the classes that durations are counted in, in seconds; a last class takes the rest."""

RequestLabels = tuple[str, str, int]
"""Pattern of the route, method, status."""


class Durations:
    """How many durations fell into each class, and their sum."""

    __slots__ = ("counts", "seconds")

    def __init__(self, counts: list[int] | None = None, seconds: float = 0.0) -> None:
        self.counts = counts or [0] * (len(BUCKETS) + 1)
        self.seconds = seconds


@dataclass(slots=True)
class Totals:
    """Sums that several processes can hand each other and add up.

    Attributes:
        requests: by route, method and status.
        numbers: by name of the metric and the values of its labels.
    """

    requests: dict[RequestLabels, Durations] = field(default_factory=dict)
    numbers: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, other: Totals) -> None:
        """Add what another process has counted."""
        self.numbers.update(other.numbers)
        for labels, theirs in other.requests.items():
            ours = self.requests.setdefault(labels, Durations())
            ours.counts = [a + b for a, b in zip(ours.counts, theirs.counts, strict=True)]
            ours.seconds += theirs.seconds

    def to_bytes(self) -> bytes:
        """The sums in a form that `from_bytes` reads."""
        requests = [(*labels, each.counts, each.seconds) for labels, each in self.requests.items()]
        return orjson.dumps([requests, list(self.numbers.items())])

    @classmethod
    def from_bytes(cls, data: bytes) -> Totals:
        requests, numbers = orjson.loads(data)
        return cls(
            {
                (route, method, status): Durations(counts, seconds)
                for route, method, status, counts, seconds in requests
            },
            Counter({tuple(key): value for key, value in numbers}),
        )


class Metrics:
    """Counts what happens in this process."""

    __slots__ = ("_requests", "_sources", "_totals")

    def __init__(self) -> None:
        self._totals = Totals()
        self._requests = self._totals.requests
        self._sources: list[Callable[[], None]] = []

    def gather_from(self, source: Callable[[], None]) -> None:
        """Have `source` called before anybody reads; it counts what it has only noted so far."""
        self._sources.append(source)

    @property
    def totals(self) -> Totals:
        """Everything that was counted in this process."""
        for gather in self._sources:
            gather()
        return self._totals

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered.

        Args:
            route: the pattern of its path, never the path itself.
            method: one of those that are known, or a word for all others.
            status: of the answer.
            seconds: from the head of the request to the answer.
        status: of the answer.
        seconds: from the head of the request to the answer.
        """
        durations = self._requests.get((route, method, status))
        if durations is None:
            durations = self._requests[route, method, status] = Durations()
        durations.counts[bisect_left(BUCKETS, seconds)] += 1
        durations.seconds += seconds

    def count_lookup(self, *, asked: int, found: int) -> None:
        """A lookup was answered."""
        numbers = self._totals.numbers
        numbers["lookup_addresses",] += asked
        numbers["lookup_hits",] += found

    def count_job(self, kind: str, outcome: str) -> None:
        """A job of the outbox was tried."""
        self._totals.numbers["jobs", kind, outcome] += 1
