"""The database as services see it: use cases run in transactions, and may be run again.

The rule: a use case has no effect outside its transaction, so that losing a race means running it once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.domain.errors import Unavailable
from identity_server.storage.activity import Activity, PoolState
from identity_server.storage.connection import Connection
from identity_server.storage.engines.postgresql import (
    LONGEST_TRANSACTION_SECONDS,
    TRANSACTION_SECONDS,
    begin_with_limits,
    is_away,
    is_broken_constraint,
    is_lost_race,
)
from identity_server.storage.engines.sqlite import BUSY_SECONDS, DataVersion, is_busy, is_out_of_order
from identity_server.storage.engines.sqlite_file import sqlite_file
from identity_server.storage.engines.sqlite_transactions import SqliteTransactions, TransactionLost
from identity_server.storage.erasure.remains import Remains
from identity_server.storage.erasure.rows import Erasures
from identity_server.storage.file_place import FilePlace
from identity_server.storage.moving.exports import Exports
from identity_server.storage.moving.imports import Imports
from identity_server.storage.notifications import CommitSignals
from identity_server.storage.repositories.accounts import AccessTokens, Accounts
from identity_server.storage.repositories.associations import Associations
from identity_server.storage.repositories.audit import Audit
from identity_server.storage.repositories.audit_chain import AuditChain
from identity_server.storage.repositories.budgets import Budgets
from identity_server.storage.repositories.chores import Chores
from identity_server.storage.repositories.consent import Consents
from identity_server.storage.repositories.ephemeral_keys import EphemeralKeys
from identity_server.storage.repositories.invites import Invites
from identity_server.storage.repositories.jobs import Jobs
from identity_server.storage.repositories.peppers import Peppers
from identity_server.storage.repositories.rate_limits import RateLimits
from identity_server.storage.repositories.refusals import Refusals
from identity_server.storage.repositories.validation_sessions import ValidationSessions
from identity_server.storage.repositories.visits import Visits
from identity_server.storage.sealing.resealing import Resealing
from identity_server.storage.sealing.sealer import NO_OTHER_KEYS, KeyGuard, LiveKeys, Sealer
from identity_server.storage.sealing.server_keys import ServerKeys
from identity_server.storage.stamps import Stamps, Subject

T = TypeVar("T")
_log = structlog.get_logger(__name__)

_SETTLING_MS = 120_000
"""Twice as long as a transaction may take, and a minute for clocks that differ."""
_OTHER_NODES_SECONDS = 1.0
_RUNS = 4
# PostgreSQL takes neighbours in an index for the same row, so in small tables strangers get in each other's way.
_RUNS_AMONG_MANY_WRITERS = 20
_OFTEN = 4
_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a use case does.

    Attributes:
        purpose: its name in what is counted.
        writes: whether it may.
        options: SQLAlchemy's, where transactions differ.
    """

    purpose: str
    writes: bool
    options: Mapping[str, Any] = field(default_factory=dict)


_WRITES = _Kind("write", writes=True)
# A snapshot is all that a reader needs, and so it can't be in the way of those who write.
_READS = _Kind("read", writes=False, options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
_CLAIMS = _Kind("claim", writes=True, options={"isolation_level": "READ COMMITTED"})


class Transaction:
    """One unit of work: all repositories on one connection.

    Attributes:
        key_ids: of every root key that rows may be sealed by; the one that seals now comes first.
    """

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self.key_ids = sealer.key_ids
        self.accounts = Accounts(connection)
        self.access_tokens = AccessTokens(connection)
        self.validation_sessions = ValidationSessions(connection, sealer)
        self.associations = Associations(connection, sealer)
        self.peppers = Peppers(connection)
        self.jobs = Jobs(connection, sealer)
        self.rate_limits = RateLimits(connection, sealer)
        self.budgets = Budgets(connection, sealer)
        self.ephemeral_keys = EphemeralKeys(connection)
        self.invites = Invites(connection, sealer)
        self.refusals = Refusals(connection, sealer)
        self.visits = Visits(connection, sealer)
        self.audit = Audit(connection, sealer)
        self.audit_chain = AuditChain(connection)
        self.imports = Imports(connection)
        self.exports = Exports(connection)
        self.chores = Chores(connection)
        self.consents = Consents(connection)
        self.erasures = Erasures(connection, sealer, self.associations, self.access_tokens)
        self.server_keys = ServerKeys(connection, sealer)
        self.resealing = Resealing(connection, sealer)

    @property
    def news(self) -> frozenset[Subject]:
        """What other processes should hear of once this has been committed."""
        changed = {
            Subject.LOOKUPS: self.associations.changed or self.peppers.changed,
            Subject.ACCOUNTS: self.access_tokens.revoked,
        }
        return frozenset(subject for subject, is_changed in changed.items() if is_changed)


class Database:
    """Runs use cases in transactions.

    Followers are awaited after every commit that changed associations or peppers, before the caller goes on:
    so that whoever has bound an address finds it in the next lookup.

    Args:
        keys: what is read and written in it is sealed by.
        key_guard: makes sure, before each transaction, that no other process may be using a root key that is unknown
            here; without, no root key is ever replaced.
        stamps: tell the node's other processes of such commits; without, nobody shares this database.

    Attributes:
        signals: how other processes' commits are learnt of.
        activity: what this process has done with it.
        remains: what is left in files of what was deleted.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keys: LiveKeys,
        *,
        stamps: Stamps | None = None,
        key_guard: KeyGuard = NO_OTHER_KEYS,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._key_guard = key_guard
        self.stamps = stamps or Stamps()
        self.signals = CommitSignals(engine)
        self.activity = Activity()
        self.remains = Remains(engine)
        self._followers: list[Callable[[], Awaitable[None]]] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._one_writer = engine.dialect.name == "sqlite"
        self._sqlite = SqliteTransactions(engine, make=self._make, committed=self._tell) if self._one_writer else None
        # SQLite's file is locked by nobody who is out of reach, and imports may take their time.
        self._transaction_seconds: float | None = None if self._one_writer else TRANSACTION_SECONDS
        self._runs = _RUNS if self._one_writer else _RUNS_AMONG_MANY_WRITERS
        self._turn = asyncio.Lock()
        self._often_lost: set[asyncio.Task[Any]] = set()
        file = sqlite_file(engine.url)
        self._place = None if file is None else FilePlace(file)
        self._data_version = DataVersion(file) if self._one_writer else None

    def follow(self, follower: Callable[[], Awaitable[None]]) -> None:
        """Have `follower` awaited after every commit that changes what lookups answer."""
        self._followers.append(follower)

    async def transaction(self, use_case: Callable[[Transaction], Awaitable[T]], *, bulk: bool = False) -> T:
        """Run a use case that writes; commits when it returns, rolls back when it raises.

        Once started it runs to its end even if the caller is cancelled, so that nothing is left half done.
        A lost race (serialization failure, deadlock, busy database) runs it again: up to three times, or nineteen
        where there is more than one writer.

        Args:
            use_case: has no effect but on the database.
            bulk: it may touch more than a handful of rows, or look for them without a key.

        Raises:
            Unavailable: the database stayed busy or could not be reached.
        """
        return await self._shielded(self._run(use_case, _WRITES, inline=not bulk))

    async def claim(self, use_case: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run a use case that makes rows its own by locking them, each of its statements on its own snapshot.

        Where others are serialized, it neither waits for them nor makes them run again: so whoever looks for work
        every second disturbs nobody.
        """
        # What is due may be all that piled up in an outage.
        return await self._shielded(self._run(use_case, _CLAIMS, inline=False))

    async def read(self, use_case: Callable[[Transaction], Awaitable[T]], *, bulk: bool = False) -> T:
        """Run a use case that only reads, on one consistent snapshot; `bulk` is as for `transaction`."""
        return await self._shielded(self._run(use_case, _READS, inline=not bulk))

    @property
    def pool(self) -> PoolState | None:
        """How its connections are used now; None where there is nothing to wait for."""
        return PoolState.of(self._engine.pool)

    @property
    def was_replaced(self) -> bool:
        """Whether another file has taken the place of the one that this process has open, which nobody else uses then."""
        return self._place is not None and self._place.is_anothers

    @property
    def may_have_other_nodes(self) -> bool:
        """Whether the database may serve others than the processes of this machine."""
        return not self._one_writer

    @property
    def straggling_seconds(self) -> float:
        """How long after it held its keys a process may still write with them, unless it keeps all others waiting."""
        return BUSY_SECONDS if self._one_writer else LONGEST_TRANSACTION_SECONDS

    @property
    def settling_ms(self) -> int:
        """How long ago an entry of the change feed must have been made for all earlier ones to be there."""
        return 0 if self._one_writer else _SETTLING_MS

    @property
    def unannounced_seconds(self) -> float | None:
        """How long what was read is sure to hold if no stamp tells otherwise; None for ever.

        Where the database may serve several nodes, only those on this one share its stamps.
        """
        return None if self._one_writer else _OTHER_NODES_SECONDS

    def committed_elsewhere(self) -> bool:
        """Whether anybody may have committed since this was last asked; for those who don't share the stamps."""
        return self._data_version is None or self._data_version.has_moved()

    async def ping(self) -> None:
        """Prove that the database answers.

        Raises:
            Unavailable: it doesn't.
        """
        try:
            self._require_in_place()
            async with asyncio.timeout(self._transaction_seconds), self._engine.connect() as connection:
                # Who only wants to know whether it answers doesn't queue for the write lock.
                await connection.execution_options(no_begin=True)
                await connection.execute(text("SELECT 1"))
        except (DBAPIError, OSError, PoolTimeout) as error:
            raise Unavailable from error

    async def close(self) -> None:
        """Let running transactions end, and close every connection."""
        while self._running:
            await asyncio.wait(self._running)
        if self._data_version:
            self._data_version.close()
        if self._sqlite:
            await self._sqlite.close()
        await self._engine.dispose()

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _run(self, use_case: Callable[[Transaction], Awaitable[T]], kind: _Kind, *, inline: bool) -> T:
        reason: object
        for run in range(1, self._runs + 1):
            self.activity.begin(kind.purpose, self._engine.pool)
            try:
                if self._sqlite:
                    self._require_in_place()
                    await self._key_guard.hold()
                    if kind.writes:
                        return await self._sqlite.write(self._while_keys_hold(use_case), inline=inline)
                    return await self._sqlite.read(use_case, inline=inline)
                # Those queue that have lost a race, so that they don't lose it to each other again; and everybody, so that
                # those don't lose it for good to whoever comes next.
                async with self._turn if kind is _WRITES and (run > 1 or self._often_lost) else nullcontext():
                    # Not before: nobody knows how long one waits for one's turn.
                    await self._key_guard.hold()
                    return await self._on_postgresql(use_case, kind)
            except TransactionLost as error:
                reason = error
            except DBAPIError as error:
                if is_away(error) or is_out_of_order(error.orig):
                    raise self._away(error) from error
                if not _worth_another_run(error) or (run == self._runs and is_broken_constraint(error)):
                    raise
                reason = error.orig
            except (OSError, PoolTimeout) as error:
                raise self._away(error) from error
            if run == _OFTEN and (task := asyncio.current_task()):
                self._often_lost.add(task)
                task.add_done_callback(self._often_lost.discard)
            self.activity.reruns += 1
            _log.info("transaction.rerun", run=run, reason=type(reason).__name__)
            await asyncio.sleep(min(_PAUSE_SECONDS * 2**run, _LONGEST_PAUSE_SECONDS))
        raise Unavailable

    def _require_in_place(self) -> None:
        """Refuse to go on with a file that was moved or removed: what is written to it, nobody may find again."""
        if self._place is not None:
            self._place.require()

    def _while_keys_hold(
        self, use_case: Callable[[Transaction], Awaitable[T]]
    ) -> Callable[[Transaction], Awaitable[T]]:
        """The same, unless it has waited for its turn so long that the keys have to be looked at again."""

        async def checked(tx: Transaction) -> T:
            if not self._key_guard.holds:
                raise TransactionLost
            return await use_case(tx)

        return checked

    async def _on_postgresql(self, use_case: Callable[[Transaction], Awaitable[T]], kind: _Kind) -> T:
        async with asyncio.timeout(self._transaction_seconds), self._engine.connect() as connection:
            await connection.execution_options(**kind.options)
            async with connection.begin():
                await begin_with_limits(connection)
                transaction = self._make(Connection(connection))
                result = await use_case(transaction)
                await self.signals.announce(connection, transaction.news)
        await self._tell([transaction])
        return result

    def _make(self, connection: Connection) -> Transaction:
        return Transaction(connection, self._keys.sealer)

    async def _tell(self, committed: Sequence[Transaction]) -> None:
        news = {subject for transaction in committed for subject in transaction.news}
        for subject in news:
            self.stamps.renew(subject)
        if Subject.LOOKUPS in news:
            await self._tell_followers()

    def _away(self, error: Exception) -> Unavailable:
        self.activity.outages += 1
        cause = getattr(error, "orig", None) or error
        # Only its kind: what a database says may quote what it was asked.
        _log.warning("database.away", reason=type(cause.__cause__ or cause).__name__)
        return Unavailable()

    async def _tell_followers(self) -> None:
        for follower in self._followers:
            try:
                await follower()
            except Exception:  # noqa: BLE001 - the commit stands; a follower catches up when it is next asked
                _log.warning("transaction.follower_failed", exc_info=True)


def _worth_another_run(error: DBAPIError) -> bool:
    return is_lost_race(error) or is_busy(error.orig)
