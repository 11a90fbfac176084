"""A crawler against the budgets of lookups, beside people who look up their contacts.

    python -m bench.crawl [--days 3] [--seed 1] [--small]

Days pass by a clock of their own. The crawler asks for addresses that nobody has asked for, as many as it is given, from
all of its accounts, on four workers at once, of which every few hours one is killed. People look up 500 contacts a day,
all of them new, and yesterday's once more. What is counted is what was charged and then answered; the database, the
budgets and their workers are those of the server.

The rule: tolerance 0. One answer more than the sum of the budgets, or one of the people refused, and the run has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import numpy as np

from identity_server.domain.association import Association
from identity_server.domain.budgets import BudgetRules
from identity_server.domain.durations import DAY_MS, HOUR_MS
from identity_server.domain.errors import RateLimited, TooManyAddresses
from identity_server.domain.hashing import Pepper
from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.index.keys import Halves
from identity_server.observability import set_up_logging
from identity_server.outbound.system import SystemRandomness
from identity_server.services.lookup.budgets import LookupBudgets
from identity_server.storage.database import Database
from identity_server.storage.engines.opening import Engine, database_url, make_engine
from identity_server.storage.schema.upgrade import Schema
from identity_server.storage.sealing.key_ring import ROOT_KEY_BYTES, KeyRing, RootKey
from identity_server.storage.sealing.sealer import LiveKeys

_START_MS = 1_700_006_400_000
"""A midnight, so that the days of peppers and those of homeservers are the same, and sums can be told."""
_HOURS = 24
_WORKERS = 4
_AT_ONCE = 8
_LIST = 1_000
_CONTACTS = 500
_PEPPER_LIFETIME_MS = 30 * DAY_MS


@dataclass(frozen=True, slots=True)
class Crawl:
    """Who crawls, and for how long.

    Attributes:
        accounts: of the crawler.
        servers: homeservers of the crawler, each with a domain of its own; its accounts are spread over them.
        networks: that it asks from; None for one for each homeserver.
        rotates_on: the day on which there is a new pepper, under which everything is unknown again.
        homeservers, users_of_each: of the people, all of whom are bound.
        kills_per_day: how many workers die.
        scale: by what everybody's lists are divided, where the budgets are.
    """

    accounts: int
    servers: int
    networks: int | None = None
    days: int = 3
    rotates_on: int | None = None
    homeservers: int = 3
    users_of_each: int = 30
    kills_per_day: int = 6
    rules: BudgetRules = field(default_factory=BudgetRules)
    scale: int = 1

    @property
    def budget_of_account(self) -> int:
        """How much one of its accounts may be answered at most, under all peppers."""
        under = [self.days] if self.rotates_on is None else [self.rotates_on, self.days - self.rotates_on]
        return sum(self.rules.account + self.rules.account_per_day * (days - 1) for days in under)

    @property
    def budget(self) -> int:
        """How much the crawler may be answered at most: of all its accounts, of its homeservers, of its networks."""
        rules = self.rules
        servers = min(self.servers, self.accounts)
        return min(
            self.accounts * self.budget_of_account,
            servers * self.days * rules.homeserver_per_day,
            (self.networks or servers) * self.days * rules.network_per_day,
        )


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        answered: addresses that the crawler was answered for, all of them different.
        by_account: the same, by who has asked.
        refusals: of the crawler's lookups.
        lookups, refused: of the people.
        kills: of workers.
    """

    answered: int = 0
    by_account: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    lookups: int = 0
    refused: int = 0
    kills: int = 0


class _Clock:
    def __init__(self) -> None:
        self.ms = _START_MS

    def now_ms(self) -> int:
        return self.ms


class _Worker:
    """What one process of the server keeps to itself."""

    def __init__(self, engine: Engine, keys: LiveKeys, clock: _Clock, rules: BudgetRules) -> None:
        self.database = Database(engine, keys)
        self.budgets = LookupBudgets(
            database=self.database,
            clock=clock,
            randomness=SystemRandomness(),
            rules=rules,
            pepper_lifetime_ms=_PEPPER_LIFETIME_MS,
        )

    async def look_up(self, asker: UserId, pepper: Pepper, keys: Halves, network: str) -> bool:
        """Whether a lookup is answered."""
        try:
            await self.budgets.charge(asker, pepper, keys.tobytes(), client_network=lambda: network)
        except (RateLimited, TooManyAddresses):
            return False
        return True

    async def keep_up(self) -> None:
        """What comes round by itself."""
        await self.budgets.write_down()
        await self.budgets.tidy()


class _Story:
    """Days of a crawl."""

    def __init__(self, crawl: Crawl, open_engine: Callable[[], Engine], *, seed: int) -> None:
        self._crawl = crawl
        self._open_engine = open_engine
        self._random = Random(seed)
        self._clock = _Clock()
        root = RootKey(Random(seed).randbytes(ROOT_KEY_BYTES))
        self._keys = LiveKeys(KeyRing(root), randomness=SystemRandomness())
        self._workers: list[_Worker] = []
        self._numbers = count(1)
        self._pepper = Pepper(1, "simulated", _START_MS, None)
        self._yesterdays: dict[UserId, Halves] = {}
        self.outcome = Outcome()

    async def tell(self) -> Outcome:
        crawl = self._crawl
        self._workers = [self._new_worker() for _ in range(_WORKERS)]
        people = [
            UserId(f"@person{number}:people{server}.example")
            for server in range(crawl.homeservers)
            for number in range(crawl.users_of_each)
        ]
        await self._bind(people)
        accounts = [UserId(f"@c{number}:crawler{number % crawl.servers}.test") for number in range(crawl.accounts)]
        for day in range(crawl.days):
            if day == crawl.rotates_on:
                self._pepper = Pepper(2, "another", self._clock.ms, None)
                self._yesterdays.clear()
            self._random.shuffle(accounts)
            deaths = {self._random.randrange(_HOURS) for _ in range(crawl.kills_per_day)}
            for hour in range(_HOURS):
                await self._crawl_on(accounts[hour::_HOURS])
                for person in people[hour::_HOURS]:
                    await self._sync(person)
                if hour in deaths:
                    await self._kill()
                for worker in self._workers:
                    await worker.keep_up()
                self._clock.ms = _START_MS + day * DAY_MS + (hour + 1) * HOUR_MS
        for worker in self._workers:
            await worker.database.close()
        return self.outcome

    async def _bind(self, people: Sequence[UserId]) -> None:
        rows = [
            (
                number,
                Association.starting(
                    _START_MS, threepid=Threepid(Medium.EMAIL, f"p{number}@example.com"), user_id=each
                ),
            )
            for number, each in enumerate(people, start=1)
        ]
        first = self._workers[0]
        await first.database.transaction(lambda tx: tx.associations.put_all(rows, now_ms=_START_MS), bulk=True)
        await first.budgets.count_bound_users()

    async def _crawl_on(self, accounts: Sequence[UserId]) -> None:
        waiting = iter(accounts)

        async def next_ones() -> None:
            for account in waiting:
                await self._squeeze(account)

        await asyncio.gather(*(next_ones() for _ in range(_AT_ONCE)))

    async def _squeeze(self, account: UserId) -> None:
        """Ask for as many as there are: whoever is refused asks for half."""
        server = int(account.rpartition("crawler")[2].removesuffix(".test"))
        network = f"network {server % (self._crawl.networks or self._crawl.servers)}"
        size = _LIST // self._crawl.scale
        while size:
            if await self._any_worker().look_up(account, self._pepper, self._unknown(size), network):
                self.outcome.answered += size
                self.outcome.by_account[account] += size
            else:
                self.outcome.refusals += 1
                size //= 2

    async def _sync(self, person: UserId) -> None:
        contacts = self._unknown(_CONTACTS // self._crawl.scale)
        lists = [contacts, *([self._yesterdays[person]] if person in self._yesterdays else [])]
        for keys in lists:
            network = f"network of {person.rpartition(':')[2]}"
            is_answered = await self._any_worker().look_up(person, self._pepper, keys, network)
            self.outcome.lookups += 1
            self.outcome.refused += not is_answered
        self._yesterdays[person] = contacts

    async def _kill(self) -> None:
        """A worker is gone with everything that it had; another one takes its place."""
        place = self._random.randrange(_WORKERS)
        gone, self._workers[place] = self._workers[place], self._new_worker()
        await gone.database.close()
        self.outcome.kills += 1

    def _new_worker(self) -> _Worker:
        return _Worker(self._open_engine(), self._keys, self._clock, self._crawl.rules)

    def _any_worker(self) -> _Worker:
        return self._random.choice(self._workers)

    def _unknown(self, size: int) -> Halves:
        """Keys of addresses that nobody has asked for yet."""
        numbers = np.fromiter((next(self._numbers) for _ in range(size)), np.uint64, size)
        # Spread as keys are.
        return np.column_stack((numbers * np.uint64(0x9E3779B97F4A7C15), numbers))


async def simulate(crawl: Crawl, open_engine: Callable[[], Engine], *, seed: int = 1) -> Outcome:
    """Let it all happen on a migrated, empty database that the engines lead to."""
    return await _Story(crawl, open_engine, seed=seed).tell()


async def _on_sqlite(crawl: Crawl, *, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        url = database_url(url=None, file=Path(folder) / "identity.db")
        engine = make_engine(url)
        await Schema(engine).upgrade(now_ms=_START_MS)
        await engine.dispose()
        return await simulate(crawl, lambda: make_engine(url), seed=seed)


def crawls(days: int, *, small: bool) -> Iterator[Crawl]:
    """The table, row by row."""
    for accounts in (1, 100) if small else (1, 100, 10_000):
        for servers in (1, 10) if small else (1, 10, 100):
            if servers <= accounts:
                yield Crawl(accounts, servers, days=days)
    yield Crawl(100, 100, networks=1, days=days)
    yield Crawl(100, 10, days=days, rotates_on=days // 2)


def main() -> int:
    """Print the table; 1 if what is promised doesn't hold."""
    parser = argparse.ArgumentParser(prog="bench.crawl")
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    set_up_logging(level="WARNING", form="console", path=None)
    holds = True
    write = sys.stdout.write
    write(
        "| accounts | servers | networks | new pepper | budget | answered | of it | kills | people's lookups | refused |\n"
    )
    write("|---|---|---|---|---|---|---|---|---|---|\n")
    for crawl in crawls(given.days, small=given.small):
        outcome = asyncio.run(_on_sqlite(crawl, seed=given.seed))
        holds = holds and outcome.answered <= crawl.budget and outcome.refused == 0
        networks, rotates = crawl.networks or crawl.servers, "no" if crawl.rotates_on is None else "yes"
        write(
            f"| {crawl.accounts} | {crawl.servers} | {networks} | {rotates} | {crawl.budget} | {outcome.answered} |"
            f" {outcome.answered / crawl.budget:.1%} | {outcome.kills} | {outcome.lookups} | {outcome.refused} |\n"
        )
        sys.stdout.flush()
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
