"""What is measured, one function per kind; each returns figures of one server for one round.

The rule: a figure is returned only if every answer that was looked at was true.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from bench import requests, world
from bench.checking import Checker, WrongAnswer, require_full_answers
from bench.client import BadAnswer, Connection
from bench.databases import REPOSITORY
from bench.requests import V2, Pool, render
from bench.servers import Server, busy_seconds
from bench.sinks import Mailbox
from bench.steady import percentile, steadily
from bench.stories import People, Told
from bench.wrk import Load, drive

Figures = Mapping[str, float]

_CONNECTIONS = 16
# A lookup of ten thousand keeps a server busy by itself; with many waiting, few would be done within the time.
_CONNECTIONS_OF = {"lookup of 1000": 8, "lookup of 10000": 2}
_AT_LEAST = 2
_TELLERS = 16
_BACKGROUND_TELLERS = 4
_BACKGROUND_BINDS_PER_SECOND = 20.0
_PINGS_PER_SECOND = 50.0
_LOOKUPS_PER_SECOND = 100.0
_DRAIN_SECONDS = 60
_WARM_CONNECTIONS = 4
_ROTATION_SECONDS = 600


@dataclass(slots=True)
class Contestant:
    """A running server, and those who look after the truth of what it says."""

    server: Server
    mailbox: Mailbox
    pools: Path
    checker: Checker = field(init=False)
    people: People = field(init=False)
    _is_warm: bool = False
    _learnt: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.checker = Checker(self.server.name, self.server.port)
        self.people = People(self.server.port, self.mailbox, run=f"{int(time.time()):x}")

    async def warm_up(self) -> None:
        """Have every account ask once, as all have of a server that has been running for a day.

        Over so many connections that no worker is left without one: of two, one may have three more than the other.
        """
        if self._is_warm:
            return
        self._is_warm = True
        connections = [Connection(self.server.port) for _ in range(_WARM_CONNECTIONS)]
        for connection in connections:
            await connection.ask(requests.pings().exchanges[0].request)
        # One after the other: whoever asks for the same at once has it read from the database several times.
        for connection in connections:
            for exchange in requests.accounts().exchanges:
                await connection.ask(exchange.request)
        for connection in connections:
            connection.close()

    async def learn(self, pool: Pool) -> None:
        """Have every lookup of a pool asked once, as people do who look up their contacts every day.

        What an account asks for the first time is charged to its budgets, and that has a cell of its own.
        """
        if not pool.name.startswith("lookup") or not _has_budgets(self.server) or pool.name in self._learnt:
            return
        self._learnt.add(pool.name)
        if self.server.workers == 1:
            await self.checker.check_once(pool.exchanges, connections=_CONNECTIONS)
        else:
            # Every worker has to know.
            await asyncio.gather(*(self.checker.check(pool.exchanges) for _ in range(_WARM_CONNECTIONS)))

    def file_of(self, pool: Pool) -> Path:
        """The pool as the load generator reads it."""
        path = self.pools / f"{pool.name.replace(' ', '-')}.requests"
        if not path.exists():
            pool.write(path)
        return path


@dataclass(slots=True)
class _Shares:
    """How much of one core each side has used.

    Attributes:
        driver: this process, which tells stories, checks, and plays relay and homeservers.
        rest: everything else on the machine; wrk as well, where it is the load generator.
    """

    server: float = 0.0
    driver: float = 0.0
    rest: float = 0.0


@asynccontextmanager
async def _shares(server: Server) -> AsyncIterator[_Shares]:
    shares = _Shares()
    before = server.cpu_seconds(), time.process_time(), busy_seconds(), time.monotonic()
    yield shares
    seconds = time.monotonic() - before[3]
    shares.server = (server.cpu_seconds() - before[0]) / seconds
    shares.driver = (time.process_time() - before[1]) / seconds
    shares.rest = max(0.0, (busy_seconds() - before[2]) / seconds - shares.server - shares.driver)


async def read_one_by_one(who: Contestant, pool: Pool, *, seconds: float) -> Figures:
    """Requests that change nothing, each after the answer to the one before, and every answer compared.

    For servers that take so long that nothing else matters; two are asked however long they take.
    """
    exchanges = iter(cycle(pool.exchanges))
    answers, started = 0, time.monotonic()
    async with _shares(who.server) as shares:
        while answers < _AT_LEAST or time.monotonic() - started < seconds:
            await who.checker.check([next(exchanges)])
            answers += 1
        per_second = answers / (time.monotonic() - started)
    return {
        "per_second": per_second,
        "per_core_second": per_second / shares.server,
        "server_share": shares.server,
        "generator_share": shares.driver,
        "others_share": shares.rest,
    }


async def read(
    who: Contestant, pool: Pool, *, seconds: float, connections: int | None = None, is_watched: bool = True
) -> Figures:
    """Requests that change nothing, as fast as they are answered.

    Args:
        who: is asked.
        pool: what.
        seconds: for how long.
        connections: over how many at once.
        is_watched: whether answers are also compared during the load, by one more client.
    """
    connections = connections or _CONNECTIONS_OF.get(pool.name, _CONNECTIONS)
    # Of the bare handler only the size of answers is true.
    if who.server.database is None:
        async with _shares(who.server) as shares:
            load = await drive(who.server.port, who.file_of(pool), seconds=seconds, connections=connections)
        return _read_figures(load, shares, meanwhile=0)
    await who.warm_up()
    await who.learn(pool)
    async with who.checker.watching(pool, meanwhile=is_watched) as checked, _shares(who.server) as shares:
        load = await drive(who.server.port, who.file_of(pool), seconds=seconds, connections=connections)
    require_full_answers(load, checked, connections=connections)
    return _read_figures(load, shares, meanwhile=checked.meanwhile)


async def read_first(who: Contestant, pool: Pool, introductions: Pool) -> Figures:
    """Requests of which each is sent once, and every answer compared.

    Args:
        who: is asked.
        pool: what.
        introductions: are sent beforehand, as apps do, and don't count.
    """
    await who.warm_up()
    await who.checker.check_once(introductions.exchanges, connections=_CONNECTIONS)
    connections = _CONNECTIONS_OF.get(pool.name.removesuffix(", first"), _CONNECTIONS)
    started = time.monotonic()
    async with _shares(who.server) as shares:
        took_ms = await who.checker.check_once(pool.exchanges, connections=connections)
    per_second = len(took_ms) / (time.monotonic() - started)
    return {
        "per_second": per_second,
        "per_core_second": per_second / shares.server,
        "p50_ms": percentile(took_ms, 50),
        "p99_ms": percentile(took_ms, 99),
        "server_share": shares.server,
        "generator_share": shares.driver,
        "others_share": shares.rest,
    }


def _read_figures(load: Load, shares: _Shares, *, meanwhile: int) -> Figures:
    # Of a slow server, the one who compares takes a good part of the answers: they count as well.
    per_second = (load.requests + meanwhile) / load.seconds
    return {
        "per_second": per_second,
        # What it would be with a core to itself: neighbours on the machine take time, but don't make work.
        "per_core_second": per_second / shares.server,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "server_share": shares.server,
        "generator_share": load.generator_share,
        "others_share": max(0.0, shares.rest - load.generator_share),
    }


async def bind(who: Contestant, *, seconds: float) -> Figures:
    """The full flow, from requestToken through the mail to bind."""
    async with _shares(who.server) as shares:
        told = await who.people.tell(who.people.bind, at_once=_TELLERS, seconds=seconds)
    await who.people.look_up_bound()
    return _story_figures(told, shares, await _drain(who.server))


async def invite(who: Contestant, *, seconds: float) -> Figures:
    """Invites of people whom nobody knows, each with its mail.

    Raises:
        WrongAnswer: an invite has no mail.
    """
    before = who.mailbox.received
    async with _shares(who.server) as shares:
        told = await who.people.tell(who.people.invite, at_once=_TELLERS, seconds=seconds)
    drain_seconds = await _drain(who.server)
    mails = who.mailbox.received - before
    if mails != len(told.durations_ms):
        raise WrongAnswer(f"{len(told.durations_ms)} invites, but {mails} mails")
    return _story_figures(told, shares, drain_seconds)


def _story_figures(told: Told, shares: _Shares, drain_seconds: float) -> Figures:
    return {
        "per_second": told.per_second,
        "per_core_second": told.per_second / shares.server,
        "p50_ms": told.percentile_ms(50),
        "p99_ms": told.percentile_ms(99),
        "server_share": shares.server,
        "generator_share": shares.driver,
        "others_share": shares.rest,
        # Notices and mails that nobody waited for.
        "drain_seconds": drain_seconds,
    }


async def read_while_binding(who: Contestant, pool: Pool, *, seconds: float) -> Figures:
    """Lookups as fast as they are answered, while others go through the full flow at a steady pace."""
    background = who.people.telling(
        who.people.bind, at_once=_BACKGROUND_TELLERS, per_second=_BACKGROUND_BINDS_PER_SECOND
    )
    async with background as told:
        figures = await read(who, pool, seconds=seconds)
    await who.people.look_up_bound()
    await _drain(who.server)
    return {**figures, "binds_per_second": told.per_second, "bind_p99_ms": told.percentile_ms(99)}


async def ping_while_looking_up(who: Contestant, pool: Pool, *, seconds: float) -> Figures:
    """How long a ping takes while one client looks up ten thousand addresses at a time."""
    async with steadily(who.server.port, requests.pings(), per_second=_PINGS_PER_SECOND) as waits:
        figures = await read(who, pool, seconds=seconds, connections=1, is_watched=False)
    return {
        "p50_ms": percentile(waits.took_ms, 50),
        "p99_ms": percentile(waits.took_ms, 99),
        "max_ms": max(waits.took_ms),
        "lookups_per_second": figures["per_second"],
    }


async def memory(who: Contestant) -> Figures:
    """What its processes take, after work; in bytes."""
    first, *others = who.server.memory()
    found = {"rss": first.rss, "pss": first.pss, "uss": first.uss, "processes": 1 + len(others)}
    found["pss_of_all"] = first.pss + sum(each.pss for each in others)
    if others:
        found["largest_uss_of_others"] = max(each.uss for each in others)
    return found


async def rotate(who: Contestant, pool: Pool, *, seconds: float) -> Figures:
    """What a rotation of the pepper costs, and those who look up meanwhile.

    Raises:
        WrongAnswer: the associations have changed.
    """
    database = who.server.database
    assert database is not None, "a server without data has no pepper"
    await who.learn(pool)
    before = await asyncio.to_thread(_fingerprint, database)
    async with (
        steadily(who.server.port, pool, per_second=_LOOKUPS_PER_SECOND) as waits,
        _shares(who.server) as shares,
    ):
        started = time.monotonic()
        await asyncio.sleep(seconds)
        begun = time.monotonic()
        await _rotate(who.server)
        await _new_pepper(who.server.port)
        ended = time.monotonic()
        await asyncio.sleep(1)
    if await asyncio.to_thread(_fingerprint, database) != before:
        raise WrongAnswer("a rotation has written associations")
    normal, meanwhile = waits.between(started, begun), waits.between(begun, ended)
    return {
        "seconds": ended - begun,
        "normal_p99_ms": percentile(normal, 99),
        "normal_max_ms": max(normal),
        "p99_ms": percentile(meanwhile, 99),
        "max_ms": max(meanwhile),
        "server_share": shares.server,
    }


async def _rotate(server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "identity_server", "pepper", "rotate", "-c", str(server.folder / "sydent.conf")),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **server.env},
        cwd=server.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise BadAnswer(f"the pepper can't be rotated: {output.decode()[-500:]}")


async def _new_pepper(port: int) -> None:
    """Wait until the server gives out another pepper."""
    connection = Connection(port)
    request = render("GET", f"{V2}/hash_details", token=world.account(0).token)
    deadline = time.monotonic() + _ROTATION_SECONDS
    try:
        while (await connection.ask(request)).json()["lookup_pepper"] == world.PEPPER:
            if time.monotonic() > deadline:
                raise BadAnswer(f"no new pepper within {_ROTATION_SECONDS} s")
            await asyncio.sleep(0.05)
    finally:
        connection.close()


def _fingerprint(database: Path) -> str:
    """Of every association, and of the feed's head."""
    digest = hashlib.sha256()
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        for row in connection.execute("SELECT * FROM associations ORDER BY id"):
            digest.update(repr(row).encode())
        digest.update(repr(connection.execute("SELECT max(change_seq) FROM association_changes").fetchone()).encode())
    return digest.hexdigest()


async def _drain(server: Server) -> float:
    """Wait until everything that was put off is done, or the next figures would pay for it; returns the seconds."""
    started = time.monotonic()
    while await asyncio.to_thread(_backlog, server.database):
        if time.monotonic() - started > _DRAIN_SECONDS:
            raise BadAnswer(f"{server.name} still has jobs after {_DRAIN_SECONDS} s")
        await asyncio.sleep(0.1)
    return time.monotonic() - started


def _has_budgets(server: Server) -> bool:
    return server.database is not None and _is_ours(server.database)


def _is_ours(database: Path) -> bool:
    return database.name == "identity.db"


def _backlog(database: Path | None) -> int:
    """Jobs of ours; Sydent keeps its own in memory, and sends at once."""
    if database is None or not _is_ours(database):
        return 0
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        return int(jobs)
