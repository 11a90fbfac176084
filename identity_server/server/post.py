"""What parent and worker have to agree on; known to both, so that the parent needn't know the worker's code."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from identity_server.config import Config
from identity_server.server.board import Board
from identity_server.server.listeners import Listeners

DRAIN_SECONDS = 15
"""After this a worker that was told to end is killed."""

STOP = signal.SIGTERM
"""Ends a worker: no new connections, requests under way may end."""

RETIRE = signal.SIGUSR1
"""Ends a worker that another one has taken over from: open connections get a last answer each first."""

PREPARED: Final = 3
"""The exit status of a worker that has changed the schema, and leaves the serving to one without what that took."""


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is given by its parent.

    Attributes:
        place: its place on the board.
        life: at its end when the parent is gone.
        report: where the parent hears that all is well, or what is wrong.
        is_first: whether it is the one that a server starts with. It alone may make a database and keys where there are
            none, and it leaves the serving to another if it had to change the schema.
    """

    config: Config
    listeners: Listeners
    board: Board
    place: int
    life: int
    report: int
    is_first: bool
