"""The server is killed again and again under load, and nothing that it has acknowledged is lost or comes back.

Half of the kills come at random; the others at named points around the commits of use cases, before, during and after
(see launcher.py), each in its turn. Half of them take one worker, the others every process of the server at once.
Workers that are killed without anybody's noticing are in tests/processes/test_killed_workers.py, and a restart in the
middle of everybody's story in tests/e2e/test_restart.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.fire.load import SETTLES_SECONDS, Load
from tests.fire.report import Proof
from tests.fire.stage import Engine, Server, Stage, Victim, set_up

_PEOPLE = 12
_WARM_UP_STORIES = 40
_POINT_SECONDS = 6.0
_LONGEST_PAUSE_SECONDS = 0.4
_MOMENTS = ("before", "during", "after")
_RECENT = 150
_OTHERS = 50

# Without these it wouldn't have been about what people do.
_MUST_BE_HIT = {
    "Accounts.register",
    "Associations.bind",
    "Associations.unbind_by_session",
    "Invitations.store",
    "JobRunner._finish",
    "JobRunner.run_due",
    "TermsOfService.accept",
    "Validation.request_email_token",
    "Validation.submit_token",
}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_nothing_acknowledged_is_lost_and_nothing_undone_comes_back(
    tmp_path: Path, engine: Engine, proof: Proof
) -> None:
    kills = proof.rounds(quick=10, full=300)
    # Whoever is killed loses what was set aside of the day's budgets, and hundreds of deaths would use them up.
    env = {
        f"IDENTITY_SERVER__LOOKUP__BUDGET_{budget}": str(10**9)
        for budget in ("NETWORK_PER_DAY", "HOMESERVER_PER_DAY")
    }
    async with set_up(tmp_path, engine, env=env) as stage, Load(stage) as load:
        async with load.going_on(people=_PEOPLE):
            while load.stories < _WARM_UP_STORIES:
                await asyncio.sleep(0.05)
            points = _Points(stage.server)
            for number in range(kills):
                await load_for_a_while(load)
                await kill(stage.server, points, number, load)
                await load.pause()
                assert await load.check(subjects=load.recent(_RECENT, and_of_others=_OTHERS)) == []
                load.resume()
            await load.pause()
            await asyncio.sleep(SETTLES_SECONDS)
            assert await load.check() == []
            # What nobody knew, somebody has seen by now.
            assert await load.check() == []
            assert await load.delivered_within(300) == []
        # On a busy machine, somebody may be told to try again.
        assert {failure.status for failure in load.failures()} <= ({None} if proof.is_full else {None, 503})
        one_mail_each(stage)
        await whole(stage.server)
    assert set(points.known()) >= _MUST_BE_HIT
    told = ", ".join(f"{count} {effect}" for effect, count in sorted(load.ledger.acknowledged.items()))
    proof.record(
        f"`kill -9` of a worker or of all processes, on {engine}, at random and at {len(points.hit)} named points",
        times=kills,
        outcome=f"0 lost, 0 undone came back, of what was acknowledged: {told}",
    )


async def load_for_a_while(load: Load) -> None:
    """Have everybody get on by at least a few requests."""
    goal = len(load.answers) + _PEOPLE
    async with asyncio.timeout(120):
        while len(load.answers) < goal:
            await asyncio.sleep(0.005)


class _Points:
    """Which point comes next, and which were reached."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._last = ""
        self.hit: set[str] = set()
        self.missed: set[str] = set()
        self._random = random.Random("points")

    def known(self) -> list[str]:
        return self._server.use_cases()

    def next(self) -> str:
        """A point that wasn't hit yet, those of people's own requests first; when all were, any of them."""
        everything = [f"{name}:{moment}" for moment in _MOMENTS for name in self.known()]
        fresh = [point for point in everything if point not in self.hit | self.missed]
        wanted = [point for point in fresh if point.partition(":")[0] in _MUST_BE_HIT]
        return self._random.choice(wanted or fresh or sorted(self.hit))


async def kill(server: Server, points: _Points, number: int, load: Load) -> None:
    """Kill, and wait until the server is as before."""
    victim: Victim = "server" if number // 2 % 2 else "worker"
    ready_before = server.ready_count
    if number % 2:
        point = points.next()
        server.arm(point, victim)
        with suppress(TimeoutError):
            async with asyncio.timeout(_POINT_SECONDS):
                while not server.has_fired():
                    await asyncio.sleep(0.01)
        if server.has_fired():
            points.hit.add(point)
            await server.stands_again(victim, ready_before=ready_before)
            return
        # What upkeep does once an hour isn't waited for.
        points.missed.add(point)
        server.disarm()
    await asyncio.sleep(random.Random(number).uniform(0, _LONGEST_PAUSE_SECONDS))
    server.kill(victim)
    await server.stands_again(victim, ready_before=ready_before)


def one_mail_each(stage: Stage) -> None:
    """Nobody got two mails for one request; one that came again after a kill is the same mail, by its Message-ID."""
    letters = stage.relay.letters
    for address in {letter.to for letter in letters}:
        ids = {letter.message_id for letter in letters if letter.to == address and letter.token}
        assert len(ids) <= 1, address


async def whole(server: Server) -> None:
    """The journal's chain holds, and so does every page of SQLite's file."""
    command = (sys.executable, "-m", "identity_server", "audit", "verify", "-c", str(server.conf))
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **server.env}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    if server.postgresql is None:
        with closing(sqlite3.connect(server.database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
