"""What waits in the outbox, for the operator who wonders after an outage."""

from __future__ import annotations

from identity_server.domain.audit import AuditEvent
from identity_server.domain.ports import Clock
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Waiting


class Backlog:
    """Shows what waits, and has it tried sooner. Works beside a running server, which looks once a second."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def now_ms(self) -> int:
        """The time that the jobs' times are to be compared with."""
        return self._clock.now_ms()

    async def list(self) -> list[Waiting]:
        """What waits, by kind and queue; those that wait longest first."""
        return await self._database.read(lambda tx: tx.jobs.list_waiting(), bulk=True)

    async def retry(self, *, claimed_too: bool = False) -> int:
        """Commit that whatever waits for a later try is due now; returns how many jobs that were.

        Args:
            claimed_too: also what a server seems to be trying at this moment; right only while none runs.
        """
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> int:
            count = await tx.jobs.hasten(now_ms=now_ms, claimed_too=claimed_too)
            if count:
                await tx.audit.add(AuditEvent.JOBS_RETRIED, now_ms=now_ms, count=count)
            return count

        return await self._database.transaction(use_case, bulk=True)
