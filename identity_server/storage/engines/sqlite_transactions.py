"""Transactions on SQLite: readers as they come, and writers one after the other, several of them in one commit.

The rule: nobody is answered before what they have written, and what they have read of others, is on the disk. A commit
waits for the disk, and costs more than all that a request writes; so those that queue up meanwhile share the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.connection import Connection
from identity_server.storage.engines.sqlite import SqliteConnection

T = TypeVar("T")
Tx = TypeVar("Tx")

_SAVEPOINT = "one_of_several"
_MOST_IN_A_GROUP = 32
_KEPT_OPEN = 2
"""One to write with, and one to read with."""


class TransactionLost(Exception):
    """A neighbour's failure has undone what was written: to be run again."""


class _Group(Generic[Tx]):
    """Use cases whose work is committed together.

    Attributes:
        members: how many have had their turn, those that failed included.
        transactions: of those that succeeded.
        committed: set when everything is on the disk; otherwise holds what went wrong.
        told: tells others of the commit.
    """

    def __init__(self, connection: SqliteConnection) -> None:
        self.connection = connection
        self.members = 0
        self.transactions: list[Tx] = []
        self.committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.told: asyncio.Future[None] | None = None


class SqliteTransactions(Generic[Tx]):
    """Runs use cases.

    Args:
        engine: where connections come from.
        make: makes what a use case is given.
        committed: is awaited after each commit, with what the use cases in it were given.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        make: Callable[[Connection], Tx],
        committed: Callable[[Sequence[Tx]], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._make = make
        self._committed = committed
        self._open: list[SqliteConnection] = []
        self._turn = asyncio.Lock()
        self._queueing = 0
        self._group: _Group[Tx] | None = None

    async def read(self, use_case: Callable[[Tx], Awaitable[T]], *, inline: bool) -> T:
        """Run a use case on one snapshot."""
        async with self._connection() as connection:
            await connection.begin(inline=inline, writes=False)
            result = await use_case(self._make(connection))
            await connection.commit()
        return result

    async def write(self, use_case: Callable[[Tx], Awaitable[T]], *, inline: bool) -> T:
        """Run a use case when all who came before have had their turn; returns when it is committed.

        Args:
            use_case: what to run.
            inline: it touches a handful of rows by key. Otherwise it has a commit of its own, so that nobody waits for
                it who came before.

        Raises:
            TransactionLost: nothing was written, for no fault of this use case.
        """
        return await (self._write_in_a_group(use_case) if inline else self._write_alone(use_case))

    async def close(self) -> None:
        """Give back all connections."""
        while self._open:
            await self._open.pop().close()

    # --- connections ----------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[SqliteConnection]:
        """A connection for one transaction, which is rolled back if anything goes wrong."""
        connection = await self._take()
        try:
            yield connection
        except BaseException:
            await self._undo(connection)
            raise
        await self._give_back(connection)

    async def _take(self) -> SqliteConnection:
        return self._open.pop() if self._open else await SqliteConnection.open(self._engine)

    async def _give_back(self, connection: SqliteConnection) -> None:
        if len(self._open) < _KEPT_OPEN:
            self._open.append(connection)
        else:
            await connection.close()

    async def _undo(self, connection: SqliteConnection) -> None:
        try:
            await connection.rollback()
        except BaseException:
            await connection.close()
            raise
        await self._give_back(connection)

    # --- writers --------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn_to_write(self) -> AsyncIterator[None]:
        self._queueing += 1
        try:
            await self._turn.acquire()
        finally:
            self._queueing -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def _write_alone(self, use_case: Callable[[Tx], Awaitable[T]]) -> T:
        async with self._turn_to_write():
            await self._commit_group()
            async with self._connection() as connection:
                await connection.begin(inline=False, writes=True)
                transaction = self._make(connection)
                result = await use_case(transaction)
                await connection.commit()
        await self._committed([transaction])
        return result

    async def _write_in_a_group(self, use_case: Callable[[Tx], Awaitable[T]]) -> T:
        failure: BaseException | None = None
        async with self._turn_to_write():
            group = self._group or await self._begin_group()
            transaction = self._make(group.connection)
            try:
                async with self._part_of(group):
                    result = await use_case(transaction)
            except BaseException as error:
                if self._group is not group:
                    raise
                # What it has read may be of others in the group, and so isn't true before the commit.
                failure = error
            else:
                group.transactions.append(transaction)
            if not await self._goes_on(group):
                await self._commit_group()
        await group.committed
        await self._tell(group)
        if failure is not None:
            raise failure
        return result

    async def _begin_group(self) -> _Group[Tx]:
        connection = await self._take()
        try:
            await connection.begin(inline=True, writes=True)
        except BaseException:
            await self._undo(connection)
            raise
        self._group = _Group(connection)
        return self._group

    @asynccontextmanager
    async def _part_of(self, group: _Group[Tx]) -> AsyncIterator[None]:
        """Undo what the block has written if it fails, and that alone."""
        is_first = group.members == 0
        group.members += 1
        try:
            if not is_first:
                await group.connection.savepoint(_SAVEPOINT)
            yield
            if not is_first:
                await group.connection.release(_SAVEPOINT)
        except BaseException:
            if is_first or not group.connection.in_transaction:
                await self._dissolve(group)
            else:
                await group.connection.rollback_to(_SAVEPOINT)
            raise

    async def _dissolve(self, group: _Group[Tx]) -> None:
        self._group = None
        group.committed.set_exception(TransactionLost())
        if not group.transactions:
            # Nobody waits for it.
            group.committed.exception()
        await self._undo(group.connection)

    async def _goes_on(self, group: _Group[Tx]) -> bool:
        """Whether somebody is left who will commit the group."""
        if group.members >= _MOST_IN_A_GROUP:
            return False
        if not self._queueing:
            # For those who have something to write in this very turn of the event loop.
            await asyncio.sleep(0)
        return self._queueing > 0

    async def _commit_group(self) -> None:
        group, self._group = self._group, None
        if group is None:
            return
        try:
            await group.connection.commit()
        except Exception as error:  # noqa: BLE001 - those whose work it was are told
            group.committed.set_exception(error)
            await self._undo(group.connection)
        except BaseException:
            group.committed.cancel()
            await self._undo(group.connection)
            raise
        else:
            group.committed.set_result(None)
            await self._give_back(group.connection)

    async def _tell(self, group: _Group[Tx]) -> None:
        """Have it told that the group is committed: once for all, and before any of them goes on."""
        if group.told is None:
            group.told = asyncio.ensure_future(self._committed(group.transactions))
        await asyncio.shield(group.told)
