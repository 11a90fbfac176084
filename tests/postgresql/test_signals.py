"""How one process learns that another has committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from identity_server.domain.identifiers import UserId
from identity_server.storage.database import Database, Transaction
from identity_server.storage.engines.opening import make_engine
from identity_server.storage.engines.postgresql import PostgresqlSettings
from identity_server.storage.notifications import CommitSignals
from identity_server.storage.stamps import Subject
from tests.support import make
from tests.support.databases import PATIENT, connect_to, url_for
from tests.support.fakes import START_MS

pytestmark = pytest.mark.postgresql(reason="NOTIFY")

ALICE = UserId("@alice:example.org")


class Heard:
    """What a process was told."""

    def __init__(self) -> None:
        self.subjects: list[Subject] = []
        self._news = asyncio.Event()

    def __call__(self, subject: Subject) -> None:
        self.subjects.append(subject)
        self._news.set()

    async def at_least(self, *subjects: Subject, times: int = 1) -> None:
        """Wait until each of these has been heard so many times since last time."""
        async with asyncio.timeout(60):
            while any(self.subjects.count(subject) < times for subject in subjects):
                self._news.clear()
                await self._news.wait()
        self.subjects.clear()


@asynccontextmanager
async def listening(signals: CommitSignals) -> AsyncIterator[Heard]:
    heard = Heard()
    task = asyncio.create_task(signals.run(heard))
    try:
        await heard.at_least(Subject.LOOKUPS, Subject.ACCOUNTS)
        yield heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_commits_are_told_by_what_they_changed(database: Database, other: Database) -> None:
    async with listening(other.signals) as heard:
        await database.transaction(lambda tx: tx.associations.put(1, make.association()))
        await heard.at_least(Subject.LOOKUPS)
        await database.transaction(lambda tx: tx.peppers.add("pepper", now_ms=START_MS))
        await heard.at_least(Subject.LOOKUPS)
        await database.transaction(lambda tx: tx.access_tokens.remove(b"digest"))
        await heard.at_least(Subject.ACCOUNTS)

        async def both(tx: Transaction) -> None:
            await tx.associations.remove(make.email(), now_ms=START_MS)
            await tx.access_tokens.remove(b"digest")

        await database.transaction(both)
        await heard.at_least(Subject.LOOKUPS, Subject.ACCOUNTS)


async def test_nothing_is_told_of_what_was_undone_or_concerns_nobody(database: Database, other: Database) -> None:
    async with listening(other.signals) as heard:

        async def undone(tx: Transaction) -> None:
            await tx.associations.put(1, make.association())
            raise KeyError

        with pytest.raises(KeyError):
            await database.transaction(undone)
        await database.transaction(lambda tx: tx.accounts.add_if_new(ALICE, now_ms=START_MS))
        # Signals arrive in the order of their commits: what comes first is what was first told.
        await database.transaction(lambda tx: tx.access_tokens.remove(b"digest"))
        async with asyncio.timeout(60):
            while not heard.subjects:
                await asyncio.sleep(0.005)
        assert heard.subjects == [Subject.ACCOUNTS]


async def test_lost_connection_is_made_again_and_everything_told(
    database: Database, other: Database, tmp_path: Path
) -> None:
    async with listening(other.signals) as heard:
        connection = await connect_to(tmp_path / "identity.db")
        killed = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.close()
        assert killed
        # Once because it was lost, once because it is there again; which may be before this is looked at.
        await heard.at_least(Subject.LOOKUPS, Subject.ACCOUNTS, times=2)
        await database.transaction(lambda tx: tx.associations.put(1, make.association()))
        await heard.at_least(Subject.LOOKUPS)


@pytest.mark.parametrize("settings", [replace(PATIENT, notifies=False), replace(PATIENT, pooler=True)])
async def test_where_nobody_can_be_told_everybody_looks(
    database: Database, tmp_path: Path, settings: PostgresqlSettings
) -> None:
    engine = make_engine(url_for(tmp_path / "identity.db"), settings)
    async with listening(CommitSignals(engine, poll_seconds=0.01)) as heard:
        for _ in range(3):
            await heard.at_least(Subject.LOOKUPS, Subject.ACCOUNTS)
    await engine.dispose()
