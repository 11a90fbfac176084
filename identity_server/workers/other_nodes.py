"""Follows what other nodes commit, where the database serves more than one.

The rule: nobody waits for this. A node that hears of nothing finds out by itself within a second (workers/upkeep.py).
"""

from __future__ import annotations

import asyncio

import structlog

from identity_server.index.read_index import ReadIndex
from identity_server.storage.database import Database
from identity_server.storage.stamps import Subject

_log = structlog.get_logger(__name__)


async def follow_other_nodes(database: Database, index: ReadIndex) -> None:
    """Catch up with every commit that is announced, for as long as the process lives."""
    news = asyncio.Event()

    def hear(subject: Subject) -> None:
        if subject is Subject.ACCOUNTS:
            database.stamps.renew(subject)
        else:
            news.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(database.signals.run(hear))
        while True:
            await news.wait()
            # Before looking: what is announced meanwhile is looked for once more.
            news.clear()
            try:
                await index.catch_up()
            except Exception:  # noqa: BLE001 - the database is away for a while
                _log.warning("other_nodes.not_followed", exc_info=True)
