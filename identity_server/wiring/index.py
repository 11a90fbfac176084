"""Puts the read index together, and has its file made: here while it is small, else in a process of its own.

    python -m identity_server.wiring.index < order.json

Making a large index keeps a processor busy for seconds, which would be felt by every request in between.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import orjson

from identity_server.config import Config
from identity_server.domain.hashing import Algorithm
from identity_server.domain.ports import Clock
from identity_server.index.building import INDEX_FILE, IndexBuilder
from identity_server.index.keys import LookupKeys
from identity_server.index.read_index import ReadIndex
from identity_server.observability import log_what_nobody_awaits, set_up_logging
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.storage.database import Database
from identity_server.storage.engines.opening import database_url, make_engine
from identity_server.storage.sealing.key_ring import KeyRing, RootKey
from identity_server.storage.sealing.sealer import LiveKeys
from identity_server.wiring.storage import open_stamps

_SMALL = 20_000
"""So many associations are indexed in less time than a process needs to start."""
_NICENESS = 10


class BuildFailed(Exception):
    """The process that should make the index has not; it says why in the log."""


def make_index(config: Config, clock: Clock, database: Database, keys: LiveKeys) -> ReadIndex:
    return ReadIndex(
        database=database,
        keys=lambda: _derived_from(keys.ring.sealing),
        path=config.index_folder / INDEX_FILE,
        build=make_build(config, clock, database, keys),
        offers_plain=_offers_plain(config),
    )


def make_build(config: Config, clock: Clock, database: Database, keys: LiveKeys) -> Callable[[], Awaitable[None]]:
    """What brings the index file of this machine up to date, and tells everybody on it."""
    folder, offers_plain = config.index_folder, _offers_plain(config)
    url = database_url(url=config.db.url, file=config.db.file).render_as_string(hide_password=False)

    async def build() -> None:
        ring = keys.ring
        if await database.read(lambda tx: tx.associations.are_at_most(_SMALL), bulk=True):
            # Not those that lookups use: a part of the work is done in another thread.
            own = LookupKeys(ring.sealing)
            await IndexBuilder(
                database=database, clock=clock, keys=own, folder=folder, offers_plain=offers_plain
            ).build()
        else:
            await _build_apart(_Order(url, ring.live, folder, offers_plain))

    return build


@lru_cache(maxsize=1)
def _derived_from(root_key: RootKey) -> LookupKeys:
    return LookupKeys(root_key)


def _offers_plain(config: Config) -> bool:
    return Algorithm.NONE in config.lookup.algorithms


@dataclass(frozen=True, slots=True, repr=False)
class _Order:
    """What a process of its own has to know.

    Attributes:
        root_keys: all that rows may be sealed by; the lookup key is derived from the first.
    """

    database_url: str
    root_keys: tuple[RootKey, ...]
    folder: Path
    offers_plain: bool

    def to_json(self) -> bytes:
        root_keys = [key.to_text() for key in self.root_keys]
        return orjson.dumps([self.database_url, root_keys, str(self.folder), self.offers_plain])

    @classmethod
    def from_json(cls, text: bytes) -> _Order:
        url, root_keys, folder, offers_plain = orjson.loads(text)
        return cls(url, tuple(map(RootKey.parse, root_keys)), Path(folder), offers_plain)


async def _build_apart(order: _Order) -> None:
    """Have a process of its own make the file. It never outlives this call.

    Raises:
        BuildFailed: it didn't.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=PIPE)
    try:
        # By its standard input, where nobody else on the machine can read the keys.
        await process.communicate(order.to_json())
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BuildFailed(f"making the lookup index ended with status {process.returncode}")


async def _carry_out(order: _Order) -> None:
    engine = make_engine(database_url(url=order.database_url, file=Path()), makes_file=False)
    sealing, *others = order.root_keys
    live = LiveKeys(KeyRing(sealing, tuple(others)), randomness=SystemRandomness())
    database = Database(engine, live, stamps=open_stamps(order.folder))
    try:
        keys = LookupKeys(sealing)
        await IndexBuilder(
            database=database, clock=SystemClock(), keys=keys, folder=order.folder, offers_plain=order.offers_plain
        ).build()
    finally:
        await database.close()


def main() -> None:
    """Make the file that is ordered on standard input."""
    os.nice(_NICENESS)
    os.umask(0o077)
    set_up_logging(level="WARNING", form="console", path=None)
    log_what_nobody_awaits()
    asyncio.run(_carry_out(_Order.from_json(sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
