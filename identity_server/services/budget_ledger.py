"""Budgets as this process uses them: it sets some aside in the database, and spends that without asking again.

The rule: nothing is spent that hasn't been set aside before by a transaction that is committed. So all processes together
never spend more than there is; what one had set aside when it died is lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from identity_server.domain.budgets import (
    Budget,
    BudgetKind,
    BudgetRules,
    Holder,
    Usage,
    day_of,
    end_of_day_ms,
    to_set_aside,
)
from identity_server.domain.durations import MINUTE_MS
from identity_server.domain.errors import RateLimited, TooManyAddresses
from identity_server.domain.ports import Clock
from identity_server.storage.database import Database, Transaction

_IDLE_MS = 30_000
"""What nobody has needed for so long is given back."""
_BELIEVED_MS = 5_000
"""For so long nobody asks the database again whether something is left by now."""
_OF_HOMESERVERS = frozenset({BudgetKind.HOMESERVER, BudgetKind.DOMAIN})

_USED_UP = "Too many different addresses have been looked up; try again later, or ask for fewer."

Note = Callable[[Transaction], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something is to be counted for a holder.

    Attributes:
        epoch_ms: when its first day began.
        renewed_at_ms: when it has all of its budget again; None where that is so on every day.
    """

    holder: Holder
    epoch_ms: int = 0
    renewed_at_ms: int | None = None


class _Shortage(NamedTuple):
    """A claim that can't be met: what its holder has used, and of how much."""

    claim: Claim
    budget: Budget
    usage: Usage


@dataclass(slots=True)
class _Pool:
    """What this process has of a budget.

    Attributes:
        amount: set aside and not spent.
        spent: on this day.
        shortage: what was found in the database when it wasn't enough.
        believed_until_ms: how long it isn't asked again.
    """

    day: int
    used_at_ms: int
    amount: int = 0
    spent: int = 0
    shortage: _Shortage | None = None
    believed_until_ms: int = 0

    def spend(self, amount: int, *, now_ms: int) -> None:
        self.amount -= amount
        self.spent += amount
        self.used_at_ms = now_ms


class BudgetLedger:
    """Spends for several holders at once, or for none of them."""

    def __init__(self, *, database: Database, clock: Clock, rules: BudgetRules) -> None:
        self._database = database
        self._clock = clock
        self._rules = rules
        self._pools: dict[Holder, _Pool] = {}

    def spend(self, claims: Sequence[Claim], amount: int) -> bool:
        """Spend of what is set aside; False if that isn't enough, and then nothing is spent."""
        now_ms = self._clock.now_ms()
        pools = [self._pool(claim, now_ms) for claim in claims]
        if any(pool.amount < amount for pool in pools):
            return False
        for pool in pools:
            pool.spend(amount, now_ms=now_ms)
        return True

    async def acquire(self, claims: Sequence[Claim], amount: int, *, note: Note) -> None:
        """Spend what has to be set aside first. Commits that, and what `note` writes.

        Raises:
            RateLimited: not so much is left of one of them; nothing is spent then.
            TooManyAddresses: nor ever will be.
            Unavailable: the database can't be asked.
        """
        now_ms = self._clock.now_ms()
        self._refuse_again(claims, amount, now_ms)
        pools = [self._pool(claim, now_ms) for claim in claims]
        # Taken out for as long as the database is asked: of what is left here, others spend meanwhile.
        taken = [min(pool.amount, amount) for pool in pools]
        for pool, some in zip(pools, taken, strict=True):
            pool.amount -= some
        short = {
            claim: (amount - some, pool.spent)
            for claim, pool, some in zip(claims, pools, taken, strict=True)
            if some < amount
        }
        # Should this fail, it may have been committed all the same: then what was taken out is better lost.
        found = await self._database.transaction(lambda tx: self._set_aside(tx, short, note, now_ms))
        if isinstance(found, dict):
            for claim, pool in zip(claims, pools, strict=True):
                pool.amount += found.get(claim, 0)
                pool.spent += amount
            return
        for pool, some in zip(pools, taken, strict=True):
            pool.amount += some
        for shortage in found:
            pool = self._pool(shortage.claim, now_ms)
            pool.shortage, pool.believed_until_ms = shortage, now_ms + _BELIEVED_MS
        raise _refusal(found, amount, now_ms)

    async def _set_aside(
        self, tx: Transaction, short: dict[Claim, tuple[int, int]], note: Note, now_ms: int
    ) -> dict[Claim, int] | list[_Shortage]:
        """Take what is needed, and some more; returns what that is, or whose budget isn't enough."""
        holders = [claim.holder for claim in short]
        usages = await tx.budgets.find(holders)
        homeservers = [holder for holder in holders if holder.kind in _OF_HOMESERVERS]
        bound = await tx.budgets.count_bound(homeservers) if homeservers else {}
        refused, more = [], {}
        changes: list[tuple[Holder, Usage]] = []
        for claim, (needed, used_before) in short.items():
            budget = self._rules.budget(claim.holder.kind, bound_users=bound.get(claim.holder, 0))
            usage, day = usages.get(claim.holder, Usage()), day_of(now_ms, epoch_ms=claim.epoch_ms)
            left = budget.left(usage, day=day) - needed
            if left < 0:
                refused.append(_Shortage(claim, budget, usage))
                continue
            more[claim] = to_set_aside(left, used_before=used_before)
            changes.append((claim.holder, budget.use(usage, needed + more[claim], day=day)))
        if refused:
            return refused
        for holder, usage in changes:
            await (tx.budgets.save if holder in usages else tx.budgets.add)(holder, usage)
        await note(tx)
        return more

    def _refuse_again(self, claims: Sequence[Claim], amount: int, now_ms: int) -> None:
        """Whoever asks for too much again and again costs the database nothing."""
        refused = []
        for claim in claims:
            pool = self._pool(claim, now_ms)
            if pool.shortage is None or now_ms >= pool.believed_until_ms:
                continue
            if pool.shortage.budget.left(pool.shortage.usage, day=pool.day) + pool.amount < amount:
                refused.append(pool.shortage)
        if refused:
            raise _refusal(refused, amount, now_ms)

    async def give_back(self, *, idle_ms: int = _IDLE_MS) -> None:
        """Commit that others may have what was set aside here and hasn't been needed for a while."""
        now_ms = self._clock.now_ms()
        idle = {holder: pool for holder, pool in self._pools.items() if now_ms >= pool.used_at_ms + idle_ms}
        for holder in idle:
            del self._pools[holder]
        returned = {holder: pool for holder, pool in idle.items() if pool.amount}

        async def use_case(tx: Transaction) -> None:
            usages = await tx.budgets.find(returned)
            for holder, usage in usages.items():
                # What is left of a day that is over is nothing.
                if usage.day == returned[holder].day:
                    await tx.budgets.save(holder, usage.without(returned[holder].amount))

        if returned:
            await self._database.transaction(use_case, bulk=True)

    def _pool(self, claim: Claim, now_ms: int) -> _Pool:
        day = day_of(now_ms, epoch_ms=claim.epoch_ms)
        pool = self._pools.get(claim.holder)
        if pool is None or pool.day != day:
            pool = self._pools[claim.holder] = _Pool(day, now_ms)
        return pool


def _refusal(shortages: Sequence[_Shortage], amount: int, now_ms: int) -> RateLimited | TooManyAddresses:
    """What to tell: of several that are short, the one that has to be waited for longest."""
    waits = []
    for shortage in shortages:
        wait_ms = _wait_ms(shortage, amount, now_ms)
        if wait_ms is None:
            return TooManyAddresses("So many addresses can't be looked up at once; ask for fewer.")
        waits.append((wait_ms, shortage.claim.holder.kind))
    wait_ms, kind = max(waits)
    return RateLimited(wait_ms, _USED_UP, limit=f"{kind} budget")


def _wait_ms(shortage: _Shortage, amount: int, now_ms: int) -> int | None:
    """How long until so many may be asked for, if nobody asks for any until then; None for ever."""
    claim, budget, usage = shortage
    day = day_of(now_ms, epoch_ms=claim.epoch_ms)
    if budget.suffices_tomorrow(usage, amount, day=day):
        return end_of_day_ms(max(day, usage.day), epoch_ms=claim.epoch_ms) - now_ms
    if claim.renewed_at_ms is not None and budget.ever_suffices(amount):
        return max(claim.renewed_at_ms - now_ms, MINUTE_MS)
    return None
