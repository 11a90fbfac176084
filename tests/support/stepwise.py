"""A command that is killed where a test wants it: it stops by itself after every commit, until it is told to go on.

To look every few milliseconds how far a command is, and then to kill it, comes too late on a busy machine.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from identity_server.storage.database import Database
from tests.e2e.processes import PATIENCE_SECONDS

PREPARED: Final = """
from tests.support.stepwise import stop_after_commits

stop_after_commits()
"""
"""What a program of `identity_server` begins with, to be killed by `kill_when`."""

PROGRAM: Final = f"""{PREPARED}
from identity_server.__main__ import main

main()
"""
"""What Python is given with `-c` in the place of `-m identity_server`."""

_POLL_SECONDS = 0.005


def stop_after_commits() -> None:
    """Have this process stop after each commit from now on, until it gets SIGCONT."""
    for name in ("transaction", "claim"):
        setattr(Database, name, _stopping(getattr(Database, name)))


def _stopping(run: Callable[..., Any]) -> Callable[..., Any]:
    async def stopping(*arguments: Any, **options: Any) -> Any:
        result = await run(*arguments, **options)
        os.kill(os.getpid(), signal.SIGSTOP)
        return result

    return stopping


def kill_when(is_so: Callable[[], bool], pid: int, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Let a process that stops after commits go on until something is so, and kill it there.

    Raises:
        AssertionError: it has ended instead, or the time ran out.
    """
    deadline = time.monotonic() + seconds
    while True:
        while (state := _state_of(pid)) != "T":
            assert state not in {"Z", ""}, "it came to its end"
            assert time.monotonic() < deadline, "it neither stops nor ends"
            time.sleep(_POLL_SECONDS)
        if is_so():
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGCONT)


def _state_of(pid: int) -> str:
    """The letter that the kernel has for it; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
