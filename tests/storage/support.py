"""Looks at what runs on SQLite, and where."""

from __future__ import annotations

import threading

from identity_server.storage.database import Database, Transaction
from identity_server.storage.engines.sqlite import DriverConnection

HERE, THREAD = "here", "thread"


def where() -> str:
    """Whose thread this is: the event loop's, or a driver's."""
    return HERE if threading.current_thread() is threading.main_thread() else THREAD


class Trace:
    """The statements of a database's only connection, by their first word, with where each ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    @classmethod
    async def of(cls, database: Database) -> Trace:
        """The trace of a database that nobody has used yet."""
        traced = cls()

        async def use_case(tx: Transaction) -> None:
            driver = (await tx.accounts._connection.sqlalchemy.get_raw_connection()).driver_connection
            assert isinstance(driver, DriverConnection)
            await driver.set_trace_callback(traced.note)

        await database.read(use_case)
        traced.take()
        return traced

    def note(self, statement: str) -> None:
        word = statement.split(maxsplit=1)[0]
        if word != "PRAGMA":
            self.seen.append((word, where()))

    def take(self) -> list[tuple[str, str]]:
        """What was seen since the last time."""
        taken, self.seen = self.seen, []
        return taken

    def count(self, word: str) -> int:
        """How often a statement of this kind was seen."""
        return sum(each == word for each, _ in self.seen)
