"""Starts the server so that it can be killed at a named point; the program that stands in for `identity-server`.

The one rule: the server knows nothing of this. Around every commit of every use case that writes there are three
points: `NAME:before`, when all its statements are done; `NAME:during`, up to a few milliseconds after COMMIT was given;
and `NAME:after`, when it is committed and nobody knows of it yet. Outcomes of jobs are commits of use cases as well.

In the folder that $FIRE_FOLDER names, `points` lists the use cases that were committed, each once for every process.
Whoever reaches the point that the file `armed` names renames it to `fired`, and is killed: alone, or with all
processes of the server.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine.default import DefaultDialect

from identity_server.__main__ import main
from identity_server.storage import jobs
from identity_server.storage.database import Database

FOLDER: Final = "FIRE_FOLDER"
ARMED: Final = "armed"
FIRED: Final = "fired"
POINTS: Final = "points"

LEASE_SECONDS: Final = 4
"""How long a job is left alone whose holder was killed; in earnest a minute."""

_LONGEST_COMMIT_SECONDS = 0.004
_use_case: ContextVar[str] = ContextVar("use_case")


class Failpoints:
    """The points of one process and of those that it forks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()

    def install(self) -> None:
        """Stand around every commit."""
        commit: Callable[[DefaultDialect, Any], None] = DefaultDialect.do_commit

        def do_commit(dialect: DefaultDialect, connection: Any) -> None:
            name = _use_case.get("")
            if not name:
                # Whoever only read.
                commit(dialect, connection)
                return
            self._note(name)
            self._reach(f"{name}:before")
            self._reach(f"{name}:during", after_seconds=random.uniform(0, _LONGEST_COMMIT_SECONDS))
            commit(dialect, connection)
            self._reach(f"{name}:after")

        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign] # this is what it is here for
        for method in ("transaction", "claim"):
            setattr(Database, method, _naming(getattr(Database, method)))

    def _note(self, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        with (self._folder / POINTS).open("a") as file:
            file.write(f"{name}\n")

    def _reach(self, point: str, *, after_seconds: float | None = None) -> None:
        armed = self._folder / ARMED
        try:
            wanted, _, whom = armed.read_text().partition(" ")
        except FileNotFoundError:
            return
        if wanted != point:
            return
        try:
            armed.rename(self._folder / FIRED)
        except FileNotFoundError:
            return  # Another process was here first.
        if after_seconds is None:
            _die(whom)
        else:
            threading.Timer(after_seconds, partial(_die, whom)).start()


def _naming(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Remember whose use case is run, for as long as it is."""

    async def named(database: Database, use_case: Callable[..., Any], **options: Any) -> Any:
        qualified = getattr(use_case, "__qualname__", type(use_case).__name__)
        token = _use_case.set(qualified.partition(".<locals>")[0])
        try:
            return await run(database, use_case, **options)
        finally:
            _use_case.reset(token)

    return named


def _die(whom: str) -> None:
    if whom == "server":
        # Started as the leader of a group, so that this is the parent with all its workers.
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    jobs.LEASE_MS = LEASE_SECONDS * 1000
    Failpoints(Path(os.environ[FOLDER])).install()
    sys.exit(main(prog_name="identity-server"))
