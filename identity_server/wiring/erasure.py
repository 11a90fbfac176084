"""Opens what erases people, for the command line; a server may be running beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from identity_server.config import Config
from identity_server.index.building import INDEX_FILE
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.services.bind_notices import NoticeWriter
from identity_server.services.erasure import Erasure
from identity_server.services.waiting_jobs import WaitingJobs
from identity_server.wiring.index import make_build
from identity_server.wiring.storage import open_database

_SETTLING_SECONDS = 2.0
"""Twice as long as any process takes a token for good that isn't any more."""


@asynccontextmanager
async def open_erasure(config: Config) -> AsyncIterator[Erasure]:
    """The database alone, and the index file of this machine if there is one.

    Raises:
        SchemaProblem, KeyProblem, IndexProblem: what the operator has to put right.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        database, live, signing_key = await open_database(config, clock, randomness, stack)
        build = make_build(config, clock, database, live)

        async def rewrite_index() -> None:
            if (config.index_folder / INDEX_FILE).exists():
                await build()

        notices = NoticeWriter(randomness=randomness, signing_key=signing_key)
        yield Erasure(
            database=database,
            clock=clock,
            jobs=WaitingJobs(database=database, clock=clock, notices=notices),
            rewrite_index=rewrite_index,
            settling_seconds=_SETTLING_SECONDS,
        )
