"""Tells other processes that something was committed, and learns it from them.

The rule: a signal only says that it is time to look. Losing one costs a delay, never a wrong answer, so whoever is
told looks for itself, and is told once more whenever signals may have been lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from identity_server.storage.stamps import Subject

_log = structlog.get_logger(__name__)

_SUBJECTS = {subject.name.lower(): subject for subject in Subject}
"""By what they are called on the wire."""
_CHANNEL = "matrix_identity_server"
_POLL_SECONDS = 0.5
_HEARTBEAT_SECONDS = 10.0
_ANSWER_SECONDS = 5.0


class CommitSignals:
    """NOTIFY and LISTEN where the database has them, regular polling elsewhere.

    Args:
        poll_seconds: how often to look where nobody can be told.
    """

    def __init__(self, engine: AsyncEngine, *, poll_seconds: float = _POLL_SECONDS) -> None:
        self._engine = engine
        self._poll_seconds = poll_seconds

    @staticmethod
    async def announce(connection: AsyncConnection, subjects: Collection[Subject]) -> None:
        """Have the commit of the running transaction told to all who listen; for its last statement.

        PostgreSQL lets one transaction at a time commit that has something to tell, so this is one statement, and
        none when there is nothing.
        """
        if subjects and connection.info.get("notifies"):
            payload = " ".join(name for name, subject in _SUBJECTS.items() if subject in subjects)
            await connection.execute(select(func.pg_notify(_CHANNEL, payload)))

    async def run(self, on_change: Callable[[Subject], None]) -> None:
        """Call `on_change` with a subject whenever there may have been a change of it; until cancelled.

        It has to return at once and may be told of changes that this process made itself, or of none at all: of
        everything after each loss of the connection, and several times a second where the database can't tell.
        """
        can_listen = self._engine.dialect.name == "postgresql"
        while True:
            try:
                can_listen = can_listen and await self._listen(on_change)
            except Exception as error:  # noqa: BLE001 - the database is away: polling goes on until it is back
                _log.warning("signals.lost", reason=type(error).__name__)
            _tell_everything(on_change)
            await asyncio.sleep(self._poll_seconds)

    async def _listen(self, on_change: Callable[[Subject], None]) -> bool:
        """Listen for as long as the connection lasts; False where there is no use in trying again."""

        def heard(_connection: Any, _process: int, _channel: str, payload: str) -> None:
            for name in payload.split():
                if name in _SUBJECTS:
                    on_change(_SUBJECTS[name])

        async with self._engine.connect() as connection:
            if not connection.info["listens"]:
                return False
            lost = asyncio.Event()
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(lambda _: lost.set())
            try:
                await driver.add_listener(_CHANNEL, heard)
                _log.info("signals.listening")
                # Whatever happened before now was told to others.
                _tell_everything(on_change)
                while not lost.is_set():
                    await driver.fetchval("SELECT 1", timeout=_ANSWER_SECONDS)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_HEARTBEAT_SECONDS):
                            await lost.wait()
            finally:
                # Nobody else gets a connection that listens.
                await connection.invalidate()
        return True


def _tell_everything(on_change: Callable[[Subject], None]) -> None:
    for subject in Subject:
        on_change(subject)
