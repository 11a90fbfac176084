"""Budgets as this process uses them: it sets some aside in the database, and spends that without asking again.

The rule: nothing is spent that hasn't been set aside before by a transaction that is committed. So all processes together
never spend more than there is; what one had set aside when it died is lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
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
from identity_server.storage.repositories.budgets import AskedRow

_IDLE_MS = 30_000
"""What nobody has needed for so long is given back."""
_BELIEVED_MS = 5_000
"""For so long nobody asks the database again whether something is left by now."""
_UNUSED = Usage()
_OF_HOMESERVERS = frozenset({BudgetKind.HOMESERVER, BudgetKind.DOMAIN})

_USED_UP = "Too many different addresses have been looked up; try again later, or ask for fewer."

Refusal = RateLimited | TooManyAddresses


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


@dataclass(frozen=True, slots=True)
class Request:
    """Something is to be counted for several holders at once, or for none of them.

    Attributes:
        amount: how much.
        row: is stored if it is counted.
    """

    claims: Sequence[Claim]
    amount: int
    row: AskedRow | None = None


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


@dataclass(slots=True)
class _Stock:
    """What there is for a holder while a transaction lasts.

    Attributes:
        wanted: by all requests together.
        ready: taken out of the pool: of what is left there, others spend meanwhile.
        spent: of all that, by requests that aren't refused.
        budget, usage: as the database knows them, where `ready` may not be enough.
    """

    claim: Claim
    pool: _Pool
    wanted: int = 0
    ready: int = 0
    spent: int = 0
    budget: Budget | None = None
    usage: Usage = _UNUSED

    def shortage(self, amount: int) -> _Shortage | None:
        """What there is to be said if so many can't be spent."""
        if self.budget is None or amount <= self.ready + self.budget.left(self.usage, day=self.pool.day):
            return None
        return _Shortage(self.claim, self.budget, self.usage)

    def spend(self, amount: int) -> None:
        """Spend so many; what is not ready is set aside, and some more."""
        needed = amount - self.ready
        if self.budget is not None and needed > 0:
            left = self.budget.left(self.usage, day=self.pool.day) - needed
            more = to_set_aside(left, used_before=self.pool.spent + self.spent)
            self.usage = self.budget.use(self.usage, needed + more, day=self.pool.day)
            self.ready += needed + more
        self.ready -= amount
        self.spent += amount

    def put_back(self, *, now_ms: int) -> None:
        """What is left of it; what was spent has been committed."""
        self.pool.amount += self.ready
        if self.spent:
            self.pool.spent += self.spent
            self.pool.used_at_ms = max(self.pool.used_at_ms, now_ms)


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

    async def acquire(self, requests: Sequence[Request]) -> list[Refusal | None]:
        """Spend what has to be set aside first, for one request after the other; says which of them are refused, and why.

        Commits what is spent and set aside, and the rows that come with it. Of a request that is refused nothing is spent
        or stored: `RateLimited` if so much isn't left of one of its holders, `TooManyAddresses` if it never will be.

        Raises:
            Unavailable: the database can't be asked. It may all have been committed, or nothing of it.
        """
        now_ms = self._clock.now_ms()
        refusals = [self._refused_again(request, now_ms) for request in requests]
        asking = [request for request, refusal in zip(requests, refusals, strict=True) if refusal is None]
        if not asking:
            return refusals
        taken_out = self._take_out(asking, now_ms)
        # Should this fail, it may have been committed all the same: then what was taken out is better lost.
        stocks, shortages = await self._database.transaction(lambda tx: self._set_aside(tx, asking, taken_out))
        for stock in stocks.values():
            stock.put_back(now_ms=now_ms)
        for shortage in itertools.chain.from_iterable(shortages):
            pool = stocks[shortage.claim.holder].pool
            pool.shortage, pool.believed_until_ms = shortage, now_ms + _BELIEVED_MS
        verdicts = iter(shortages)
        return [
            refusal or _refusal(next(verdicts), request.amount, now_ms)
            for request, refusal in zip(requests, refusals, strict=True)
        ]

    def _take_out(self, requests: Sequence[Request], now_ms: int) -> dict[Holder, _Stock]:
        stocks: dict[Holder, _Stock] = {}
        for request in requests:
            for claim in request.claims:
                stock = stocks.get(claim.holder)
                if stock is None:
                    stock = stocks[claim.holder] = _Stock(claim, self._pool(claim, now_ms))
                stock.wanted += request.amount
        for stock in stocks.values():
            stock.ready = min(stock.pool.amount, stock.wanted)
            stock.pool.amount -= stock.ready
        return stocks

    async def _set_aside(
        self, tx: Transaction, requests: Sequence[Request], taken_out: Mapping[Holder, _Stock]
    ) -> tuple[dict[Holder, _Stock], list[list[_Shortage]]]:
        """What there is then of everything, and for each request whose budget isn't enough for it."""
        # Of copies, because it may have to be done again.
        stocks = {
            holder: _Stock(stock.claim, stock.pool, stock.wanted, stock.ready) for holder, stock in taken_out.items()
        }
        short = {holder: stock for holder, stock in stocks.items() if stock.wanted > stock.ready}
        usages = await tx.budgets.find(short)
        homeservers = [holder for holder in short if holder.kind in _OF_HOMESERVERS]
        bound = await tx.budgets.count_bound(homeservers) if homeservers else {}
        for holder, stock in short.items():
            stock.budget = self._rules.budget(holder.kind, bound_users=bound.get(holder, 0))
            stock.usage = usages.get(holder, _UNUSED)
        shortages = [_spend(request, stocks) for request in requests]
        changed = {
            holder: stock.usage for holder, stock in short.items() if stock.usage != usages.get(holder, _UNUSED)
        }
        await tx.budgets.add({holder: usage for holder, usage in changed.items() if holder not in usages})
        await tx.budgets.save({holder: usage for holder, usage in changed.items() if holder in usages})
        accepted = [request for request, missing in zip(requests, shortages, strict=True) if not missing]
        await tx.budgets.add_asked([request.row for request in accepted if request.row is not None])
        return stocks, shortages

    def _refused_again(self, request: Request, now_ms: int) -> Refusal | None:
        """Whoever asks for too much again and again costs the database nothing."""
        shortages = []
        for claim in request.claims:
            pool = self._pool(claim, now_ms)
            if pool.shortage is None or now_ms >= pool.believed_until_ms:
                continue
            if pool.shortage.budget.left(pool.shortage.usage, day=pool.day) + pool.amount < request.amount:
                shortages.append(pool.shortage)
        return _refusal(shortages, request.amount, now_ms)

    async def give_back(self, *, idle_ms: int = _IDLE_MS) -> None:
        """Commit that others may have what was set aside here and hasn't been needed for a while."""
        now_ms = self._clock.now_ms()
        idle = {holder: pool for holder, pool in self._pools.items() if now_ms >= pool.used_at_ms + idle_ms}
        for holder in idle:
            del self._pools[holder]
        returned = {holder: pool for holder, pool in idle.items() if pool.amount}

        async def use_case(tx: Transaction) -> None:
            usages = await tx.budgets.find(returned)
            # What is left of a day that is over is nothing.
            await tx.budgets.save(
                {
                    holder: usage.without(returned[holder].amount)
                    for holder, usage in usages.items()
                    if usage.day == returned[holder].day
                }
            )

        if returned:
            await self._database.transaction(use_case, bulk=True)

    def _pool(self, claim: Claim, now_ms: int) -> _Pool:
        day = day_of(now_ms, epoch_ms=claim.epoch_ms)
        pool = self._pools.get(claim.holder)
        if pool is None or pool.day != day:
            pool = self._pools[claim.holder] = _Pool(day, now_ms)
        return pool


def _spend(request: Request, stocks: Mapping[Holder, _Stock]) -> list[_Shortage]:
    """Spend for all of its holders; if it isn't enough for some, for none, and say for which."""
    theirs = [stocks[claim.holder] for claim in request.claims]
    shortages = [shortage for stock in theirs if (shortage := stock.shortage(request.amount))]
    if not shortages:
        for stock in theirs:
            stock.spend(request.amount)
    return shortages


def _refusal(shortages: Sequence[_Shortage], amount: int, now_ms: int) -> Refusal | None:
    """What to tell: of several that are short, the one that has to be waited for longest; None if none is."""
    if not shortages:
        return None
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
