"""Which cells, on how many associations, in which order.

The rule: those compared take turns, round by round, and whoever goes first changes: what disturbs the machine for a
while then disturbs all of them. Only one is driven at a time.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import cells, requests, servers
from bench.cells import Contestant
from bench.checking import WrongAnswer
from bench.client import BadAnswer
from bench.databases import prepared
from bench.requests import Pool
from bench.results import HELPED, TWO_WORKERS, Figures, Place, Results
from bench.servers import Server
from bench.sinks import World
from identity_server.config.sections import all_sections
from tests.e2e.processes import ProgramFailed

BIND = "full flow to bind"
INVITE = "store-invite"
WHILE_BINDING = "lookup of 100 while others bind"
PING_WHILE = "ping while one looks up 10000"
ROTATION = "pepper rotation"
START_FIRST = "start, index to be built"
START_AGAIN = "start, again"
MEMORY = "memory"

_CANT_SERVE = (BadAnswer, ProgramFailed, OSError)
_WORKER_POOLS = ("lookup of 1", "lookup of 100", "lookup of 1000")
_LARGEST_FOR_SLOW_ONES = 100_000
_STORY_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Options:
    """How much is to be measured.

    Attributes:
        sizes: numbers of associations.
        seconds: of each measurement.
        rounds: how often each is repeated.
        only: parts of the names of cells; empty for all.
        slow: also what takes Sydent minutes at a million.
    """

    sizes: tuple[int, ...]
    seconds: float
    rounds: int
    only: tuple[str, ...] = ()
    slow: bool = False

    def wants(self, cell: str) -> bool:
        return not self.only or any(each in cell for each in self.only)


Measure = Callable[[Contestant], Awaitable[Figures]]


class Plan:
    """One run.

    Args:
        folder: where the servers live; emptied.
        say: told what is being done.
    """

    def __init__(
        self, options: Options, *, surroundings: World, folder: Path, results: Results, say: Callable[[str], None]
    ) -> None:
        self._options = options
        self._surroundings = surroundings
        self._folder = folder
        self._results = results
        self._say = say

    async def run(self) -> None:
        """Measure everything.

        Raises:
            WrongAnswer: a server told something untrue.
            CannotPrepare: the data can't be made.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        for associations in self._options.sizes:
            await _Size(self, associations, await self._data(associations)).run()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _data(self, associations: int) -> Path:
        self._say(f"data of {associations} associations")
        return await asyncio.to_thread(prepared, associations)

    @property
    def smtp_port(self) -> int:
        return self._surroundings.smtp_port

    @property
    def options(self) -> Options:
        return self._options

    def folder_of(self, associations: int, name: str) -> Path:
        return self._folder / str(associations) / name

    @asynccontextmanager
    async def serving(self, associations: int, server: Server, *, cell: str = "") -> AsyncIterator[Contestant]:
        """A server that runs, for as long as the block does.

        Args:
            associations: how many it knows.
            server: which.
            cell: where the seconds until it was ready belong; empty for nowhere.
        """
        pools = self.folder_of(associations, "pools")
        pools.mkdir(parents=True, exist_ok=True)
        self._say(f"starting {server.name}")
        try:
            seconds = await server.start()
            if cell:
                self._note(Place(associations, cell, server.name), {"seconds": seconds})
            who = Contestant(server, self._surroundings.mailbox, pools)
            yield who
            checked = self._results.checked
            checked[server.name] = checked.get(server.name, 0) + who.checker.total
            if not await asyncio.to_thread(server.stop):
                self._say(f"{server.name} had to be killed")
        finally:
            server.kill()

    async def measure(self, associations: int, cell: str, who: Contestant, measure: Measure) -> None:
        """One cell of one server, once; what goes wrong is noted, and only an untrue answer ends the run."""
        if not self._options.wants(cell):
            return
        place = Place(associations, cell, who.server.name)
        if place in self._results.missing:
            return
        try:
            self._note(place, await measure(who))
        except* WrongAnswer:
            raise
        except* _CANT_SERVE as failed:
            self.miss(place, told(failed))

    def miss(self, place: Place, why: str) -> None:
        """Say why there are no figures."""
        self._results.missing[place] = why
        self._results.rounds.pop(place, None)
        self._say(f"  {place.cell}, {place.server}: n/a: {why}")

    def _note(self, place: Place, figures: Figures) -> None:
        self._results.add(place, figures)
        listed = ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())
        self._say(f"  {place.cell}, {place.server}: {listed}")


class _Size:
    """Everything at one number of associations."""

    def __init__(self, plan: Plan, associations: int, data: Path) -> None:
        self._plan = plan
        self._associations = associations
        self._data = data
        self._pools = {
            pool.name: pool
            for pool in (
                requests.pings(),
                requests.accounts(),
                requests.hash_details(),
                *(requests.lookups(size, associations=associations) for size in requests.LOOKUP_SIZES),
            )
        }

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            helped = await stack.enter_async_context(self._serving(servers.sydent, "helped"))
            ours = await stack.enter_async_context(self._serving(servers.ours, "ours"))
            bare = await stack.enter_async_context(self._serving(servers.bare, "bare"))
            await self._compare(helped, ours, bare)
            await self._measure(MEMORY, ours, cells.memory)
            await self._measure(MEMORY, helped, cells.memory)
            # Last, because its questions are hashed with the pepper of the data.
            ten = requests.lookups(10, associations=self._associations)
            await self._measure(ROTATION, ours, lambda who: cells.rotate(who, ten, seconds=self._story_seconds))
        await self._as_installed()
        await self._sydents_rotation()
        await self._workers()

    # --- the comparison -------------------------------------------------------------------

    async def _compare(self, helped: Contestant, ours: Contestant, bare: Contestant) -> None:
        for turn in range(self._plan.options.rounds):
            for size in requests.FIRST_LOOKUPS:
                await self._first_lookups(turn, size, (helped, ours))
            for pool in self._pools.values():
                for who in _from(turn, (helped, ours, bare)):
                    await self._measure(pool.name, who, self._reading(pool))
            for who in _from(turn, (helped, ours)):
                await self._stories(who)

    async def _first_lookups(self, turn: int, size: int, everybody: tuple[Contestant, ...]) -> None:
        """In each turn those of other accounts, because nobody looks up for the first time twice."""
        lookups = requests.first_lookups(size, associations=self._associations)
        introductions = requests.hash_details(requests.newcomers(size))
        some, theirs = (pool.part(turn, self._plan.options.rounds) for pool in (lookups, introductions))
        for who in _from(turn, everybody):
            await self._measure(lookups.name, who, lambda who: cells.read_first(who, some, theirs))

    async def _stories(self, who: Contestant) -> None:
        seconds = self._story_seconds
        hundred, many = self._pools["lookup of 100"], self._pools["lookup of 10000"]
        await self._measure(BIND, who, lambda who: cells.bind(who, seconds=seconds))
        await self._measure(INVITE, who, lambda who: cells.invite(who, seconds=seconds))
        await self._measure(WHILE_BINDING, who, lambda who: cells.read_while_binding(who, hundred, seconds=seconds))
        await self._measure(PING_WHILE, who, lambda who: cells.ping_while_looking_up(who, many, seconds=seconds))

    # --- the rest -------------------------------------------------------------------------

    async def _as_installed(self) -> None:
        """One question at a time, in one round: it scans, and who waits in line says nothing more."""
        names = [pool.name for pool in self._pools.values() if pool.name.startswith("lookup")]
        wants_bind = self._associations <= _LARGEST_FOR_SLOW_ONES
        if not any(map(self._plan.options.wants, [*names, *([BIND] if wants_bind else [])])):
            return
        server = servers.sydent(self._data, self._folder("installed"), smtp_port=self._plan.smtp_port, helped=False)
        async with self._plan.serving(self._associations, server) as who:
            for name in names:
                await self._measure(name, who, self._reading(self._pools[name], cells.read_one_by_one))
            if wants_bind:
                for _ in range(self._plan.options.rounds):
                    await self._measure(BIND, who, lambda who: cells.bind(who, seconds=self._story_seconds))

    async def _sydents_rotation(self) -> None:
        """It has no command for it: it is stopped, its pepper is deleted, and it hashes everything anew as it starts."""
        place = Place(self._associations, ROTATION, HELPED)
        if not self._plan.options.wants(ROTATION):
            return
        if self._associations > _LARGEST_FOR_SLOW_ONES and not self._plan.options.slow:
            self._plan.miss(place, "takes minutes; asked for by --slow")
            return
        server = servers.sydent(
            self._data, self._folder("rotated"), smtp_port=self._plan.smtp_port, keep_pepper=False
        )
        async with self._plan.serving(self._associations, server, cell=ROTATION):
            pass

    async def _workers(self) -> None:
        """Two processes against one, in turn."""
        names = [name for name in _WORKER_POOLS if self._plan.options.wants(by_workers(name))]
        if not names:
            return
        if not _has_key("http", "workers"):
            for name in names:
                self._plan.miss(
                    Place(self._associations, by_workers(name), TWO_WORKERS), "there is no http.workers yet"
                )
            return
        server = servers.ours(self._data, self._folder("workers"), smtp_port=self._plan.smtp_port, workers=2)
        alone = servers.ours(self._data, self._folder("alone"), smtp_port=self._plan.smtp_port)
        async with (
            self._plan.serving(self._associations, server) as two,
            self._plan.serving(self._associations, alone) as one,
        ):
            for turn in range(self._plan.options.rounds):
                for name in names:
                    for who in _from(turn, (one, two)):
                        await self._measure(by_workers(name), who, self._reading(self._pools[name]))
            await self._measure(MEMORY, two, cells.memory)

    # --- helpers --------------------------------------------------------------------------

    def _reading(self, pool: Pool, read: Callable[..., Awaitable[Figures]] = cells.read) -> Measure:
        return lambda who: read(who, pool, seconds=self._plan.options.seconds)

    async def _measure(self, cell: str, who: Contestant, measure: Measure) -> None:
        await self._plan.measure(self._associations, cell, who, measure)

    @asynccontextmanager
    async def _serving(self, make: servers.Make, name: str) -> AsyncIterator[Contestant]:
        """One of those compared: it is started, ended, and started again, for what it has kept of the first start."""
        server = make(self._data, self._folder(name), smtp_port=self._plan.smtp_port)
        if server.database is not None and self._plan.options.wants(START_FIRST):
            async with self._plan.serving(self._associations, server, cell=START_FIRST):
                pass
        async with self._plan.serving(
            self._associations, server, cell="" if server.database is None else START_AGAIN
        ) as who:
            yield who

    def _folder(self, name: str) -> Path:
        return self._plan.folder_of(self._associations, name)

    @property
    def _story_seconds(self) -> float:
        """Stories are longer than requests, so they get more time."""
        return _STORY_FACTOR * self._plan.options.seconds


def by_workers(cell: str) -> str:
    """The name of a cell that one worker and two go through in turn."""
    return f"{cell}, by one worker and by two"


def _from(turn: int, everybody: tuple[Contestant, ...]) -> tuple[Contestant, ...]:
    """Everybody, beginning with another one each turn."""
    first = turn % len(everybody)
    return everybody[first:] + everybody[:first]


def _has_key(section: str, name: str) -> bool:
    """Whether the product has this setting yet."""
    return any(each.name == section and name in each.keys for each in all_sections())


def told(failed: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(failed, BaseExceptionGroup):
        return told(failed.exceptions[0])
    return (str(failed) or type(failed).__name__).split("\n")[0]
