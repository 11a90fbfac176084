"""Budgets that several processes spend, of which some die: never too much, and little lost."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from identity_server.domain.budgets import BudgetKind, BudgetRules, Holder
from identity_server.domain.errors import RateLimited
from identity_server.services.lookup.budget_ledger import BudgetLedger, Claim, Request
from identity_server.storage.database import Database
from identity_server.storage.repositories.budgets import AskedRow
from tests.support.databases import open_database
from tests.support.fakes import FakeClock

DAY_MS = 86_400_000
NETWORK = Claim(Holder(BudgetKind.NETWORK, "192.0.2.0/24"))
RULES = BudgetRules(network_per_day=1_000, homeserver_per_day=200, homeserver_per_user=0)


def new_ledger(database: Database, clock: FakeClock, rules: BudgetRules = RULES) -> BudgetLedger:
    return BudgetLedger(database=database, clock=clock, rules=rules)


async def take(ledger: BudgetLedger, amount: int, *claims: Claim) -> bool:
    """Spend so many; False if they are refused."""
    wanted = claims or (NETWORK,)
    return ledger.spend(wanted, amount) or await ledger.acquire([Request(wanted, amount)]) == [None]


@pytest.mark.parametrize("seed", range(4))
async def test_processes_that_die_never_spend_too_much(tmp_path: Path, seed: int) -> None:
    draw, clock = random.Random(seed), FakeClock()
    async with open_database(tmp_path) as database:
        workers = [new_ledger(database, clock) for _ in range(4)]
        spent, deaths = 0, 0
        for _ in range(400):
            place = draw.randrange(4)
            some = [draw.randint(1, 20) for _ in range(draw.choice((1, 1, 3)))]
            done = await asyncio.gather(*(take(workers[place], amount) for amount in some))
            spent += sum(amount for amount, is_done in zip(some, done, strict=True) if is_done)
            assert spent <= 1_000
            if draw.random() < 0.02:
                workers[place], deaths = new_ledger(database, clock), deaths + 1
            if draw.random() < 0.05:
                await workers[place].give_back(idle_ms=0)
            clock.advance(seconds=draw.randrange(4))
        assert deaths > 2
        # Each death has cost a twentieth at most of what was left.
        assert spent > 1_000 * (1 - 0.05 * deaths) - 20
        clock.advance(days=1)
        assert await take(workers[0], 1_000)
        assert not await take(workers[1], 1)


async def test_what_is_set_aside_is_spent_without_the_database(tmp_path: Path) -> None:
    clock, statements = FakeClock(), 0
    async with open_database(tmp_path) as database:
        ledger = new_ledger(database, clock, BudgetRules(network_per_day=1_000_000))
        for _ in range(1_000):
            if not ledger.spend([NETWORK], 100):
                statements += 1
                assert await ledger.acquire([Request([NETWORK], 100)]) == [None]
    assert statements < 30


async def test_what_others_set_aside_comes_back(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        one, two = new_ledger(database, clock), new_ledger(database, clock)
        for _ in range(2):
            assert await take(one, 100)
        assert not await take(two, 800)
        await one.give_back()
        clock.advance(seconds=30)
        await one.give_back()
        assert await take(two, 800)
        assert not await take(one, 1)


async def test_all_are_charged_or_none(tmp_path: Path) -> None:
    clock = FakeClock()
    homeserver = Claim(Holder(BudgetKind.HOMESERVER, "example.org"))
    async with open_database(tmp_path) as database:
        ledger = new_ledger(database, clock)
        assert await take(ledger, 150, homeserver, NETWORK)
        assert not await take(ledger, 51, homeserver, NETWORK)
        assert await take(ledger, 50, homeserver, NETWORK)
        assert not await take(ledger, 1, homeserver, NETWORK)
        assert await take(ledger, 800)
        assert not await take(ledger, 1)


async def test_rows_are_written_with_their_charge_or_not_at_all(tmp_path: Path) -> None:
    clock = FakeClock()
    account = Holder(BudgetKind.ACCOUNT, "@alice:example.org", 1)
    homeserver = Claim(Holder(BudgetKind.HOMESERVER, "example.org"))
    rows = [AskedRow(number, account, bytes([number]) * 16) for number in range(3)]
    async with open_database(tmp_path) as database:
        ledger = new_ledger(database, clock)
        requests = [
            Request([homeserver, NETWORK], amount, row) for amount, row in zip((100, 101, 100), rows, strict=True)
        ]
        refusals = await ledger.acquire(requests)
        assert [type(refusal) for refusal in refusals] == [type(None), RateLimited, type(None)]
        stored = await database.read(lambda tx: tx.budgets.list_asked([account]))
        assert sorted(stored) == [rows[0], rows[2]]


@pytest.mark.parametrize("order", [(36, 20, 15), (20, 36, 15), (20, 15, 36)])
async def test_who_is_refused_takes_nothing_from_others_in_the_same_transaction(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        one, two = new_ledger(database, clock), new_ledger(database, clock)
        for _ in range(3):
            assert await take(one, 100)
        # It has set a twentieth of 700 aside. That is all there is.
        assert await take(two, 665)
        refusals = await one.acquire([Request([NETWORK], amount) for amount in order])
        assert [amount for amount, refusal in zip(order, refusals, strict=True) if refusal] == [36]
        assert not one.spend([NETWORK], 1)


async def test_what_is_left_of_a_day_is_nothing_on_the_next(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        one, two, three = (new_ledger(database, clock) for _ in range(3))
        for _ in range(2):
            assert await take(one, 100)
            assert await take(three, 100)
        assert one.spend([NETWORK], 20)
        clock.advance(days=1)
        assert await take(two, 1_000)
        assert not await take(one, 1)
        clock.advance(minutes=1)
        await three.give_back()
        assert not await take(two, 1)
