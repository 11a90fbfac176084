"""Starts the server so that it can be killed at a named point; the program that stands in for `identity-server`.

The one rule: the server knows nothing of this. Around every commit of every use case that writes there are three
points: `NAME:before`, when all its statements are done; `NAME:during`, up to a few milliseconds after COMMIT was given;
and `NAME:after`, when it is committed and nobody knows of it yet. Outcomes of jobs are commits of use cases as well.

In the folder that $FIRE_FOLDER names, `points` lists the use cases that were committed, each once for every process.
Whoever reaches the point that the file `armed` names renames it to `fired`, and is killed: alone, or with all
processes of the server; or it is stopped until it is told to go on. Migrations have points as well: those around their one
commit, and `Schema._migrate:statement N` before each of their statements; and `copy_aside:copied` is when the copy of SQLite's
file is made before, and hasn't got its name yet. What the file `pragma` holds is set on every connection to SQLite before its next transaction: so
a file can't grow, or can't be written, for root as well.

$FIRE_FILES limits how many files each process may have open, for good. $FIRE_PATIENCE says for how many seconds it waits for
a slow client, which is half a minute in earnest.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from identity_server.__main__ import main
from identity_server.api import protocol
from identity_server.server import door
from identity_server.storage.database import Database
from identity_server.storage.engines.sqlite import DriverConnection
from identity_server.storage.repositories import jobs
from identity_server.storage.schema import sqlite_upgrade
from identity_server.storage.schema.upgrade import Schema
from identity_server.wiring import settings

FOLDER: Final = "FIRE_FOLDER"
ARMED: Final = "armed"
FIRED: Final = "fired"
POINTS: Final = "points"
PRAGMA: Final = "pragma"
MIGRATION: Final = "Schema._migrate"
COPIED: Final = "copy_aside:copied"
FILES: Final = "FIRE_FILES"
PATIENCE: Final = "FIRE_PATIENCE"

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
        self._stand_around_commits_on_postgresql()
        self._stand_around_commits_on_sqlite()
        for method in ("transaction", "claim"):
            setattr(Database, method, _naming(getattr(Database, method)))
        self._stand_around_migrations()
        self._stand_behind_copies()

    def _stand_around_migrations(self) -> None:
        migrate = Schema._migrate

        async def named(schema: Schema) -> None:
            with _in_use_case(MIGRATION):
                await migrate(schema)

        setattr(Schema, "_migrate", named)  # noqa: B010 - this is what it is here for
        statements = count()

        def note_statement(*_: Any) -> None:
            if _use_case.get("") == MIGRATION:
                self._note(MIGRATION)
                self._reach(f"{MIGRATION}:statement {next(statements)}")

        event.listen(Engine, "before_cursor_execute", note_statement)

    def _stand_behind_copies(self) -> None:
        finish = sqlite_upgrade._finish

        def reach_and_finish(unfinished: Path, copy: Path) -> None:
            self._reach(COPIED)
            finish(unfinished, copy)

        sqlite_upgrade._finish = reach_and_finish

    def _stand_around_commits_on_postgresql(self) -> None:
        commit: Callable[[DefaultDialect, Any], None] = DefaultDialect.do_commit

        def do_commit(dialect: DefaultDialect, connection: Any) -> None:
            with self._around() if dialect.name == "postgresql" else nullcontext():
                commit(dialect, connection)

        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign] # this is what it is here for

    def _stand_around_commits_on_sqlite(self) -> None:
        begin, commit = DriverConnection.begin, DriverConnection.commit

        def begin_with_pragma(connection: DriverConnection, **how: bool) -> None:
            self._set_pragma(connection)
            begin(connection, **how)

        async def commit_with_points(connection: DriverConnection) -> None:
            with self._around():
                await commit(connection)

        for name, method in (("begin", begin_with_pragma), ("commit", commit_with_points)):
            setattr(DriverConnection, name, method)

    @contextmanager
    def _around(self) -> Iterator[None]:
        """The points of one commit: those of the use case that has brought it about, alone or with its neighbours."""
        name = _use_case.get("")
        if not name:
            # Whoever only read.
            yield
            return
        self._note(name)
        self._reach(f"{name}:before")
        self._reach(f"{name}:during", after_seconds=random.uniform(0, _LONGEST_COMMIT_SECONDS))
        yield
        self._reach(f"{name}:after")

    def _set_pragma(self, connection: DriverConnection) -> None:
        file = self._folder / PRAGMA
        wanted = file.read_text() if file.exists() else ""
        if wanted != getattr(connection, "pragma", ""):
            connection.pragma = wanted  # type: ignore[attr-defined] # a note of ours
            connection._conn.execute(f"PRAGMA {wanted}").close()

    def _note(self, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        with (self._folder / POINTS).open("a") as file:
            file.write(f"{name}\n")

    def _reach(self, point: str, *, after_seconds: float | None = None) -> None:
        armed = self._folder / ARMED
        try:
            wanted, _, whom = armed.read_text().rpartition(" ")
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
        with _in_use_case(qualified.partition(".<locals>")[0]):
            return await run(database, use_case, **options)

    return named


@contextmanager
def _in_use_case(name: str) -> Iterator[None]:
    token = _use_case.set(name)
    try:
        yield
    finally:
        _use_case.reset(token)


def _die(whom: str) -> None:
    if whom == "paused":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    if whom == "server":
        # Started as the leader of a group, so that this is the parent with all its workers.
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _limit_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _be_patient_for(seconds: float) -> None:
    waits = (
        (protocol, "FIRST_REQUEST_SECONDS"),
        (protocol, "UNREAD_SECONDS"),
        (door, "FIRST_REQUEST_SECONDS"),
        (settings, "_BODY_TIMEOUT_SECONDS"),
    )
    for module, name in waits:
        assert hasattr(module, name)
        setattr(module, name, seconds)


if __name__ == "__main__":
    if FILES in os.environ:
        _limit_files(int(os.environ[FILES]))
    if PATIENCE in os.environ:
        _be_patient_for(float(os.environ[PATIENCE]))
    jobs.LEASE_MS = LEASE_SECONDS * 1000
    Failpoints(Path(os.environ[FOLDER])).install()
    sys.exit(main(prog_name="identity-server"))
