"""What Prometheus is shown: the sums of all workers, and a reading of the database that is fresh enough.

The rule: only who is asked reads, and no oftener than the database can bear. What one worker has read, all can show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from identity_server.metrics import Metrics, Reading, Totals

_FRESH_SECONDS: Final = 10.0
_PAUSE_FACTOR: Final = 50
"""A reading that took long is used for so many times as long: it costs a fiftieth of the time at most."""


class Scraping:
    """Answers one scrape after the other.

    Args:
        sums: those of all workers.
        metrics: of this one, where a reading is left for the others.
        read: takes a reading; is told the last change of a binding that all indexes know.
    """

    def __init__(
        self,
        *,
        sums: Callable[[], Totals],
        metrics: Metrics,
        read: Callable[[float | None], Awaitable[Reading]],
    ) -> None:
        self._sums = sums
        self._metrics = metrics
        self._read = read
        self._reading = asyncio.Lock()

    async def totals(self) -> Totals:
        """What there is to show."""
        totals = self._sums()
        if _is_fresh(totals.reading):
            return totals
        async with self._reading:
            # Another scrape may have had it read meanwhile.
            totals = self._sums()
            if not _is_fresh(totals.reading):
                self._metrics.note_reading(await self._read(totals.gauges.get(("index_followed",))))
                totals = self._sums()
        return totals


def _is_fresh(reading: Reading | None) -> bool:
    if reading is None:
        return False
    took_seconds = reading.gauges.get(("database_reading_seconds",), 0.0)
    return monotonic() - reading.taken_at < max(_FRESH_SECONDS, _PAUSE_FACTOR * took_seconds)
