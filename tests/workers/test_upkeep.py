from __future__ import annotations

import asyncio

import pytest

from identity_server.workers.upkeep import Chore, run_forever, schedule
from tests.support.harness import Harness


async def test_every_chore_can_be_done_and_gives_its_reason(server: Harness) -> None:
    chores = schedule(server.system.services, server.system.index)
    for chore in chores:
        assert len(chore.reason) > 20
        assert chore.every_seconds >= 0.5
        await chore.run()
    assert len({chore.name for chore in chores}) == len(chores)


async def test_chore_that_fails_comes_round_again() -> None:
    runs = 0
    done = asyncio.Event()

    async def fails() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            done.set()
        raise RuntimeError

    task = asyncio.create_task(run_forever(Chore("test", 0.0, fails, "to be tested")))
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
