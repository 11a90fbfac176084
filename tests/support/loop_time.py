"""Time limits that are over at once, and never too early.

A limit of a tenth of a second is over before its time comes on a machine that is busy: a test then sees the limit of an
earlier step. So the limits of tests are as long as real ones, and a test lets them pass when it is as far as that.
"""

from __future__ import annotations

import asyncio


def pass_on_loop(seconds: float) -> None:
    """Have this much time pass at once for whoever waits on the running event loop; no other clock goes on."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign] # the loop of this test alone
