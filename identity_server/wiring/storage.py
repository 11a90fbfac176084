"""Opens the database with its keys: for the server, and for commands that run beside it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from identity_server.api.invitations import sign_link
from identity_server.config import Config
from identity_server.domain.credentials import CodeHasher
from identity_server.domain.durations import DAY_MS
from identity_server.domain.ports import (
    Clock,
    Randomness,
)
from identity_server.domain.signing import SigningKey
from identity_server.key_files import load_keys, make_next_root_key
from identity_server.key_watch import LEASE_SECONDS, KeyWatch
from identity_server.outbound.system import SystemClock, SystemRandomness
from identity_server.services.account_desk import AccountDesk
from identity_server.services.audit_check import AuditCheck
from identity_server.services.audit_desk import AuditDesk
from identity_server.services.backlog import Backlog
from identity_server.services.invite_desk import InviteDesk
from identity_server.services.invite_mails import InviteMails, InviteStyle
from identity_server.services.journal import Journal
from identity_server.services.peppers import Peppers
from identity_server.services.root_key import MakeNext, RootKeyRotation
from identity_server.storage.database import Database
from identity_server.storage.engine import IN_MEMORY, Engine, database_url, make_engine
from identity_server.storage.key_ring import ROOT_KEY_BYTES, KeyRing, RootKey
from identity_server.storage.schema import Schema
from identity_server.storage.sealing import LiveKeys
from identity_server.storage.server_keys import add_known_keys, read_key_state
from identity_server.storage.stamps import Stamps
from identity_server.wiring.settings import key_sources, postgresql_settings

_STAMPS_FILE = "stamps"
# What a clock that runs a little slower, or a process that is woken a little later, may make of the rest.
_SETTLING_MARGIN_SECONDS = 2.0


class IndexProblem(Exception):
    """The lookup index has no place; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The database alone, for the command line."""

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
    """The database, made or upgraded if need be; a server may be running beside it.

    Raises:
        SchemaProblem, KeyProblem: what the operator has to put right.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        opened = await open_database(config, clock, randomness, stack)
        yield Storage(opened.database, opened.keys, make_code_hasher(opened.keys), clock, randomness)


@asynccontextmanager
async def look_into_storage(config: Config) -> AsyncIterator[Storage]:
    """The database as it is, for whoever writes nothing; an empty one in memory where there is none yet.

    Raises:
        SchemaProblem, KeyProblem: what the operator has to put right.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        in_use = await _is_in_use(config)
        engine = engine_for(config) if in_use else make_engine(IN_MEMORY)
        stack.push_async_callback(engine.dispose)
        if in_use:
            live, watch = await _load_root_keys(config, engine, clock, randomness)
            database = Database(engine, live, key_guard=watch)
        else:
            await Schema(engine).upgrade(now_ms=clock.now_ms())
            live = LiveKeys(KeyRing(RootKey(randomness.token_bytes(ROOT_KEY_BYTES))), randomness=randomness)
            database = Database(engine, live)
        stack.push_async_callback(database.close)
        yield Storage(database, live, make_code_hasher(live), clock, randomness)


async def _load_root_keys(
    config: Config, engine: Engine, clock: Clock, randomness: Randomness
) -> tuple[LiveKeys, KeyWatch]:
    sources, state = key_sources(config), await read_key_state(engine)
    keys = await asyncio.to_thread(load_keys, sources, state, randomness=randomness)
    live = LiveKeys(state.with_retired(keys.root, randomness=randomness), randomness=randomness)
    return live, KeyWatch(engine=engine, live=live, state=state, sources=sources, clock=clock, holder=None)


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


@asynccontextmanager
async def open_invite_desk(config: Config) -> AsyncIterator[InviteDesk]:
    """The invites alone, for the command line; a server may be running beside it."""
    async with open_storage(config) as storage:
        mails = make_invite_mails(config, storage.clock, storage.randomness)
        yield InviteDesk(database=storage.database, clock=storage.clock, mails=mails)


@asynccontextmanager
async def open_account_desk(config: Config) -> AsyncIterator[AccountDesk]:
    """What is stored under Matrix IDs alone, for the command line; a server may be running beside it."""
    async with open_storage(config) as storage:
        yield AccountDesk(database=storage.database, clock=storage.clock)


@asynccontextmanager
async def open_peppers(config: Config) -> AsyncIterator[Peppers]:
    """The peppers alone, for the command line; a server may be running beside it."""
    async with open_storage(config) as storage:
        yield make_peppers(config, storage.clock, storage.randomness, storage.database)


@asynccontextmanager
async def open_audit(config: Config) -> AsyncIterator[AuditTools]:
    """The audit journal alone, for the command line; a server may be running beside it."""
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        opened = await open_database(config, clock, randomness, stack)
        yield AuditTools(
            check=AuditCheck(database=opened.database, signing_key=opened.signing_key),
            desk=AuditDesk(database=opened.database),
            journal=make_journal(config, clock, opened.database, opened.signing_key),
        )


@asynccontextmanager
async def open_backlog(config: Config) -> AsyncIterator[Backlog]:
    """The outbox's backlog alone, for the command line; a server may be running beside it."""
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        opened = await open_database(config, clock, randomness, stack)
        yield Backlog(database=opened.database, clock=clock)


@asynccontextmanager
async def open_rotation(config: Config, *, next_may_be_missing: bool = False) -> AsyncIterator[RootKeyRotation]:
    """What replaces the root key, for the command line; servers may be running beside it.

    With `next_may_be_missing` the next root key can be given up although it is lost.
    """
    clock, randomness = SystemClock(), SystemRandomness()
    async with AsyncExitStack() as stack:
        opened = await open_database(config, clock, randomness, stack, next_may_be_missing=next_may_be_missing)
        yield RootKeyRotation(
            database=opened.database,
            clock=clock,
            keys=opened.keys,
            look=opened.watch.look,
            make_next=next_key_maker(config, randomness),
            settle_seconds=LEASE_SECONDS + opened.database.straggling_seconds + _SETTLING_MARGIN_SECONDS,
        )


def engine_for(config: Config) -> Engine:
    """The engine of the database that is configured; nothing is connected yet."""
    url = database_url(url=config.db.url, file=config.db.file, password=config.db.password)
    return make_engine(url, postgresql_settings(config))


def next_key_maker(config: Config, randomness: Randomness) -> MakeNext:
    """Puts the next root key where the configuration wants it."""

    async def make_next() -> tuple[str, bytes | None]:
        root, salt = await asyncio.to_thread(make_next_root_key, key_sources(config), randomness=randomness)
        return root.fingerprint, salt

    return make_next


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
) -> Opened:
    engine = engine_for(config)
    stack.push_async_callback(engine.dispose)
    schema = Schema(engine, conf=config.path)
    if config.db.url is None or config.db.auto_upgrade:
        await schema.upgrade(now_ms=clock.now_ms())
    else:
        await schema.require_current()
    sources, state = key_sources(config), await read_key_state(engine)
    keys = await asyncio.to_thread(
        load_keys, sources, state, randomness=randomness, next_may_be_missing=next_may_be_missing
    )
    await add_known_keys(engine, keys.new, now_ms=clock.now_ms())
    live = LiveKeys(state.with_retired(keys.root, randomness=randomness), randomness=randomness)
    watch = KeyWatch(
        engine=engine,
        live=live,
        state=state,
        sources=sources,
        clock=clock,
        holder=f"{socket.gethostname()}, process {os.getpid()}",
        lease_seconds=key_lease_seconds,
    )
    database = Database(engine, live, stamps=open_stamps(config.index_folder), key_guard=watch)
    stack.push_async_callback(database.close)
    return Opened(database, live, keys.signing, watch)


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


def make_journal(config: Config, clock: Clock, database: Database, signing_key: SigningKey) -> Journal:
    keep_ms = config.audit.keep_days * DAY_MS
    return Journal(database=database, clock=clock, signing_key=signing_key, keep_ms=keep_ms)


def make_peppers(config: Config, clock: Clock, randomness: Randomness, database: Database) -> Peppers:
    return Peppers(
        database=database,
        clock=clock,
        randomness=randomness,
        rotation_ms=config.lookup.pepper_rotation_days * DAY_MS,
        grace_ms=config.lookup.pepper_grace_seconds * 1000,
    )


def make_invite_mails(config: Config, clock: Clock, randomness: Randomness) -> InviteMails:
    style = InviteStyle(
        web_client=config.email.default_web_client_location,
        subject=config.email.invite_subject,
        subject_space=config.email.invite_subject_space,
        subject_is_set=("email", "email.invite.subject") in config.given,
    )
    return InviteMails(
        clock=clock,
        randomness=randomness,
        style=style,
        sign_link=lambda token, key: sign_link(config.public_base_url, token, key),
        message_id_domain=config.mail_host,
    )
