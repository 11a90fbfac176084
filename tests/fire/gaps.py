"""Something that the server needs goes away for a while, and comes back, while people go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from tests.fire.load import SETTLES_SECONDS, Load

FIRST_SUCCESS_SECONDS: Final = 5.0
"""After what was away is back, so soon somebody's request has succeeded."""

_NEVER_SECONDS: Final = 120.0
_PEOPLE: Final = 12
_BEFORE_SECONDS: Final = 0.5
_AFTER_SECONDS: Final = 1.0
_SUCCESSES: Final = 20


@dataclass(frozen=True, slots=True)
class Gap:
    """What people saw of it.

    Attributes:
        statuses: of all answers from its beginning until a while after its end; None for those that never came.
        back_after_seconds: how long after its end the first request succeeded that changes something.
    """

    statuses: Counter[int | None]
    back_after_seconds: float


Outage = Callable[[], AbstractAsyncContextManager[None]]
"""Takes something away when it is entered, and gives it back when it is left."""


async def ride_out(load: Load, outage: Outage, *, seconds: float, times: int, until_told: bool = False) -> list[Gap]:
    """Take something away again and again under load; afterwards the ledger holds, and nothing has failed for good.

    Args:
        load: those who notice.
        outage: what is done.
        seconds: for how long.
        times: how often.
        until_told: go on with it until somebody was told (503), however slow this machine is.
    """
    gaps = []
    async with load.going_on(people=_PEOPLE):
        for _ in range(times):
            await successes(load, _SUCCESSES)
            await asyncio.sleep(_BEFORE_SECONDS)
            begun = time.monotonic()
            async with outage():
                await asyncio.sleep(seconds)
                if until_told:
                    await _somebody_is_told(load, begun)
            gaps.append(await _see_it_back(load, begun))
            await load.pause()
            await asyncio.sleep(SETTLES_SECONDS)
            _none(await load.check())
            load.resume()
        await load.pause()
        _none(await load.check())
        # What was tried in vain is tried again half a minute later, a notice after more than one.
        _none(await load.delivered_within(300))
    return gaps


def _none(wrong: list[str]) -> None:
    assert not wrong, "\n".join(wrong)


async def _somebody_is_told(load: Load, since: float) -> None:
    async with asyncio.timeout(_NEVER_SECONDS):
        while not any(each.ended > since and each.status == 503 for each in load.answers):
            await asyncio.sleep(0.05)


async def _see_it_back(load: Load, begun: float) -> Gap:
    back = time.monotonic()
    while True:
        first = [
            each.ended
            for each in load.answers
            if each.ended > back and each.status == 200 and each.what.startswith("POST")
        ]
        if first:
            break
        assert time.monotonic() - back < _NEVER_SECONDS, "nobody succeeds any more"
        await asyncio.sleep(0.01)
    await asyncio.sleep(_AFTER_SECONDS)
    statuses = Counter(each.status for each in load.answers if each.ended > begun)
    return Gap(statuses, min(first) - back)


async def successes(load: Load, count: int) -> None:
    """Wait for some more requests that succeed."""

    def succeeded() -> int:
        return sum(each.status == 200 for each in load.answers)

    goal = succeeded() + count
    async with asyncio.timeout(120):
        while succeeded() < goal:
            await asyncio.sleep(0.01)
