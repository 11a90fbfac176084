"""What is done by the clock: one table of everything that comes round, with cadence and reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from identity_server.index.read_index import ReadIndex
from identity_server.services import Services

_log = structlog.get_logger(__name__)

_MINUTE = 60.0
_HOUR = 60 * _MINUTE


@dataclass(frozen=True, slots=True)
class Chore:
    """One row of the schedule.

    Attributes:
        every_seconds: the pause between two runs.
        reason: why it has to be done, and why so often.
    """

    name: str
    every_seconds: float
    run: Callable[[], Awaitable[object]]
    reason: str


def schedule(services: Services, index: ReadIndex) -> tuple[Chore, ...]:
    """Every chore."""
    return (
        Chore(
            "follow changes",
            0.5,
            index.poll,
            "What other nodes commit is seen within a second; so is what was committed by somebody who then died.",
        ),
        Chore(
            "save the index",
            20 * _MINUTE,
            index.save,
            "The file is never further behind than the change feed goes back, so that a start needn't make it anew.",
        ),
        Chore(
            "retire replaced peppers",
            2.0,
            lambda: services.peppers.retire_replaced(index),
            "The grace time of an old pepper starts when this server gives out the new one.",
        ),
        Chore(
            "reload terms",
            10.0,
            services.terms.reload,
            "A new version of the terms is asked for without a restart.",
        ),
        Chore(
            "record token uses",
            _MINUTE,
            services.accounts.record_token_uses,
            "Tokens die of disuse; a crash forgets a minute of uses at most.",
        ),
        Chore(
            "rotate the pepper",
            10 * _MINUTE,
            services.peppers.rotate_if_due,
            "A pepper that lives too long makes collected hashes useful.",
        ),
        Chore(
            "drop old peppers", 10 * _MINUTE, services.peppers.cleanup, "A pepper is dropped when its grace is over."
        ),
        Chore(
            "sweep validation sessions",
            _HOUR,
            services.validation.cleanup,
            "Addresses that were not validated are nobody's business after a day.",
        ),
        Chore(
            "sweep access tokens",
            _HOUR,
            services.accounts.cleanup,
            "Unused tokens are a risk to those who left them.",
        ),
        Chore(
            "sweep invites",
            _HOUR,
            services.invitations.cleanup,
            "An invite that nobody took up holds an address that nobody proved.",
        ),
        Chore(
            "sweep ephemeral keys", _HOUR, services.public_keys.cleanup, "Keys of invites are kept until their time."
        ),
        Chore(
            "trim the change feed",
            _HOUR,
            services.associations.cleanup,
            "A reader further behind than an hour builds its index anew.",
        ),
    )


async def run_forever(chore: Chore) -> None:
    """Run one chore again and again; a failed run is logged, and the next one comes in its time.

    The first run comes within a minute, so that a server which is restarted every hour sweeps, too.
    """
    pause_seconds = min(chore.every_seconds, _MINUTE)
    while True:
        await asyncio.sleep(pause_seconds)
        pause_seconds = chore.every_seconds
        try:
            await chore.run()
        except Exception:  # noqa: BLE001 - upkeep must outlive a database that is away for a while
            _log.exception("upkeep.failed", chore=chore.name)
