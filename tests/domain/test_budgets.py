"""Budgets: never more than there is, whatever is used, given back, and in whatever order the days come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_server.domain.budgets import Budget, BudgetKind, BudgetRules, Usage, day_of, end_of_day_ms, to_set_aside

DAY_MS = 86_400_000
ACCOUNT = Budget(once=10, per_day=2, from_day=1)
# A day, how many are wanted then, and how many of them are given back unused.
STEPS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 15), st.integers(0, 15)), max_size=40)


def test_what_there_is_for_the_day_goes_first() -> None:
    usage = ACCOUNT.use(Usage(), 3, day=1)
    assert usage == Usage(day=1, today=2, once=1)
    assert ACCOUNT.left(usage, day=1) == 9
    assert ACCOUNT.left(usage, day=2) == 11


def test_the_first_day_has_nothing_besides() -> None:
    assert ACCOUNT.left(Usage(), day=0) == 10
    assert ACCOUNT.left(Usage(), day=1) == 12


def test_what_is_not_used_of_a_day_is_gone_with_it() -> None:
    assert ACCOUNT.left(Usage(once=10), day=30) == 2


def test_a_day_that_is_over_does_not_come_back() -> None:
    usage = ACCOUNT.use(Usage(), 12, day=2)
    assert ACCOUNT.left(usage, day=1) == 0


@given(STEPS)
def test_nobody_ever_gets_more_than_there_is(steps: list[tuple[int, int, int]]) -> None:
    usage, answered, last = Usage(), 0, 0
    for day, wanted, returned in steps:
        last = max(last, day)
        amount = min(wanted, ACCOUNT.left(usage, day=day))
        usage = ACCOUNT.use(usage, amount, day=day)
        unused = min(returned, amount)
        usage = usage.without(unused)
        answered += amount - unused
        assert answered <= 10 + 2 * last
        assert 0 <= usage.once <= 10
        assert 0 <= usage.today <= 2


@given(STEPS, st.integers(0, 15))
def test_tomorrow_is_as_it_was_foretold(steps: list[tuple[int, int, int]], amount: int) -> None:
    usage, last = Usage(), 0
    for day, wanted, _ in steps:
        last = max(last, day)
        usage = ACCOUNT.use(usage, min(wanted, ACCOUNT.left(usage, day=day)), day=day)
    assert ACCOUNT.suffices_tomorrow(usage, amount, day=last) == (amount <= ACCOUNT.left(usage, day=last + 1))


def test_what_never_suffices() -> None:
    assert ACCOUNT.ever_suffices(10)
    # Twelve there are on the second day at the earliest, under a pepper that those who ask have asked under already.
    assert not ACCOUNT.ever_suffices(11)
    assert Budget(per_day=5).ever_suffices(5)
    assert not Budget(per_day=5).ever_suffices(6)


@pytest.mark.parametrize(("users", "per_day"), [(0, 10_000), (10, 10_000), (11, 11_000), (5_000, 5_000_000)])
def test_homeservers_may_more_if_their_users_are_bound(users: int, per_day: int) -> None:
    for kind in (BudgetKind.HOMESERVER, BudgetKind.DOMAIN):
        assert BudgetRules().budget(kind, bound_users=users) == Budget(per_day=per_day)
    assert (users > BudgetRules().users_worth_counting) == (per_day > 10_000)


def test_accounts_and_networks() -> None:
    assert BudgetRules().budget(BudgetKind.ACCOUNT) == Budget(once=10_000, per_day=2_000, from_day=1)
    assert BudgetRules().budget(BudgetKind.NETWORK) == Budget(per_day=100_000)


def test_little_is_set_aside_for_who_has_asked_for_little_and_never_much() -> None:
    assert to_set_aside(10_000, used_before=0) == 0
    assert to_set_aside(10_000, used_before=30) == 30
    assert to_set_aside(10_000, used_before=3_000) == 500
    assert to_set_aside(19, used_before=3_000) == 0


def test_days() -> None:
    assert day_of(DAY_MS - 1, epoch_ms=0) == 0
    assert day_of(DAY_MS + 5, epoch_ms=5) == 1
    assert day_of(3, epoch_ms=5) == 0
    assert end_of_day_ms(1, epoch_ms=5) == 2 * DAY_MS + 5
