"""How many addresses may be looked up: budgets that nobody notices who looks up their contacts, and every crawler does.

The rule: what has been used and what has been set aside never exceed the budget. Whatever goes wrong, less is left than
there could be, never more.

An address counts when an account asks for it for the first time under a pepper. It then counts for the account, and for
those that many accounts share: the homeserver, its registrable domain and the client's network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from identity_server.domain.durations import DAY_MS

_SET_ASIDE_SHARE = 20


class BudgetKind(StrEnum):
    """Whom addresses are counted for."""

    ACCOUNT = "account"
    HOMESERVER = "homeserver"
    DOMAIN = "domain"
    NETWORK = "network"

    # Of every `Holder`, and the enumeration's own is written in Python.
    __hash__ = str.__hash__


class Holder(NamedTuple):
    """Whose budget it is.

    Attributes:
        name: a Matrix ID, a homeserver, a registrable domain or a client network.
        pepper_id: of the pepper that it is counted under; 0 where only the day counts.
    """

    kind: BudgetKind
    name: str
    pepper_id: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What has been used of a budget.

    Attributes:
        day: the day that `today` is about.
        today: of what there is for that day.
        once: of what there is once and for all.
    """

    day: int = 0
    today: int = 0
    once: int = 0

    def on(self, day: int) -> Usage:
        """The same on another day; one that is over doesn't come back, whatever a clock says."""
        return self if day <= self.day else Usage(day=day, once=self.once)

    def without(self, amount: int) -> Usage:
        """After some of it was given back."""
        today = min(amount, self.today)
        return replace(self, today=self.today - today, once=max(self.once - (amount - today), 0))


@dataclass(frozen=True, slots=True)
class Budget:
    """How many addresses may be asked for.

    Attributes:
        per_day: on every day; what isn't used is gone with it.
        once: besides, at any time.
        from_day: the first day that has its `per_day`.
    """

    per_day: int
    once: int = 0
    from_day: int = 0

    def left(self, usage: Usage, *, day: int) -> int:
        """How many more may be asked for on a day."""
        usage = usage.on(day)
        return max(self._of_day(usage.day) - usage.today, 0) + max(self.once - usage.once, 0)

    def use(self, usage: Usage, amount: int, *, day: int) -> Usage:
        """After so many of those that are left; what is there for the day goes first."""
        usage = usage.on(day)
        today = min(amount, max(self._of_day(usage.day) - usage.today, 0))
        return Usage(day=usage.day, today=usage.today + today, once=usage.once + amount - today)

    def suffices_tomorrow(self, usage: Usage, amount: int, *, day: int) -> bool:
        """Whether so many may be asked for on the day after, if nothing is used until then."""
        tomorrow = max(usage.day, day) + 1
        return amount <= self.left(usage, day=tomorrow)

    def ever_suffices(self, amount: int) -> bool:
        """Whether so many may be asked for at once under any circumstances."""
        return amount <= self.once + (0 if self.from_day else self.per_day)

    def _of_day(self, day: int) -> int:
        return self.per_day if day >= self.from_day else 0


@dataclass(frozen=True, slots=True)
class BudgetRules:
    """How large the budgets are.

    Attributes:
        account: of an account, for as long as a pepper lives.
        account_per_day: of an account besides, from the pepper's second day on.
        homeserver_per_day: of all accounts of a homeserver or of a registrable domain.
        homeserver_per_user: of them, for each of their users that an address is bound to, if that comes to more.
        network_per_day: of all accounts that ask from one client network.
    """

    account: int = 10_000
    account_per_day: int = 2_000
    homeserver_per_day: int = 10_000
    homeserver_per_user: int = 1_000
    network_per_day: int = 100_000

    def budget(self, kind: BudgetKind, *, bound_users: int = 0) -> Budget:
        """The budget of one of a kind; only those of homeservers depend on how many users are bound."""
        if kind is BudgetKind.ACCOUNT:
            return Budget(once=self.account, per_day=self.account_per_day, from_day=1)
        if kind is BudgetKind.NETWORK:
            return Budget(per_day=self.network_per_day)
        return Budget(per_day=max(self.homeserver_per_day, self.homeserver_per_user * bound_users))

    @property
    def users_worth_counting(self) -> int:
        """So many bound users make no difference to a homeserver's budget yet."""
        return self.homeserver_per_day // max(self.homeserver_per_user, 1)


def to_set_aside(left: int, *, used_before: int) -> int:
    """How many to set aside for what comes next, so that the database needn't be asked each time.

    What is set aside is lost if the process dies, and nobody else can use it meanwhile. So whoever has asked for little
    gets little, and nobody more than a small part of what is left.
    """
    return min(used_before, left // _SET_ASIDE_SHARE)


def day_of(now_ms: int, *, epoch_ms: int) -> int:
    """The number of the day, by days that are counted from a moment; the first is 0."""
    return max(now_ms - epoch_ms, 0) // DAY_MS


def end_of_day_ms(day: int, *, epoch_ms: int) -> int:
    """When a day is over."""
    return epoch_ms + (day + 1) * DAY_MS
