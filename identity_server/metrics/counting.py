"""What this process counts, in plain numbers: requests, lookups, jobs; and what it measures now and then.

The rule: what is counted here happens on the way of every request, so counting costs a dictionary's look-up and an
addition; making a page of it (server/metrics_page.py) is for whoever asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from identity_server.metrics.table import BY_NAME, Across

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


Key = tuple[str, ...]
"""The name of a metric (metrics/table.py) and the values of its labels."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one process has read from the database for all of them.

    Attributes:
        taken_at: monotonic seconds, which all processes of a machine share.
    """

    taken_at: float
    gauges: Mapping[Key, float]


@dataclass(slots=True)
class Totals:
    """Sums that several processes can hand each other and add up.

    Attributes:
        requests: by route, method and status.
        numbers: what was counted.
        gauges: what is so now; it ends with its process.
        reading: the newest that anybody has taken.
    """

    requests: dict[RequestLabels, Durations] = field(default_factory=dict)
    numbers: Counter[Key] = field(default_factory=Counter)
    gauges: dict[Key, float] = field(default_factory=dict)
    reading: Reading | None = None

    def add(self, other: Totals) -> None:
        """Add what another process has counted and measured."""
        self.add_counted(other)
        for key, theirs in other.gauges.items():
            ours = self.gauges.get(key)
            self.gauges[key] = theirs if ours is None else _together(key[0], ours, theirs)
        if other.reading is not None and (self.reading is None or other.reading.taken_at > self.reading.taken_at):
            self.reading = other.reading

    def add_counted(self, other: Totals) -> None:
        """Add what another process had counted that is no more."""
        self.numbers.update(other.numbers)
        for labels, theirs in other.requests.items():
            ours = self.requests.setdefault(labels, Durations())
            ours.counts = [a + b for a, b in zip(ours.counts, theirs.counts, strict=True)]
            ours.seconds += theirs.seconds

    def to_bytes(self) -> bytes:
        """The sums in a form that `from_bytes` reads."""
        requests = [(*labels, each.counts, each.seconds) for labels, each in self.requests.items()]
        reading = self.reading and (self.reading.taken_at, list(self.reading.gauges.items()))
        return orjson.dumps([requests, list(self.numbers.items()), list(self.gauges.items()), reading])

    @classmethod
    def from_bytes(cls, data: bytes) -> Totals:
        requests, numbers, gauges, reading = orjson.loads(data)
        return cls(
            {
                (route, method, status): Durations(counts, seconds)
                for route, method, status, counts, seconds in requests
            },
            Counter({tuple(key): value for key, value in numbers}),
            {tuple(key): value for key, value in gauges},
            reading and Reading(reading[0], {tuple(key): value for key, value in reading[1]}),
        )


def _together(name: str, one: float, other: float) -> float:
    metric = BY_NAME.get(name)
    match metric and metric.across:
        case Across.MOST:
            return max(one, other)
        case Across.LEAST:
            return min(one, other)
        case _:
            return one + other


class Metrics:
    """Counts what happens in this process."""

    __slots__ = ("_requests", "_sources", "_totals")

    def __init__(self) -> None:
        self._totals = Totals()
        self._requests = self._totals.requests
        self._sources: list[Callable[[], None]] = []

    def gather_from(self, source: Callable[[], None]) -> None:
        """Have `source` called before anybody reads; it counts what it has only noted so far, and measures."""
        self._sources.append(source)

    def expect(self, name: str, *labels: str) -> None:
        """Show something from the start that may be counted, so that its first time isn't missed."""
        self._totals.numbers[name, *labels] += 0

    def set_counted(self, name: str, *labels: str, to: float) -> None:
        """Take over what somebody else has counted."""
        self._totals.numbers[name, *labels] = to  # type: ignore[assignment]  # Counters may hold seconds, too

    def measure(self, name: str, *labels: str, value: float) -> None:
        """Say what is so now."""
        self._totals.gauges[name, *labels] = value

    def note_reading(self, reading: Reading) -> None:
        """Let all processes have what this one has read from the database."""
        self._totals.reading = reading

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

    def count_refusal(self, limit: str) -> None:
        """A request was answered 429 because of this limit."""
        self._totals.numbers["refusals", limit] += 1

    def count_delivery(self, medium: str, provider: str, outcome: str) -> None:
        """A relay or a provider has said this to a mail or a text."""
        self._totals.numbers["deliveries", medium, provider, outcome] += 1

    def count_chore(self, chore: str, outcome: str) -> None:
        """A chore of the upkeep was done, or failed."""
        self._totals.numbers["chore_runs", chore, outcome] += 1
