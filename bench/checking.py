"""Asks slowly while others ask fast, and compares every answer with the world.

The rule: an answer that isn't true ends the run. Nothing is sampled of the answer itself: all of it is compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle

from bench.client import BadAnswer, Connection
from bench.requests import Exchange, Pool
from bench.wrk import Load

_PAUSE_SECONDS = 0.1
_AT_REST = 6


class WrongAnswer(Exception):
    """A server told something untrue: the run is void."""


@dataclass(slots=True)
class Checked:
    """How many answers have been compared in full, and how large they were.

    Attributes:
        bytes: of all of them.
        meanwhile: how many while others asked fast.
    """

    answers: int = 0
    bytes: int = 0
    meanwhile: int = 0

    @property
    def mean_bytes(self) -> float:
        return self.bytes / self.answers


class Checker:
    """Compares the answers of one server.

    Attributes:
        total: of all its answers that were compared.
    """

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._port = port
        self.total = 0

    async def check(self, exchanges: Sequence[Exchange]) -> Checked:
        """Send these requests, one after the other, and compare.

        Raises:
            WrongAnswer: one isn't true.
            BadAnswer: one isn't an answer.
        """
        checked = Checked()
        connection = Connection(self._port)
        try:
            for each in exchanges:
                await self._check(connection, each, checked)
        finally:
            connection.close()
        return checked

    async def check_once(self, exchanges: Sequence[Exchange], *, connections: int) -> list[float]:
        """Send each of these requests once, over so many connections at once, and compare; how long each took, in ms.

        Raises:
            WrongAnswer, BadAnswer: as `check`, in a group.
        """
        waiting, took_ms, checked = iter(exchanges), list[float](), Checked()

        async def check_on() -> None:
            connection = Connection(self._port)
            try:
                for each in waiting:
                    started = time.monotonic()
                    await self._check(connection, each, checked)
                    took_ms.append(1000 * (time.monotonic() - started))
            finally:
                connection.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(check_on())
        return took_ms

    @asynccontextmanager
    async def watching(self, pool: Pool, *, meanwhile: bool = True) -> AsyncIterator[Checked]:
        """Compare now, again and again while the block runs, and once more afterwards.

        Args:
            pool: of what kind.
            meanwhile: whether to ask while the block runs; otherwise only before and after.

        Raises:
            WrongAnswer, BadAnswer: as `check`.
        """
        first = pool.exchanges[:_AT_REST]
        checked = await self.check(first)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            if meanwhile:
                group.create_task(self._watch(pool, stop, checked))
            try:
                yield checked
            finally:
                stop.set()
        again = await self.check(first)
        checked.answers += again.answers
        checked.bytes += again.bytes

    async def _watch(self, pool: Pool, stop: asyncio.Event, checked: Checked) -> None:
        connection = Connection(self._port)
        try:
            # An even number in, and from the other end: other questions than the load begins with.
            for each in cycle(reversed(pool.exchanges)):
                if stop.is_set() and checked.answers % 2 == 0:
                    return
                await self._check(connection, each, checked)
                if not stop.is_set():
                    checked.meanwhile += 1
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            connection.close()

    async def _check(self, connection: Connection, exchange: Exchange, checked: Checked) -> None:
        answer = await connection.ask(exchange.request)
        if answer.status != 200:
            raise BadAnswer(f"{self._name}: {answer.status} {answer.body[:300]!r}")
        if not exchange.is_answered_by(answer.body):
            raise WrongAnswer(f"{self._name} answered {answer.body[:300]!r}")
        checked.answers += 1
        checked.bytes += answer.size
        self.total += 1


def require_full_answers(load: Load, checked: Checked, *, connections: int) -> None:
    """The load generator doesn't read answers, but counts their bytes: each must be as long as a true one.

    Raises:
        WrongAnswer: more is missing than what was under way at the end.
    """
    expected = load.requests * checked.mean_bytes
    # Those under way at the end have sent some, and a lookup of one address finds somebody every second time.
    slack = (connections + 2) * checked.mean_bytes + 0.002 * expected
    if abs(load.bytes - expected) > slack:
        raise WrongAnswer(
            f"{load.requests} answers had {load.bytes} bytes together; as long as true ones they'd have {expected:.0f}"
        )
