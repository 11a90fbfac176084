"""Time limits that are over at once, and never too early.

A limit of a tenth of a second is over before its time comes on a machine that is busy: a test then sees the limit of an
earlier step. So the limits of tests are as long as real ones, and a test lets them pass when it is as far as that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def pass_on_loop(seconds: float) -> None:
    """Have this much time pass at once for whoever waits on the running event loop; no other clock goes on."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop.time, _Ahead):
        loop.time = _Ahead(loop.time)  # type: ignore[method-assign] # the loop of this test alone
    loop.time.seconds += seconds


class _Ahead:
    """A clock that is some seconds ahead of another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds = 0.0

    def __call__(self) -> float:
        return self._clock() + self.seconds
