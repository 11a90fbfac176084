"""The root key replaced beside servers, as `keys rotate-root` does it, without waiting for what other machines need.

Servers trust what they have seen of the keys for as long as real ones do; a test has that time pass for them at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter_ns

import pytest

from identity_server.config import Config
from identity_server.key_watch import LEASE_SECONDS
from identity_server.services.keys.root_rotation import RootKeyRotation, Settle
from identity_server.wiring.desks import next_key_maker
from identity_server.wiring.storage import open_database
from tests.support.fakes import FakeClock, FakeRandomness
from tests.support.harness import Harness
from tests.support.loop_time import pass_on_loop

__all__ = ["LEASE_SECONDS", "interrupted", "rotate", "rotation_of", "settling"]


class _Killed(BaseException):
    pass


def settling(*servers: Harness) -> Settle:
    """Has what everybody on this event loop has seen of the keys be out of date, and whoever still writes with it end."""

    async def settle() -> None:
        pass_on_loop(LEASE_SECONDS)
        for server in servers:
            if stragglers := set(server.system.database._running):
                await asyncio.wait(stragglers)

    return settle


@asynccontextmanager
async def rotation_of(config: Config, *, settle: Settle | None = None) -> AsyncIterator[RootKeyRotation]:
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
            settle=settle or settling(),
        )


async def rotate(server: Harness, *others: Harness) -> list[str]:
    """Replace the root key of these servers; returns what was told."""
    told: list[str] = []
    async with rotation_of(server.config, settle=settling(server, *others)) as rotation:
        await rotation.run(told.append)
    return told


async def interrupted(config: Config, *, after: str) -> None:
    """Begin, or go on, and be killed as soon as a sentence was told that begins like this."""
    async with rotation_of(config) as rotation:
        with pytest.raises(_Killed):
            await rotation.run(_killed_after(after))


def _killed_after(beginning: str) -> Callable[[str], None]:
    def hear(sentence: str) -> None:
        if sentence.startswith(beginning):
            raise _Killed

    return hear
