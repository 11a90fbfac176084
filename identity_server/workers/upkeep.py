"""What is done by the clock: one table of everything that comes round, with cadence and reason.

The rule: what is about the database is done once for all processes that share it. Whoever comes first claims it, by a
lease like a job's: if the holder dies, it runs out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import structlog

from identity_server.domain import retention
from identity_server.domain.ports import Clock
from identity_server.domain.retention import Sweep
from identity_server.index.read_index import ReadIndex
from identity_server.services import Services
from identity_server.storage.database import Database

_log = structlog.get_logger(__name__)

_MINUTE = 60.0
_HOUR = 60 * _MINUTE
_LOOK_SECONDS = 30.0

LEASE_MS = 300_000
"""How long a process that has claimed a chore keeps others from it; longer than any of them takes."""


class Once(Enum):
    """How often a chore is done when its time has come."""

    PER_PROCESS = auto()
    """By every process, because it is about what that process has in its memory."""
    PER_DATABASE = auto()
    """By one of all processes on all machines, because it is about what is in the database."""


@dataclass(frozen=True, slots=True)
class Chore:
    """One row of the schedule.

    Attributes:
        name: what it is called in the database and in the log.
        every_seconds: the pause between two runs.
        reason: why it has to be done, and why so often.
    """

    name: str
    once: Once
    every_seconds: float
    run: Callable[[], Awaitable[object]]
    reason: str


def schedule(services: Services, index: ReadIndex, look_at_keys: Callable[[], Awaitable[None]]) -> tuple[Chore, ...]:
    """Every chore."""
    return (
        Chore(
            "look at the root keys",
            Once.PER_PROCESS,
            2.0,
            look_at_keys,
            "No other process may use one that this one doesn't know; a request that came first would wait for the look.",
        ),
        Chore(
            "follow changes",
            Once.PER_PROCESS,
            0.5,
            index.poll,
            "What other nodes commit is seen within a second; so is what was committed by somebody who then died.",
        ),
        Chore(
            retention.SAVE_INDEX.name,
            Once.PER_PROCESS,
            retention.SAVE_INDEX.every_ms / 1000,
            index.save,
            "The file is never further behind than the change feed goes back, so that a start needn't make it anew.",
        ),
        Chore(
            "retire replaced peppers",
            Once.PER_PROCESS,
            2.0,
            lambda: services.peppers.retire_replaced(index),
            "A new pepper is given out when the grace time of the old one starts; its table stands on all nodes then.",
        ),
        Chore(
            "reload terms",
            Once.PER_PROCESS,
            10.0,
            services.terms.reload,
            "A new version of the terms is asked for without a restart.",
        ),
        Chore(
            "record token uses",
            Once.PER_PROCESS,
            _MINUTE,
            services.accounts.record_token_uses,
            "Tokens die of disuse; a crash forgets a minute of uses at most.",
        ),
        Chore(
            "write down what was asked",
            Once.PER_PROCESS,
            1.0,
            services.lookup_budgets.write_down,
            "What was asked before costs nothing on any worker; a crash forgets a second of it at most.",
        ),
        Chore(
            "give budgets back",
            Once.PER_PROCESS,
            10.0,
            services.lookup_budgets.tidy,
            "What one process has set aside and doesn't need, another one may.",
        ),
        Chore(
            "link the audit journal",
            Once.PER_PROCESS,
            5.0,
            services.journal.link,
            "What isn't linked and signed yet could be removed unnoticed.",
        ),
        Chore(
            "rotate the pepper",
            Once.PER_DATABASE,
            10 * _MINUTE,
            services.peppers.rotate_if_due,
            "A pepper that lives too long makes collected hashes useful.",
        ),
        _sweep(
            retention.DROP_PEPPERS,
            services.peppers.cleanup,
            "A pepper is dropped when its grace is over.",
        ),
        _sweep(
            retention.FORGET_LOOKUPS,
            services.lookup_budgets.cleanup,
            "What was asked under a pepper is nobody's business once that is gone, nor is what a network did yesterday.",
        ),
        Chore(
            "count bound users",
            Once.PER_DATABASE,
            _HOUR,
            services.lookup_budgets.count_bound_users,
            "A homeserver whose users are bound here by the hundred may look up more than one that nobody knows.",
        ),
        _sweep(
            retention.SWEEP_SESSIONS,
            services.validation.cleanup,
            "Addresses that were not validated are nobody's business after a day.",
        ),
        _sweep(
            retention.SWEEP_TOKENS,
            services.accounts.cleanup,
            "Unused tokens are a risk to those who left them.",
        ),
        Chore(
            "empty the database's log",
            Once.PER_DATABASE,
            _HOUR,
            services.erasure_requests.empty_log,
            "SQLite's log holds what was deleted until it happens to be written over.",
        ),
        _sweep(
            retention.SWEEP_UNACCEPTED,
            services.unaccepted_terms.sweep,
            "Where the operator wants it: nothing is kept of people without their consent to the terms in force.",
        ),
        _sweep(
            retention.SWEEP_LIMITS,
            services.limits.cleanup,
            "Who has asked for something is of no use once they may ask for as much again.",
        ),
        _sweep(
            retention.SWEEP_VISITS,
            services.visits.cleanup,
            "People are told that their address is deleted when their visit to the privacy page is over.",
        ),
        _sweep(
            retention.SWEEP_INVITES,
            services.invitations.cleanup,
            "An invite that nobody took up holds an address that nobody proved.",
        ),
        _sweep(
            retention.SWEEP_EPHEMERAL_KEYS,
            services.public_keys.cleanup,
            "Keys of invites are kept until their time.",
        ),
        _sweep(
            retention.SWEEP_PHONE_NUMBERS,
            services.associations.sweep_expired,
            "A number that nobody has proven for so long may be someone else's by now.",
        ),
        _sweep(
            retention.TRIM_CHANGES,
            services.associations.cleanup,
            "A reader further behind than an hour builds its index anew.",
        ),
        _sweep(
            retention.PRUNE_AUDIT,
            services.journal.prune,
            "Even what names no one is kept for a purpose, and only as long as that lasts.",
        ),
        Chore(
            "tell the audit journal's head",
            Once.PER_DATABASE,
            _HOUR,
            services.journal.tell_head,
            "Whoever keeps the log elsewhere can tell if the journal's end was removed.",
        ),
    )


def _sweep(sweep: Sweep, run: Callable[[], Awaitable[object]], reason: str) -> Chore:
    """What the schedule of retention promises."""
    return Chore(sweep.name, Once.PER_DATABASE, sweep.every_ms / 1000, run, reason)


class Upkeep:
    """Does the chores.

    Args:
        holder: tells this process from others.
        count: is told the name and the outcome of every run.
    """

    def __init__(
        self,
        chores: Collection[Chore],
        *,
        database: Database,
        clock: Clock,
        holder: str,
        count: Callable[[str, str], None] = lambda _chore, _outcome: None,
    ) -> None:
        self._own = [chore for chore in chores if chore.once is Once.PER_PROCESS]
        self._shared = [chore for chore in chores if chore.once is Once.PER_DATABASE]
        self._database = database
        self._clock = clock
        self._holder = holder
        self._count = count

    @property
    def names(self) -> tuple[str, ...]:
        """What the chores are called."""
        return tuple(chore.name for chore in (*self._own, *self._shared))

    @property
    def shared_names(self) -> tuple[str, ...]:
        """What those are called that are done once for all processes."""
        return tuple(chore.name for chore in self._shared)

    def run_forever(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What is to run for as long as the process lives, side by side."""
        return (*(self._repeat(chore) for chore in self._own), self._share())

    async def run_due(self) -> int:
        """Do what is due of the chores that are shared, unless others are at it; returns how many that were."""
        now_ms = self._clock.now_ms()
        due_at_ms = await self._database.read(lambda tx: tx.chores.next_run_at_ms())
        due = [chore for chore in self._shared if due_at_ms.get(chore.name, 0) <= now_ms]
        return sum([await self._run_claimed(chore) for chore in due])

    async def _share(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.run_due()
            except Exception:  # noqa: BLE001 - upkeep must outlive a database that is away for a while
                _log.exception("upkeep.failed")

    async def _run_claimed(self, chore: Chore) -> bool:
        now_ms = self._clock.now_ms()
        claimed = await self._database.transaction(
            lambda tx: tx.chores.claim(chore.name, holder=self._holder, now_ms=now_ms, lease_ms=LEASE_MS)
        )
        if not claimed:
            return False
        await self._run(chore)
        # Also if it failed: the next run comes in its time.
        run_at_ms = now_ms + round(1000 * chore.every_seconds)
        await self._database.transaction(
            lambda tx: tx.chores.finish(chore.name, holder=self._holder, run_at_ms=run_at_ms)
        )
        return True

    async def _repeat(self, chore: Chore) -> None:
        """Run a chore of this process's own again and again; the first time within a minute."""
        pause_seconds = min(chore.every_seconds, _MINUTE)
        while True:
            await asyncio.sleep(pause_seconds)
            pause_seconds = chore.every_seconds
            await self._run(chore)

    async def _run(self, chore: Chore) -> None:
        """A failed run is logged, and the next one comes in its time."""
        try:
            await chore.run()
        except Exception:  # noqa: BLE001 - upkeep must outlive a database that is away for a while
            _log.exception("upkeep.failed", chore=chore.name)
            self._count(chore.name, "failed")
        else:
            self._count(chore.name, "done")
