"""Workers are killed under load, and nobody notices but those whose requests they had."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from tests.processes.conftest import Server, is_alive, wait_until
from tests.processes.load import under_load

_WORKERS = 4
_CLIENTS = 8
_PAUSE_SECONDS = 2.0
_FEWEST_KILLS = 3

# A minute is what the server was made for; a few kills are what the tests have time for.
_SECONDS = float(os.environ.get("IDENTITY_SERVER_TESTS_KILL_SECONDS", "8"))


async def test_only_requests_inside_a_killed_worker_fail(server: Server) -> None:
    server.start(workers=_WORKERS)
    await server.add_account()
    kills: list[float] = []
    async with under_load(server, clients=_CLIENTS, keep_connections=False) as load:
        await load.grow(by=50)
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end or len(kills) < _FEWEST_KILLS:
            kills.append(time.monotonic())
            server.kill_worker(len(kills))
            await asyncio.sleep(_PAUSE_SECONDS)
            await asyncio.to_thread(server.wait_until_replaced, workers=_WORKERS)
        await load.grow(by=50)
    for failure in load.failures:
        assert any(failure.begun <= kill <= failure.ended for kill in kills), failure
        assert failure.cut_off, failure
    for kill in kills:
        lost = [failure for failure in load.failures if failure.begun <= kill <= failure.ended]
        assert len(lost) <= _CLIENTS
    assert server.workers_lost() == len(kills)
    assert server.stop() == 0


async def test_worker_that_cannot_start_is_tried_again_less_and_less_often(server: Server) -> None:
    server.start(workers=1)
    key = server.folder / "keys" / "root.key"
    kept = key.read_bytes()
    key.unlink()
    server.kill_worker()
    server.wait_for(lambda: server.workers_lost() >= 4)
    lost = [line for line in server.log.splitlines() if "worker.lost" in line]
    pauses = [float(line.rpartition("replaced_in_seconds=")[2].split()[0]) for line in lost]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0
    assert pauses[-1] >= 1
    assert "the root key of this database is missing" in lost[-1]
    key.write_bytes(kept)
    server.wait_for(lambda: len(server.ready_workers()) == 1)


def test_workers_end_when_their_parent_is_killed(server: Server) -> None:
    server.start(workers=3)
    workers = server.workers()
    os.kill(server.parent, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(worker) for worker in workers))
    # The port is free again.
    server.program.kill()
    (server.folder / "identity.pid").unlink()
    server.program.log.unlink()
    server.start(workers=1)
    assert server.stop() == 0
