"""Loads what a worker runs on, in the process where it costs least.

Python counts references in the objects themselves, so whatever a worker uses it writes to, and the kernel gives it a copy
of that memory; the parent keeps its own, which it doesn't use. With several workers that is worth it: what none of them
writes to is there once, and one that is lost is replaced at once. A single worker shares with nobody: then it loads
everything itself, and the parent stays small.

The rule: only what comes with the package is loaded here, as code is. What an operator wrote is tried by a worker.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache

from identity_server.server.post import Post


@cache
def load_work() -> Callable[[Post], int]:
    """What a worker does, with all that it needs whatever its configuration says; in a process that has it, at once."""
    gc.disable()
    try:
        from identity_server.server.worker import work  # noqa: PLC0415 - what this module is for
        from identity_server.wiring.preloading import preload  # noqa: PLC0415

        preload()
        # What the collector never looks at isn't copied for each worker, and costs none of them any time. It would find hardly
        # any garbage in modules, and take a tenth of the time of a start for that.
        gc.freeze()
    finally:
        gc.enable()
    return work
