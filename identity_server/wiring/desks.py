"""What operators' commands work with: one part of the system each, on the database; a server may be running beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from identity_server.config import Config
from identity_server.domain.credentials import CodeHasher
from identity_server.domain.ports import Clock, Randomness
from identity_server.index.building import INDEX_FILE
from identity_server.key_files import make_next_root_key
from identity_server.key_watch import LEASE_SECONDS
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.services.associations.bind_notices import NoticeWriter
from identity_server.services.audit.check import AuditCheck
from identity_server.services.audit.desk import AuditDesk
from identity_server.services.audit.journal import Journal
from identity_server.services.erasure.removal import Erasure
from identity_server.services.invites.desk import InviteDesk
from identity_server.services.keys.root_rotation import MakeNext, RootKeyRotation
from identity_server.services.lookup.peppers import Peppers
from identity_server.services.outbox.backlog import Backlog
from identity_server.services.privacy.desk import AccountDesk
from identity_server.storage.database import Database
from identity_server.storage.engines.opening import IN_MEMORY, make_engine
from identity_server.storage.schema.upgrade import Schema
from identity_server.storage.sealing.key_ring import ROOT_KEY_BYTES, KeyRing, RootKey
from identity_server.storage.sealing.sealer import LiveKeys
from identity_server.wiring.index import make_build
from identity_server.wiring.services import make_erasure, make_invite_mails, make_journal, make_peppers
from identity_server.wiring.settings import key_sources
from identity_server.wiring.storage import Opened, engine_for, load_keys_for, make_code_hasher, open_database

# What a clock that runs a little slower, or a process that is woken a little later, may make of the rest.
_SETTLING_MARGIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Storage:
    """The database alone."""

    database: Database
    keys: LiveKeys
    code_hasher: CodeHasher
    clock: Clock
    randomness: Randomness


@dataclass(frozen=True, slots=True)
class AuditTools:
    """What can be done with the audit journal."""

    check: AuditCheck
    desk: AuditDesk
    journal: Journal


@asynccontextmanager
async def open_storage(config: Config) -> AsyncIterator[Storage]:
    """The database, made or upgraded if need be.

    Raises:
        SchemaProblem, KeyProblem: what the operator has to put right; so do all the others here.
    """
    async with _opened(config) as (opened, clock, randomness):
        yield Storage(opened.database, opened.keys, make_code_hasher(opened.keys), clock, randomness)


@asynccontextmanager
async def look_into_storage(config: Config) -> AsyncIterator[Storage]:
    """The database as it is, for whoever writes nothing; an empty one in memory where there is none yet."""
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        in_use = await _is_in_use(config)
        engine = engine_for(config) if in_use else make_engine(IN_MEMORY)
        stack.push_async_callback(engine.dispose)
        if in_use:
            _, live, watch = await load_keys_for(config, engine, clock, randomness)
            database = Database(engine, live, key_guard=watch)
        else:
            await Schema(engine).upgrade(now_ms=clock.now_ms())
            live = LiveKeys(KeyRing(RootKey(randomness.token_bytes(ROOT_KEY_BYTES))), randomness=randomness)
            database = Database(engine, live)
        stack.push_async_callback(database.close)
        yield Storage(database, live, make_code_hasher(live), clock, randomness)


@asynccontextmanager
async def open_invite_desk(config: Config) -> AsyncIterator[InviteDesk]:
    """The invites."""
    async with open_storage(config) as storage:
        mails = make_invite_mails(config, storage.clock, storage.randomness)
        yield InviteDesk(database=storage.database, clock=storage.clock, mails=mails)


@asynccontextmanager
async def open_account_desk(config: Config) -> AsyncIterator[AccountDesk]:
    """What is stored under Matrix IDs."""
    async with open_storage(config) as storage:
        yield AccountDesk(database=storage.database, clock=storage.clock)


@asynccontextmanager
async def open_peppers(config: Config) -> AsyncIterator[Peppers]:
    """The peppers."""
    async with open_storage(config) as storage:
        yield make_peppers(config, storage.clock, storage.randomness, storage.database)


@asynccontextmanager
async def open_backlog(config: Config) -> AsyncIterator[Backlog]:
    """What waits in the outbox."""
    async with open_storage(config) as storage:
        yield Backlog(database=storage.database, clock=storage.clock)


@asynccontextmanager
async def open_audit(config: Config) -> AsyncIterator[AuditTools]:
    """The audit journal."""
    async with _opened(config) as (opened, clock, _):
        yield AuditTools(
            check=AuditCheck(database=opened.database, signing_key=opened.signing_key),
            desk=AuditDesk(database=opened.database),
            journal=make_journal(config, clock, opened.database, opened.signing_key),
        )


@asynccontextmanager
async def open_erasure(config: Config) -> AsyncIterator[Erasure]:
    """What erases people, out of the index file of this machine, too, if there is one.

    Raises:
        IndexProblem: as `open_database`.
    """
    async with _opened(config) as (opened, clock, randomness):
        build = make_build(config, clock, opened.database, opened.keys)

        async def rewrite_index() -> None:
            # Also what a process that was killed meanwhile has left of a new one.
            if any(config.index_folder.glob(f"{INDEX_FILE}*")):
                await build()

        notices = NoticeWriter(randomness=randomness, signing_key=opened.signing_key)
        yield make_erasure(opened.database, clock, notices, rewrite_index)


@asynccontextmanager
async def open_rotation(config: Config, *, next_may_be_missing: bool = False) -> AsyncIterator[RootKeyRotation]:
    """What replaces the root key; with `next_may_be_missing` the next one can be given up although it is lost."""
    async with _opened(config, next_may_be_missing=next_may_be_missing) as (opened, clock, randomness):
        settle_seconds = LEASE_SECONDS + opened.database.straggling_seconds + _SETTLING_MARGIN_SECONDS
        yield RootKeyRotation(
            database=opened.database,
            clock=clock,
            keys=opened.keys,
            look=opened.watch.look,
            make_next=next_key_maker(config, randomness),
            settle=partial(asyncio.sleep, settle_seconds),
        )


def next_key_maker(config: Config, randomness: Randomness) -> MakeNext:
    """Puts the next root key where the configuration wants it."""

    async def make_next() -> tuple[str, bytes | None]:
        root, salt = await asyncio.to_thread(make_next_root_key, key_sources(config), randomness=randomness)
        return root.fingerprint, salt

    return make_next


@asynccontextmanager
async def _opened(
    config: Config, *, next_may_be_missing: bool = False
) -> AsyncIterator[tuple[Opened, Clock, Randomness]]:
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        opened = await open_database(config, clock, randomness, stack, next_may_be_missing=next_may_be_missing)
        yield opened, clock, randomness


async def _is_in_use(config: Config) -> bool:
    """Whether there is a database yet; it must have the expected schema."""
    if config.db.url is None and not await asyncio.to_thread(_has_content, config.db.file):
        return False
    engine = engine_for(config)
    try:
        schema = Schema(engine, conf=config.path)
        if (await schema.status()).current is None:
            return False
        await schema.require_current()
    finally:
        await engine.dispose()
    return True


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
