"""Memory that the parent and its workers share: how many connections each has, and what each has counted.

The rule: a place has one writer, who never waits for a reader. What a worker has written outlives it, even
if it was killed in the middle of writing.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from typing import Final

import structlog

from identity_server.metrics import Totals

_log = structlog.get_logger(__name__)

PARENT: Final = 0
"""The parent's own place; it also holds what former workers had counted."""

TAKES_NONE: Final = 1 << 62
"""Stands for the connections of whoever accepts none (yet, or any more), and need not be let go first."""

_NUMBER_BYTES = 8
_TEXT_HEAD = struct.Struct("=II")
_TEXT_BYTES = 256 * 1024
_TEXTS = 2


class Board:
    """Places for the parent and a number of workers.

    Memory is only taken for what was written; the rest is address space.
    """

    def __init__(self, *, workers: int) -> None:
        places = workers + 1
        numbers = places * _NUMBER_BYTES
        self._memory = mmap.mmap(-1, 2 * numbers + places * _TEXTS * (_TEXT_HEAD.size + _TEXT_BYTES))
        whole = memoryview(self._memory)
        self._connections = whole[:numbers].cast("q")
        # Which of its two texts is the newer one, by place.
        self._newer = whole[numbers : 2 * numbers].cast("q")
        self._texts = whole[2 * numbers :]
        # Known to the parent alone.
        self._free = list(range(places - 1, PARENT, -1))
        for place in range(places):
            self._connections[place] = TAKES_NONE

    # --- places ---------------------------------------------------------------------------

    def take_place(self) -> int:
        """A place for a new worker; the parent's business."""
        return self._free.pop()

    def leave(self, place: int) -> Totals:
        """Free the place of a worker that is gone; returns what it had counted."""
        totals = self._read(place)
        self._connections[place] = TAKES_NONE
        for text in range(_TEXTS):
            _TEXT_HEAD.pack_into(self._texts, self._start(place, text), 0, 0)
        self._free.append(place)
        return totals

    # --- connections ----------------------------------------------------------------------

    def set_connections(self, place: int, count: int) -> None:
        """Say how many connections the worker at this place has, or `TAKES_NONE`."""
        self._connections[place] = count

    def fewest_connections(self) -> int:
        """How many connections the worker with the fewest has, of those that accept any."""
        return min(self._connections.tolist())

    # --- totals ---------------------------------------------------------------------------

    def publish(self, place: int, totals: Totals) -> None:
        """Let others see these sums; whoever reads meanwhile sees the ones before."""
        data = totals.to_bytes()
        if len(data) > _TEXT_BYTES:
            _log.error("metrics.too_large", size=len(data))
            return
        older = 1 - self._newer[place]
        start = self._start(place, older)
        body = start + _TEXT_HEAD.size
        self._texts[body : body + len(data)] = data
        _TEXT_HEAD.pack_into(self._texts, start, len(data), zlib.crc32(data))
        self._newer[place] = older

    def totals(self) -> Totals:
        """The sums of everybody, former workers included."""
        sums = Totals()
        for place in range(len(self._newer)):
            sums.add(self._read(place))
        return sums

    def _read(self, place: int) -> Totals:
        # The newer one is whole, unless its writer has come round to it in this moment; then the other one is.
        for text in (self._newer[place], 1 - self._newer[place]):
            start = self._start(place, text)
            length, checksum = _TEXT_HEAD.unpack_from(self._texts, start)
            body = start + _TEXT_HEAD.size
            data = bytes(self._texts[body : body + min(length, _TEXT_BYTES)])
            if data and zlib.crc32(data) == checksum:
                return Totals.from_bytes(data)
        return Totals()

    @staticmethod
    def _start(place: int, text: int) -> int:
        return (place * _TEXTS + text) * (_TEXT_HEAD.size + _TEXT_BYTES)
