"""The pepper's life: made, taken into use once an index stands, retired, honoured for a while, dropped.

The rule: a new pepper is given out by everybody as soon as the former one is retired, which is in the database, and not
before. So nobody is told of a pepper that another process doesn't know, and the grace time is the same for all.
"""

from __future__ import annotations

from identity_server.domain.audit import AuditEvent
from identity_server.domain.durations import HOUR_MS
from identity_server.domain.hashing import PEPPER_LENGTH, Pepper, pepper_from
from identity_server.domain.ports import Clock, Randomness
from identity_server.index.read_index import ReadIndex
from identity_server.storage.database import Database, Transaction

_SHORTEST_WAIT_MS = 10_000
_LONGEST_WAIT_MS = HOUR_MS


class Peppers:
    """Rotates peppers. May be used without an index, as the command line does: a running server follows.

    Args:
        rotation_ms: the age at which a pepper is replaced.
        grace_ms: how long a retired pepper is still honoured.
    """

    def __init__(
        self, *, database: Database, clock: Clock, randomness: Randomness, rotation_ms: int, grace_ms: int
    ) -> None:
        self._database = database
        self._clock = clock
        self._randomness = randomness
        self._rotation_ms = rotation_ms
        self._grace_ms = grace_ms
        self._table_seen_at_ms: dict[int, int] = {}

    async def list(self) -> list[Pepper]:
        """All peppers that the database holds, the oldest first."""
        return await self._database.read(lambda tx: tx.peppers.list())

    async def ensure_one(self) -> None:
        """Commit a first pepper if there is none yet."""

        async def use_case(tx: Transaction) -> None:
            if not await tx.peppers.list():
                await self._add(tx)

        await self._database.transaction(use_case)

    async def rotate(self) -> None:
        """Commit a new pepper. It comes into use when running servers have built its table."""
        await self._database.transaction(self._rotate)

    async def rotate_if_due(self) -> None:
        """Rotate when the newest pepper has reached its age."""

        async def use_case(tx: Transaction) -> None:
            newest = (await tx.peppers.list())[-1]
            if self._clock.now_ms() >= newest.created_at_ms + self._rotation_ms:
                await self._rotate(tx)

        await self._database.transaction(use_case)

    async def retire_replaced(self, index: ReadIndex) -> None:
        """Commit the start of the grace time for the peppers before the newest that this index can answer for.

        Where other nodes may have to build a table, too, they are given twice the time that it took here.
        """
        await index.refresh()
        newest = index.newest_pepper
        if not any(pepper.id < newest.id and pepper.retired_at_ms is None for pepper in await self.list()):
            return
        now_ms = self._clock.now_ms()
        if now_ms >= self._in_use_from_ms(newest, now_ms=now_ms):
            await self._database.transaction(lambda tx: tx.peppers.retire_before(newest.id, now_ms=now_ms))

    def _in_use_from_ms(self, pepper: Pepper, *, now_ms: int) -> int:
        """When everybody can be expected to have a table for it, as this process has."""
        if not self._database.may_have_other_nodes:
            return now_ms
        seen_at_ms = self._table_seen_at_ms.setdefault(pepper.id, now_ms)
        took_ms = seen_at_ms - pepper.created_at_ms
        return seen_at_ms + min(max(took_ms, _SHORTEST_WAIT_MS), _LONGEST_WAIT_MS)

    async def cleanup(self) -> int:
        """Commit the removal of peppers whose grace time is over; returns how many."""
        before_ms = self._clock.now_ms() - self._grace_ms
        return await self._database.transaction(lambda tx: tx.peppers.cleanup(retired_before_ms=before_ms))

    async def _add(self, tx: Transaction) -> None:
        value = pepper_from(self._randomness.token_bytes(2 * PEPPER_LENGTH))
        await tx.peppers.add(value, now_ms=self._clock.now_ms())

    async def _rotate(self, tx: Transaction) -> None:
        await self._add(tx)
        await tx.audit.add(AuditEvent.PEPPER_ROTATED, now_ms=self._clock.now_ms())
