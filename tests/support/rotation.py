"""The root key replaced beside servers, as `keys rotate-root` does it, without the pauses that other machines need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter_ns

from identity_server.config import Config
from identity_server.services.keys.root_rotation import RootKeyRotation
from identity_server.wiring.desks import next_key_maker
from identity_server.wiring.storage import open_database
from tests.support.fakes import FakeClock, FakeRandomness
from tests.support.harness import Harness

LEASE_SECONDS = 0.1
"""For servers whose root key is replaced by a test."""


@asynccontextmanager
async def rotation_of(config: Config, *, settle_seconds: float = 3 * LEASE_SECONDS) -> AsyncIterator[RootKeyRotation]:
    """What the command works with, as a process of its own."""
    clock, randomness = FakeClock(), FakeRandomness(str(perf_counter_ns()))
    async with AsyncExitStack() as stack:
        opened = await open_database(config, clock, randomness, stack, next_may_be_missing=True)
        yield RootKeyRotation(
            database=opened.database,
            clock=clock,
            keys=opened.keys,
            look=opened.watch.look,
            make_next=next_key_maker(config, randomness),
            settle_seconds=settle_seconds,
        )


async def rotate(server: Harness) -> list[str]:
    """Replace the root key; returns what was told."""
    told: list[str] = []
    async with rotation_of(server.config) as rotation:
        await rotation.run(told.append)
    return told


async def interrupted(config: Config, *, after: str) -> None:
    """Begin, or go on, and be killed as soon as a sentence was told that begins like this."""
    reached = asyncio.Event()

    def hear(sentence: str) -> None:
        if sentence.startswith(after):
            reached.set()

    async with rotation_of(config) as rotation:
        running_on = asyncio.create_task(rotation.run(hear))
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait({running_on, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert not running_on.done(), "it came to its end"
        running_on.cancel()
        await asyncio.wait({running_on})
