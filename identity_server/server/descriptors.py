"""How many files a worker may have open, and how many of them are for connections.

The rule: connections never take so many that the database, the index, the log or a homeserver can't be reached any more.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

MOST_CONNECTIONS: Final = 2048
"""So many a worker has at its door at a time. Each may be about to send the largest body that a stranger may send: that
is 80 MB in all, and whoever waits makes room for whoever comes."""

RESERVED: Final = 256
"""For everything that isn't a client's connection."""


def raise_limit() -> None:
    """Let this process, and those that it starts, have as many files open as they can use, if they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + RESERVED
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems refuse what they have offered.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """How many connections a worker may have by the limit that it has."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, soft - min(RESERVED, soft // 2)))
