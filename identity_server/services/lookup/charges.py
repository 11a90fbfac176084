"""Charges that can't be spent of what is set aside: those that come while others are being committed share the next transaction.

The rule: a lookup is answered once its charge is committed, or is refused, and neither has to do with the others in its
transaction. A lookup that nobody waits for any more is charged nothing, or if it is too late for that, all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from identity_server.domain.budgets import Holder
from identity_server.index.keys import Halves
from identity_server.services.lookup.asked_addresses import Asked, AskedAddresses
from identity_server.services.lookup.budget_ledger import BudgetLedger, Claim, Request
from identity_server.storage.repositories.budgets import AskedRow

_MOST_TOGETHER = 64
_MOST_KEYS_TOGETHER = 10_000
"""A transaction keeps others waiting, and what it stores is sealed meanwhile."""


@dataclass(frozen=True, slots=True)
class _Charge:
    """Keys that an account has asked for; `done` says that they are charged, or why they can't be."""

    asked: Asked
    keys: Halves
    claims: Sequence[Claim]
    done: asyncio.Future[None]


class Charges:
    """Charges accounts, many at once, and each of them for one lookup at a time."""

    def __init__(self, *, ledger: BudgetLedger, asked: AskedAddresses) -> None:
        self._ledger = ledger
        self._asked = asked
        self._waiting: deque[_Charge] = deque()
        self._together: dict[Holder, _Charge] = {}
        self._at_work: asyncio.Task[None] | None = None

    def is_charging(self, account: Holder) -> bool:
        """Whether an account is being charged for what isn't known yet to have been asked for."""
        return account in self._together

    async def charge(self, account: Holder, keys: Halves, claims: Sequence[Claim]) -> None:
        """Charge an account for those keys that it hasn't asked for.

        Raises:
            RateLimited, TooManyAddresses: nothing is charged.
            Unavailable: the database can't be asked.
        """
        charge = _Charge(self._asked.of(account), keys, claims, asyncio.get_running_loop().create_future())
        self._waiting.append(charge)
        if self._at_work is None:
            # It begins when all have had their turn that are ready now.
            self._at_work = asyncio.create_task(self._work())
        await charge.done

    async def close(self) -> None:
        """Let what has begun end."""
        if self._at_work is not None:
            await asyncio.wait({self._at_work})

    async def _work(self) -> None:
        try:
            while self._waiting:
                self._together = self._take_some()
                await self._settle(list(self._together.values()))
        finally:
            self._together = {}
            self._at_work = None

    def _take_some(self) -> dict[Holder, _Charge]:
        """Those whose turn it is: one of each account, or two could both be charged for the same address."""
        together: dict[Holder, _Charge] = {}
        keys, later = 0, deque[_Charge]()
        for charge in self._waiting:
            if charge.done.done():
                continue
            keys += len(charge.keys)
            is_full = together and (keys > _MOST_KEYS_TOGETHER or len(together) >= _MOST_TOGETHER)
            if is_full or charge.asked.holder in together:
                later.append(charge)
            else:
                together[charge.asked.holder] = charge
        self._waiting = later
        return together

    async def _settle(self, charges: Sequence[_Charge]) -> None:
        try:
            await self._charge(charges)
        except Exception as error:  # noqa: BLE001 - those who wait are told
            for charge in charges:
                if not charge.done.done():
                    charge.done.set_exception(error)
        finally:
            # Nobody is left, unless this was ended itself.
            for charge in charges:
                charge.done.cancel()

    async def _charge(self, charges: Sequence[_Charge]) -> None:
        await self._asked.complete(charge.asked for charge in charges)
        requests: list[tuple[_Charge, Halves, AskedRow]] = []
        for charge in charges:
            new = charge.asked.keys.missing(charge.keys)
            if not len(new):
                _tell(charge)
            elif self._ledger.spend(charge.claims, len(new)):
                self._asked.note(charge.asked, new)
                _tell(charge)
            else:
                row = self._asked.row(charge.asked.holder, new.tobytes())
                requests.append((charge, new, row))
        refusals = await self._ledger.acquire(
            [Request(charge.claims, len(new), row) for charge, new, row in requests]
        )
        for (charge, new, row), refusal in zip(requests, refusals, strict=True):
            if refusal is None:
                self._asked.note_written(row, charge.asked, new)
            _tell(charge, refusal)


def _tell(charge: _Charge, refusal: Exception | None = None) -> None:
    """Say that it is charged, unless nobody waits any more."""
    if charge.done.done():
        return
    if refusal is None:
        charge.done.set_result(None)
    else:
        charge.done.set_exception(refusal)
