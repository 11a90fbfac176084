"""Four workers, killed one after the other and started anew, never answer more than the budget; and what was asked stays free."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientSession, ClientTimeout
from nacl.secret import Aead

from identity_server.index.keys import KEY_BYTES
from tests.e2e.processes import PATIENCE_SECONDS
from tests.processes.conftest import TOKEN, Server
from tests.support.harness import hashed

_WORKERS = 4
_CLIENTS = 8
_KILLS = 4
_BUDGET = 6_000
_LOOKUP = f"budget.account = {_BUDGET}\nbudget.account_per_day = 1"
_MOST_AT_ONCE = 40
_SEALED_BY_BYTES = Aead.NONCE_SIZE + Aead.MACBYTES
_WRITTEN_DOWN = f"SELECT sum(length(sealed_keys) - {_SEALED_BY_BYTES}) / {KEY_BYTES} FROM asked_addresses"
_PAUSE_SECONDS = 0.05
_REFUSED_IN_A_ROW = 40


@dataclass(slots=True)
class Crawler:
    """Asks for addresses that it has never asked for, by several connections at once.

    Attributes:
        answered: the lists that it was answered.
        lost: how many addresses were in lists whose answers a killed worker has taken along.
    """

    server: Server
    pepper: str
    answered: list[list[str]] = field(default_factory=list)
    lost: int = 0
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    statuses: set[int] = field(default_factory=set)

    @property
    def total(self) -> int:
        return sum(map(len, self.answered))

    async def ask(self, hashes: list[str]) -> int:
        """The status, over a connection of its own, so that it may be any worker's."""
        body = {"algorithm": "sha256", "pepper": self.pepper, "addresses": hashes}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            ClientSession(headers=headers, timeout=ClientTimeout(total=PATIENCE_SECONDS)) as session,
            session.post(f"{self.server.base}/_matrix/identity/v2/lookup", json=body) as response,
        ):
            await response.read()
            return response.status

    async def crawl(self, draw: random.Random, *, until: int) -> None:
        """Ask on and on, until it was answered so many altogether, or is refused a single one."""
        size = _MOST_AT_ONCE
        while size and self.total < until:
            hashes = [hashed(f"n{next(self.numbers)}@example.com", self.pepper) for _ in range(draw.randint(1, size))]
            try:
                status = await self.ask(hashes)
            except (ClientError, OSError):
                self.lost += len(hashes)
                continue
            self.statuses.add(status)
            if status == 200:
                self.answered.append(hashes)
            else:
                size = len(hashes) // 2
            await asyncio.sleep(_PAUSE_SECONDS * draw.random())

    async def use_up(self) -> None:
        """Ask for one after the other, until it was refused so often in a row that no worker can have any left."""
        refused = 0
        while refused < _REFUSED_IN_A_ROW:
            hashes = [hashed(f"n{next(self.numbers)}@example.com", self.pepper)]
            self.statuses.add(status := await self.ask(hashes))
            if status == 200:
                self.answered.append(hashes)
            refused = 0 if status == 200 else refused + 1

    async def crawl_at_once(self, seed: int, *, until: int = _BUDGET) -> None:
        draws = [random.Random(f"{seed} {client}") for client in range(_CLIENTS)]
        await asyncio.gather(*(self.crawl(draw, until=until) for draw in draws))


async def test_killed_workers_and_restarts_never_answer_more_than_the_budget(server: Server) -> None:
    server.start(workers=_WORKERS, lookup=_LOOKUP)
    await server.add_account()
    async with (
        ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
        session.get(f"{server.base}/_matrix/identity/v2/hash_details") as response,
    ):
        crawler = Crawler(server, (await response.json())["lookup_pepper"])

    await crawler.crawl_at_once(0, until=_BUDGET // 4)
    await asyncio.to_thread(server.wait_for, lambda: server.rows(_WRITTEN_DOWN) == [(crawler.total,)])
    known = list(crawler.answered)
    for kill in range(_KILLS):
        half_way = crawler.total + _BUDGET // 16
        crawling = asyncio.create_task(crawler.crawl_at_once(kill + 1, until=half_way + _BUDGET // 16))
        while crawler.total < half_way and not crawling.done():
            await asyncio.sleep(0.001)
        server.kill_worker(kill)
        await crawling
        await asyncio.to_thread(server.wait_until_replaced, workers=_WORKERS)
    assert crawler.total <= _BUDGET
    assert crawler.statuses == {200}
    assert await asyncio.to_thread(server.stop) == 0
    await asyncio.to_thread(server.start_again, workers=_WORKERS)
    await crawler.crawl_at_once(_KILLS + 1)
    await crawler.use_up()

    assert crawler.statuses == {200, 429}
    assert crawler.total <= _BUDGET
    # What a worker had set aside is a twentieth of what was left, at most.
    assert crawler.total + crawler.lost >= _BUDGET * (1 - 0.05) ** _KILLS * 0.95
    # And every worker knows what is free.
    for hashes in random.Random(0).sample(known, 20):
        assert await crawler.ask(hashes) == 200
    assert server.workers_lost() == _KILLS
    assert server.stop() == 0
