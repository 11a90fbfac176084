"""Requests at a steady pace, however fast the answers come: how long people wait.

The rule: a request counts from when it should have been sent. Whoever waits for an answer before asking again doesn't
notice how long the others would have waited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

from bench.checking import WrongAnswer
from bench.client import Connection
from bench.requests import Exchange, Pool

_CONNECTIONS = 16


def percentile(values: list[float], percent: float) -> float:
    """The value that so many of a hundred don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(slots=True)
class Waits:
    """How long each request took, with the time at which it should have been sent (monotonic seconds)."""

    sent: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)

    def between(self, first: float, last: float) -> list[float]:
        """Of those that should have been sent within this time."""
        return [took for at, took in zip(self.sent, self.took_ms, strict=True) if first <= at < last]


@asynccontextmanager
async def steadily(port: int, pool: Pool, *, per_second: float) -> AsyncIterator[Waits]:
    """Send the requests of a pool while the block runs, and compare every answer.

    Raises:
        WrongAnswer: one isn't true.
        BadAnswer: one isn't an answer.
    """
    waits = Waits()
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(_CONNECTIONS):
        free.put_nowait(Connection(port))

    async def ask(exchange: Exchange, due: float) -> None:
        connection = await free.get()
        answer = await connection.ask(exchange.request)
        took_ms = 1000 * (time.monotonic() - due)
        free.put_nowait(connection)
        if answer.status != 200 or not exchange.is_answered_by(answer.body):
            raise WrongAnswer(f"{answer.status} {answer.body[:300]!r}")
        waits.sent.append(due)
        waits.took_ms.append(took_ms)

    stop = asyncio.Event()

    async def ask_on() -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for exchange in cycle(pool.exchanges):
                due += 1 / per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if stop.is_set():
                    return
                group.create_task(ask(exchange, due))

    async with asyncio.TaskGroup() as group:
        group.create_task(ask_on())
        try:
            yield waits
        finally:
            stop.set()
    while not free.empty():
        free.get_nowait().close()
