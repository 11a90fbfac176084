"""How the data is: what an operator's monitoring wants to know and only the database can tell.

The rule: one snapshot, a handful of statements. Each finds what it needs by an index, or goes through a table that only
holds what is under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from identity_server.domain.ports import Clock
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Backlog
from identity_server.storage.repositories.validation_sessions import SessionCount


@dataclass(frozen=True, slots=True)
class Signs:
    """How things stood.

    Attributes:
        taken_at_ms: when.
        sessions: the validation sessions, by medium and state.
        jobs: the outbox, by kind.
        pepper_made_at_ms: when the newest pepper was made; None without any.
        missed_at_ms: when the first change of a binding was made that somebody hasn't followed yet; None if all have.
        unlinked_at_ms: when the first entry of the audit journal was written that isn't linked yet; None without any.
        chores_due_at_ms: when each chore is due that was ever done.
    """

    taken_at_ms: int
    sessions: Sequence[SessionCount]
    jobs: Sequence[Backlog]
    pepper_made_at_ms: int | None
    missed_at_ms: int | None
    unlinked_at_ms: int | None
    chores_due_at_ms: Mapping[str, int]


class VitalSigns:
    """Reads them."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def take(self, *, followed: int | None) -> Signs:
        """How things stand now.

        Args:
            followed: the last change of a binding that everybody on this machine knows; None if that isn't known.

        Raises:
            Unavailable: the database doesn't answer.
        """
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> Signs:
            peppers = await tx.peppers.list()
            return Signs(
                taken_at_ms=now_ms,
                sessions=await tx.validation_sessions.count_by_state(now_ms=now_ms),
                jobs=await tx.jobs.backlog(),
                pepper_made_at_ms=peppers[-1].created_at_ms if peppers else None,
                missed_at_ms=None
                if followed is None
                else await tx.associations.first_change_at_ms(after_seq=followed),
                unlinked_at_ms=await tx.audit_chain.waiting_since_ms(),
                chores_due_at_ms=await tx.chores.next_run_at_ms(),
            )

        return await self._database.read(use_case, bulk=True)
