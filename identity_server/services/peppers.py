"""The pepper's life: made, taken into use once an index stands, retired, honoured for a while, dropped."""

from __future__ import annotations

from identity_server.domain.audit import AuditEvent
from identity_server.domain.hashing import PEPPER_LENGTH, Pepper, pepper_from
from identity_server.domain.ports import Clock, Randomness
from identity_server.index.read_index import ReadIndex
from identity_server.storage.database import Database, Transaction


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
        """Commit a new pepper. It comes into use when the running server has built its table."""
        await self._database.transaction(self._rotate)

    async def rotate_if_due(self) -> None:
        """Rotate when the newest pepper has reached its age."""

        async def use_case(tx: Transaction) -> None:
            newest = (await tx.peppers.list())[-1]
            if self._clock.now_ms() >= newest.created_at_ms + self._rotation_ms:
                await self._rotate(tx)

        await self._database.transaction(use_case)

    async def retire_replaced(self, index: ReadIndex) -> None:
        """Commit the start of the grace time for peppers that this index no longer gives out."""
        await index.refresh()
        in_use = index.pepper
        if any(pepper.id < in_use.id and pepper.retired_at_ms is None for pepper in await self.list()):
            now_ms = self._clock.now_ms()
            await self._database.transaction(lambda tx: tx.peppers.retire_before(in_use.id, now_ms=now_ms))

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
