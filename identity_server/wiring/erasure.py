"""Puts together what erases people: for the server, and for commands that run beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from identity_server.config import Config
from identity_server.domain.ports import Clock
from identity_server.index.building import INDEX_FILE
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.services.bind_notices import NoticeWriter
from identity_server.services.erasure import Erasure
from identity_server.services.waiting_jobs import WaitingJobs
from identity_server.storage.database import Database
from identity_server.wiring.index import make_build
from identity_server.wiring.storage import open_database

SETTLING_SECONDS = 2.0
"""Twice as long as any process takes a token for good that isn't any more."""


@asynccontextmanager
async def open_erasure(config: Config) -> AsyncIterator[Erasure]:
    """The database alone, and the index file of this machine if there is one.

    Raises:
        SchemaProblem, KeyProblem, IndexProblem: what the operator has to put right.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        opened = await open_database(config, clock, randomness, stack)
        database = opened.database
        build = make_build(config, clock, database, opened.keys)

        async def rewrite_index() -> None:
            # Also what a process that was killed meanwhile has left of a new one.
            if any(config.index_folder.glob(f"{INDEX_FILE}*")):
                await build()

        notices = NoticeWriter(randomness=randomness, signing_key=opened.signing_key)
        yield make_erasure(database, clock, notices, rewrite_index)


def make_erasure(
    database: Database, clock: Clock, notices: NoticeWriter, rewrite_index: Callable[[], Awaitable[None]]
) -> Erasure:
    return Erasure(
        database=database,
        clock=clock,
        look_for_jobs=partial(WaitingJobs, database=database, clock=clock, notices=notices),
        rewrite_index=rewrite_index,
        settling_seconds=SETTLING_SECONDS,
    )
