"""Opens the database with its keys: for the server, and for what runs beside it (desks.py)."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from identity_server.config import Config
from identity_server.domain.credentials import CodeHasher
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.signing import SigningKey
from identity_server.key_files import Keys, load_keys
from identity_server.key_watch import LEASE_SECONDS, KeyWatch
from identity_server.storage.database import Database
from identity_server.storage.engines.opening import Engine, database_url, make_engine
from identity_server.storage.schema.upgrade import Schema
from identity_server.storage.sealing.sealer import LiveKeys
from identity_server.storage.sealing.server_keys import add_known_keys, read_key_state
from identity_server.storage.stamps import Stamps
from identity_server.wiring.settings import key_sources, postgresql_settings

_STAMPS_FILE = "stamps"


class IndexProblem(Exception):
    """The lookup index has no place; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A database, and what keeps the keys that belong to it in step with others'."""

    database: Database
    keys: LiveKeys
    signing_key: SigningKey
    watch: KeyWatch


async def open_database(
    config: Config,
    clock: Clock,
    randomness: Randomness,
    stack: AsyncExitStack,
    *,
    key_lease_seconds: float = LEASE_SECONDS,
    next_may_be_missing: bool = False,
    may_make: bool = True,
) -> Opened:
    """Open it, made or upgraded if need be, until the stack is closed.

    Args:
        config: where it is, and where its keys are.
        clock: tells the time of what is made.
        randomness: what keys that are missing are made of.
        stack: closes it.
        key_lease_seconds: how long what was seen of the root keys holds.
        next_may_be_missing: is for who gives the next root key up.
        may_make: whether a database and keys are made where there are none.

    Raises:
        SchemaProblem, KeyProblem, IndexProblem: what the operator has to put right.
    """
    engine = engine_for(config, makes_file=may_make)
    stack.push_async_callback(engine.dispose)
    schema = Schema(engine, conf=config.path)
    if not may_make:
        await schema.require_made()
    if config.db.url is None or config.db.auto_upgrade:
        await schema.upgrade(now_ms=clock.now_ms())
    else:
        await schema.require_current()
    keys, live, watch = await load_keys_for(
        config,
        engine,
        clock,
        randomness,
        holder=f"{socket.gethostname()}, process {os.getpid()}",
        lease_seconds=key_lease_seconds,
        next_may_be_missing=next_may_be_missing,
        may_make=may_make,
    )
    await add_known_keys(engine, keys.new, now_ms=clock.now_ms())
    database = Database(engine, live, stamps=open_stamps(config.index_folder), key_guard=watch)
    stack.push_async_callback(database.close)
    return Opened(database, live, keys.signing, watch)


async def load_keys_for(
    config: Config,
    engine: Engine,
    clock: Clock,
    randomness: Randomness,
    *,
    holder: str | None = None,
    lease_seconds: float = LEASE_SECONDS,
    next_may_be_missing: bool = False,
    may_make: bool = True,
) -> tuple[Keys, LiveKeys, KeyWatch]:
    """The keys of a database whose schema is the expected one; those that are new, it hasn't been told of yet.

    `holder` is what others call this process; None for one that never writes. The rest is as for `open_database`.

    Raises:
        KeyProblem: what the operator has to put right.
    """
    sources, state = key_sources(config), await read_key_state(engine)
    keys = await asyncio.to_thread(
        load_keys,
        sources,
        state,
        randomness=randomness,
        next_may_be_missing=next_may_be_missing,
        may_make=may_make,
    )
    live = LiveKeys(state.with_retired(keys.root, randomness=randomness), randomness=randomness)
    watch = KeyWatch(
        engine=engine,
        live=live,
        state=state,
        sources=sources,
        clock=clock,
        holder=holder,
        lease_seconds=lease_seconds,
    )
    return keys, live, watch


def engine_for(config: Config, *, makes_file: bool = True) -> Engine:
    """The engine of the database that is configured; nothing is connected yet. The rest is as for `make_engine`."""
    url = database_url(url=config.db.url, file=config.db.file, password=config.db.password)
    return make_engine(url, postgresql_settings(config), makes_file=makes_file)


def open_stamps(index_folder: Path) -> Stamps:
    """What the processes of one node tell each other by.

    Raises:
        IndexProblem: the folder can't be written.
    """
    try:
        return Stamps(index_folder / _STAMPS_FILE)
    except OSError as error:
        raise IndexProblem(
            f"the directory of the lookup index, {index_folder}, can't be used ({error.strerror}): give it to the user"
            " that the server runs as, or set `index_dir` in [lookup] to another one"
        ) from None


def make_code_hasher(keys: LiveKeys) -> CodeHasher:
    """Whoever stores a code must hash it as whoever compares it will."""
    return CodeHasher(lambda: keys.ring.code_keys)
