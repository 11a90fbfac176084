"""The pepper changes again and again while people look up, and nobody ever gets a wrong, an empty or a refused answer.

At the size that was promised (half an hour):

    IDENTITY_SERVER_TESTS_ROTATIONS=20 IDENTITY_SERVER_TESTS_BINDINGS=1000000 IDENTITY_SERVER_TESTS_GRACE_SECONDS=30 \\
        .venv/bin/python -m pytest -s tests/processes/test_pepper_rotation.py
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout

from identity_server.config import load
from identity_server.domain.association import Association
from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.wiring.desks import open_storage
from tests.e2e.processes import reserve_port
from tests.processes.conftest import REPOSITORY, TOKEN, Server
from tests.support.harness import hashed

_ROTATIONS = int(os.environ.get("IDENTITY_SERVER_TESTS_ROTATIONS", "3"))
# More than are indexed by a worker itself, so that it is done as for a million.
BINDINGS = int(os.environ.get("IDENTITY_SERVER_TESTS_BINDINGS", "21000"))
_GRACE_SECONDS = int(os.environ.get("IDENTITY_SERVER_TESTS_GRACE_SECONDS", "6"))
_WORKERS = 3
_PATIENCE_SECONDS = 300.0
_BATCH = 10_000
_SAMPLE = 30
_LARGE_SAMPLE = 2_000
_STRANGERS = 3
# What an answer may take that is asked for at the last moment.
_MARGIN_SECONDS = 1.0
_PAUSE_SECONDS = 0.01
REGULARS = ("by_the_book 0", "at_the_last_moment 2", "with_many 4", "bind_and_find 5")
"""One of each kind of them."""
# One account asks for everybody here, which is what budgets are there to prevent.
NO_END = "\n".join(f"budget.{whose} = 1000000000" for whose in ("account", "homeserver_per_day", "network_per_day"))
_TS = 1_700_000_000_000


def address(number: int) -> str:
    return f"n{number}@example.com"


def user_id(number: int) -> str:
    return f"@n{number}:example.org"


@dataclass(slots=True)
class Proof:
    """What has been seen.

    Attributes:
        by_pepper: the peppers that were ever given out, in their order.
        newest_from: when each was first seen, by the monotonic clock.
        lookups: right answers, by who asked.
        with_former: right answers with a pepper that had been replaced already, by pepper.
        failures: all others.
    """

    newest_from: dict[str, float] = field(default_factory=dict)
    lookups: Counter[str] = field(default_factory=Counter)
    with_former: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    def summary(self, took: Sequence[float]) -> str:
        """What an operator would want to read; how long each new pepper took, if it was about these."""
        peppers = (
            f", {len(took)} new peppers, each given out after {min(took):.0f} to {max(took):.0f} s" if took else ""
        )
        return (
            f"\n{BINDINGS} bindings{peppers}. {self.lookups.total()} lookups right,"
            f" {self.with_former.total()} of them with a former pepper, and {len(self.failures)} not. The slowest took {self.slowest_seconds:.2f} s.\n"
        )

    async def has_seen(self, least: Mapping[str, int]) -> None:
        """Wait until everybody has had so many right answers."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while any(self.lookups[name] < count for name, count in least.items()):
                await asyncio.sleep(0.05)

    @property
    def newest(self) -> str:
        return next(reversed(self.newest_from))


class Asker:
    """Looks addresses up on connections of its own, so that it meets all workers."""

    def __init__(self, server: Server, proof: Proof, name: str, sessions: Sequence[ClientSession]) -> None:
        self._server = server
        self._proof = proof
        self._name = name
        self._sessions = itertools.cycle(sessions)
        self._random = random.Random(name)
        self._told_at = 0.0

    async def hash_details(self) -> str:
        """The pepper to hash with now."""
        self._told_at = time.monotonic()
        async with next(self._sessions).get(f"{self._server.base}/_matrix/identity/v2/hash_details") as response:
            pepper: str = (await response.json())["lookup_pepper"]
        self._proof.newest_from.setdefault(pepper, time.monotonic())
        return pepper

    async def look_up_late(self, former: str, *, told_at: float) -> None:
        """Ask with a pepper that it was told that long ago."""
        self._told_at = told_at
        await self.look_up(former)

    async def look_up(self, pepper: str, *, sample: int = _SAMPLE, extra: Sequence[int] = ()) -> None:
        """Ask for some that are bound and some that aren't, and compare the whole answer."""
        numbers = [*self._random.sample(range(BINDINGS), min(sample, BINDINGS)), *extra]
        expected = {hashed(address(number), pepper): user_id(number) for number in numbers}
        strangers = [hashed(address(-1 - self._random.randrange(10**9)), pepper) for _ in range(_STRANGERS)]
        body = {"algorithm": "sha256", "pepper": pepper, "addresses": [*expected, *strangers]}
        begun, former = time.monotonic(), pepper != self._proof.newest
        async with next(self._sessions).post(
            f"{self._server.base}/_matrix/identity/v2/lookup", json=body
        ) as response:
            answer = await response.json()
        self._proof.slowest_seconds = max(self._proof.slowest_seconds, time.monotonic() - begun)
        if answer == {"mappings": expected}:
            self._proof.lookups[self._name] += 1
            self._proof.with_former[pepper] += former
            return
        if response.status == 400 and time.monotonic() >= self._told_at + _GRACE_SECONDS:
            # A busy machine has kept it waiting for longer than it had.
            return
        found = len(answer.get("mappings", ())) if response.status == 200 else answer
        self._proof.failures.append(
            f"{self._name}: {response.status}, {found} of {len(expected)}, {begun - self._proof.newest_from[pepper]:.3f} s"
            f" after this pepper was seen first, {'a former' if former else 'the newest'} one"
        )


async def by_the_book(asker: Asker) -> None:
    """As apps do: ask what to hash with, and hash."""
    await asker.look_up(await asker.hash_details())


async def at_the_last_moment(asker: Asker) -> None:
    """As an app does that keeps the pepper for as long as it may."""
    end = time.monotonic() + _GRACE_SECONDS - _MARGIN_SECONDS
    pepper = await asker.hash_details()
    while time.monotonic() < end:
        await asker.look_up(pepper)
        await asyncio.sleep(_PAUSE_SECONDS)


async def with_many(asker: Asker) -> None:
    """As an app does that asks for a whole address book."""
    await asker.look_up(await asker.hash_details(), sample=_LARGE_SAMPLE)


class Binder:
    """Binds addresses meanwhile, by the internal listener; they are found by the next lookup, whatever the pepper."""

    def __init__(self, base: str, session: ClientSession) -> None:
        self._base = base
        self._session = session
        self._numbers = itertools.count(BINDINGS)

    async def bind_and_find(self, asker: Asker) -> None:
        pepper, number = await asker.hash_details(), next(self._numbers)
        binding = {"medium": "email", "address": address(number), "mxid": user_id(number)}
        async with self._session.post(f"{self._base}/_matrix/identity/internal/bind", json=binding) as response:
            assert response.status == 200, await response.text()
        await asker.look_up(pepper, extra=[number])


def client() -> ClientSession:
    """Connections of somebody with an account."""
    return ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=ClientTimeout(total=_PATIENCE_SECONDS))


async def fill(server: Server) -> None:
    """Bind everybody, behind the server's back."""
    async with open_storage(load(server.conf, environ={})) as storage:
        for start in range(0, BINDINGS, _BATCH):
            rows = [(number + 1, _association(number)) for number in range(start, min(start + _BATCH, BINDINGS))]
            await storage.database.transaction(
                lambda tx, rows=rows: tx.associations.put_all(rows, now_ms=_TS),  # type: ignore[misc]
                bulk=True,
            )


def _association(number: int) -> Association:
    threepid = Threepid(Medium.EMAIL, address(number))
    return Association.starting(_TS, threepid=threepid, user_id=UserId(user_id(number)))


@asynccontextmanager
async def looking_up(server: Server, proof: Proof, internal: str) -> AsyncIterator[None]:
    """Have people look up, without a pause, for as long as the block runs."""
    stopped = asyncio.Event()
    sessions = [client() for _ in range(12)]
    binder = Binder(internal, ClientSession(timeout=ClientTimeout(total=_PATIENCE_SECONDS)))

    async def go_on(step: Callable[[Asker], Awaitable[None]], asker: Asker) -> None:
        while not stopped.is_set():
            await step(asker)
            # Some processor time is left for what the proof is about.
            await asyncio.sleep(_PAUSE_SECONDS)

    steps = [by_the_book, by_the_book, at_the_last_moment, at_the_last_moment, with_many, binder.bind_and_find]
    names = [f"{step.__name__} {number}" for number, step in enumerate(steps)]
    tasks = [
        asyncio.create_task(
            go_on(step, Asker(server, proof, name, [*sessions[number::6], *sessions[(number + 1) % 6 :: 6]]))
        )
        for number, (step, name) in enumerate(zip(steps, names, strict=True))
    ]
    try:
        yield
        for task in tasks:
            # What ended by itself says why.
            assert not task.done() or task.result() is None
    finally:
        stopped.set()
        await asyncio.gather(*tasks)
        for session in [*sessions, binder._session]:
            await session.close()


async def rotate(server: Server, proof: Proof, late: Asker) -> None:
    """Rotate as an operator does, and wait until the new pepper is given out; somebody has not heard of it yet."""
    begun, known, former = time.monotonic(), len(proof.newest_from), proof.newest
    command = (sys.executable, "-m", "identity_server", "pepper", "rotate", "-c", str(server.conf))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while len(proof.newest_from) == known:
            await asyncio.sleep(0.01)
        await late.look_up_late(former, told_at=begun)


async def ask_once(server: Server, pepper: str) -> tuple[int, Any]:
    body = {"algorithm": "sha256", "pepper": pepper, "addresses": [hashed(address(0), pepper)]}
    async with (
        ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
        session.post(f"{server.base}/_matrix/identity/v2/lookup", json=body) as response,
    ):
        return response.status, await response.json()


async def test_nobody_notices_that_the_pepper_changes(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = reserve_port()
    http = f"internalapi.http.bind_address = 127.0.0.1\ninternalapi.http.port = {port}"
    lookup = f"pepper_grace_seconds = {_GRACE_SECONDS}\n{NO_END}"
    server.configure(workers=_WORKERS, http=http, lookup=lookup)
    await fill(server)
    server.start(workers=_WORKERS, http=http, lookup=lookup)
    await server.add_account()
    proof, took = Proof(), []
    async with looking_up(server, proof, f"http://127.0.0.1:{port}"), client() as session:
        late = Asker(server, proof, "late", [session])
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not proof.newest_from:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        for _ in range(_ROTATIONS):
            begun = time.monotonic()
            await rotate(server, proof, late)
            took.append(time.monotonic() - begun)
            # So that the former one is used, and the one before that is over.
            await asyncio.sleep(_GRACE_SECONDS / 2)
        await asyncio.sleep(_GRACE_SECONDS)
        await proof.has_seen(dict.fromkeys(REGULARS, _ROTATIONS))
    if "IDENTITY_SERVER_TESTS_ROTATIONS" in os.environ:
        with capsys.disabled():
            sys.stdout.write(proof.summary(took))

    assert proof.failures == []
    peppers = list(proof.newest_from)
    assert len(peppers) == _ROTATIONS + 1
    for pepper in peppers[:-1]:
        assert proof.with_former[pepper] > 0, "the proof is about these above all"
    # Without an end to the grace time, a pepper would protect nobody.
    status, refused = await ask_once(server, peppers[0])
    assert (status, refused["errcode"], refused["lookup_pepper"]) == (400, "M_INVALID_PEPPER", peppers[-1])
    assert server.stop() == 0
