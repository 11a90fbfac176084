"""Lookups that are charged in one transaction: each is answered or refused as if it were alone, and none twice."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from identity_server.domain.budgets import BudgetKind, BudgetRules, Holder
from identity_server.domain.errors import RateLimited, TooManyAddresses, Unavailable
from identity_server.domain.hashing import Pepper
from identity_server.domain.identifiers import UserId
from identity_server.services.lookup.budgets import LookupBudgets
from identity_server.storage.database import Database
from identity_server.storage.engines.sqlite_transactions import TransactionLost
from tests.support.databases import open_database
from tests.support.fakes import START_MS, FakeClock, FakeRandomness

PEPPER = Pepper(1, "a pepper", START_MS, None)
DAY_MS = 86_400_000
TEN = BudgetRules(account=10, account_per_day=0, homeserver_per_day=1_000)
ALICE = UserId("@alice:example.org")
NETWORK = "192.0.2.0/24"


def losing_a_race(use_case: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    runs = itertools.count()

    async def lost_at_first(tx: Any) -> Any:
        result = await use_case(tx)
        if next(runs) == 0:
            raise TransactionLost
        return result

    return lost_at_first


@dataclass
class Transactions:
    """Those of a database.

    Attributes:
        count: how many have been begun.
        fails: has each of them fail after its commit.
        loses_races: has each of them run twice.
        held: the number of the one that waits until it `goes_on`.
    """

    count: int = 0
    fails: bool = False
    held: int | None = None
    loses_races: bool = False
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def of(self, database: Database) -> Iterator[Transactions]:
        transaction = database.transaction

        async def counted(use_case: Callable[[Any], Awaitable[Any]], *, bulk: bool = False) -> Any:
            self.count += 1
            if self.count == self.held:
                await self.goes_on.wait()
            result = await transaction(losing_a_race(use_case) if self.loses_races else use_case, bulk=bulk)
            if self.fails:
                raise Unavailable
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "transaction", counted)
            yield self


def new_worker(database: Database, rules: BudgetRules = TEN, *, seed: str = "one") -> LookupBudgets:
    return LookupBudgets(
        database=database,
        clock=FakeClock(),
        randomness=FakeRandomness(seed),
        rules=rules,
        pepper_lifetime_ms=30 * DAY_MS,
    )


async def ask(worker: LookupBudgets, first: int, last: int, *, asker: UserId = ALICE) -> bool:
    """Whether a lookup of the addresses from one number up to another is answered."""
    keys = b"".join(number.to_bytes(8, "little") * 2 for number in range(first, last))
    try:
        await worker.charge(asker, PEPPER, keys, client_network=lambda: NETWORK)
    except (RateLimited, TooManyAddresses):
        return False
    return True


def askers(count: int) -> list[UserId]:
    return [UserId(f"@user{number}:example.org") for number in range(count)]


async def test_many_first_lookups_share_few_transactions(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        worker = new_worker(database)
        with Transactions().of(database) as transactions:
            assert all(await asyncio.gather(*(ask(worker, 0, 9, asker=each) for each in askers(50))))
        assert transactions.count <= 2
        # All of it is charged, and known to others.
        other = new_worker(database, seed="two")
        for each in askers(50):
            assert await ask(other, 0, 9, asker=each)
            assert not await ask(other, 0, 11, asker=each)


async def test_refusal_is_of_one_and_charged_nothing(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        worker = new_worker(database)
        everybody = askers(20)
        with Transactions().of(database) as transactions:
            answered = await asyncio.gather(
                *(ask(worker, 0, 11 if place == 7 else 10, asker=each) for place, each in enumerate(everybody))
            )
        assert transactions.count == 1
        assert [place for place, is_answered in enumerate(answered) if not is_answered] == [7]
        assert await ask(worker, 0, 10, asker=everybody[7])
        assert not await ask(worker, 10, 11, asker=everybody[6])


async def test_budget_that_many_share_is_given_to_those_who_come_first(tmp_path: Path) -> None:
    rules = BudgetRules(account=100, homeserver_per_day=55, homeserver_per_user=0)
    async with open_database(tmp_path) as database:
        worker = new_worker(database, rules)
        answered = await asyncio.gather(*(ask(worker, 0, 10, asker=each) for each in askers(9)))
        assert answered == [True] * 5 + [False] * 4
        assert await ask(worker, 0, 5, asker=askers(9)[8])
        assert not await ask(worker, 5, 6, asker=askers(9)[8])


async def test_the_same_address_asked_for_twice_at_once_is_charged_once(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        worker = new_worker(database)
        lists = [(0, 5), (0, 5), (3, 8), (0, 10), (9, 10)]
        assert all(await asyncio.gather(*(ask(worker, first, last) for first, last in lists)))
        # Also while one that began before is still being charged.
        outcomes = await asyncio.gather(ask(worker, 0, 10), ask(worker, 10, 11), ask(worker, 5, 9))
        assert list(outcomes) == [True, False, True]


async def test_what_is_being_charged_is_not_spent_again_of_what_is_set_aside_meanwhile(tmp_path: Path) -> None:
    rules = BudgetRules(account=1_000, homeserver_per_day=100_000, network_per_day=100_000)
    async with open_database(tmp_path) as database:
        worker = new_worker(database, rules)
        for start in (0, 40):
            assert await ask(worker, start, start + 40)
        # Forty of each are set aside now; of the network nothing is left.
        await worker.charge_network(NETWORK, 40)
        with Transactions().of(database) as transactions:
            transactions.held = 1
            first = asyncio.create_task(ask(worker, 80, 90))
            while not transactions.count:
                await asyncio.sleep(0)
            await worker.charge_network(NETWORK, 5)
            second = asyncio.create_task(ask(worker, 80, 90))
            await asyncio.sleep(0.01)
            transactions.goes_on.set()
            assert await first
            assert await second
        await worker.close()
        holder = Holder(BudgetKind.ACCOUNT, ALICE, PEPPER.id)
        assert (await database.read(lambda tx: tx.budgets.find([holder])))[holder].once == 90


async def test_transaction_that_fails_answers_nobody_and_is_charged_at_most(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        worker = new_worker(database)
        with Transactions().of(database) as transactions:
            transactions.fails = True
            outcomes = await asyncio.gather(
                *(ask(worker, 0, 6, asker=each) for each in askers(5)), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [Unavailable] * 5
            transactions.fails = False
            # It was committed all the same, so it is known, and free.
            worker = new_worker(database, seed="two")
            assert await ask(worker, 0, 10, asker=askers(5)[0])
            assert not await ask(worker, 10, 11, asker=askers(5)[0])


async def test_transaction_that_is_run_again_charges_once(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        worker = new_worker(database)
        with Transactions().of(database) as transactions:
            transactions.loses_races = True
            assert all(await asyncio.gather(*(ask(worker, 0, 10, asker=each) for each in askers(4))))
        await worker.close()
        homeserver = Holder(BudgetKind.HOMESERVER, "example.org")
        assert (await database.read(lambda tx: tx.budgets.find([homeserver])))[homeserver].today == 40


async def test_who_is_cancelled_is_nobody_elses_matter(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        worker = new_worker(database)
        with Transactions().of(database) as transactions:
            transactions.held = 1
            running = [asyncio.create_task(ask(worker, 0, 10, asker=each)) for each in askers(6)]
            while not transactions.count:
                await asyncio.sleep(0)
            waiting = [asyncio.create_task(ask(worker, 0, 10, asker=each)) for each in askers(12)[6:]]
            await asyncio.sleep(0)
            others = [asyncio.create_task(ask(worker, 0, 10, asker=UserId("@late:example.org")))]
            for task in (running[2], *waiting):
                await asyncio.sleep(0)
                task.cancel()
            transactions.goes_on.set()
            outcomes = await asyncio.gather(*running, *waiting, *others, return_exceptions=True)
        cancelled = [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes]
        assert cancelled == [place == 2 or 6 <= place < 12 for place in range(13)]
        # It was too late for the one: it is charged, and what it has asked for is known. The others never were.
        assert all([await ask(worker, 0, 10, asker=each) for each in askers(6)])
        assert all([await ask(worker, 10, 20, asker=each) for each in askers(12)[6:]])


@pytest.mark.parametrize("seed", range(3))
async def test_workers_that_fail_and_die_never_answer_more_than_there_is(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    rules = BudgetRules(account=60, account_per_day=0, homeserver_per_day=400, homeserver_per_user=0)
    answered: dict[UserId, set[int]] = {each: set() for each in askers(12)}
    async with open_database(tmp_path) as database:
        workers = [new_worker(database, rules, seed=f"{seed} {number}") for number in range(3)]

        async def ask_something(asker: UserId) -> None:
            first = draw.randrange(80)
            last = first + draw.randint(1, 12)
            try:
                if await ask(draw.choice(workers), first, last, asker=asker):
                    answered[asker].update(range(first, last))
            except Unavailable:
                pass

        with Transactions().of(database) as transactions:
            for turn in range(60):
                transactions.fails = draw.random() < 0.05
                await asyncio.gather(
                    *(ask_something(draw.choice(list(answered))) for _ in range(draw.randint(1, 20)))
                )
                transactions.fails = False
                if draw.random() < 0.1:
                    workers[draw.randrange(3)] = new_worker(database, rules, seed=f"{seed} {turn}")
                else:
                    await draw.choice(workers).tidy()
                    await draw.choice(workers).write_down()
                assert max(map(len, answered.values())) <= 60
                assert sum(map(len, answered.values())) <= 400
    assert sum(map(len, answered.values())) > 200
