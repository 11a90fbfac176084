"""PostgreSQL goes away under load: whoever asks meanwhile gets 503, and when it is back everything goes on.

One session that is killed, a pool that is exhausted, and who notices what are in tests/postgresql/.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.fire.gaps import FIRST_SUCCESS_SECONDS, ride_out
from tests.fire.load import Load
from tests.fire.report import Proof
from tests.fire.stage import set_up
from tests.support.postgresql import PostgresqlServer


@asynccontextmanager
async def restarted(server: PostgresqlServer) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    yield
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def crashed(server: PostgresqlServer) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop, at_once=True)
    yield
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def frozen(server: PostgresqlServer) -> AsyncIterator[None]:
    server.freeze()
    yield
    server.thaw()


@asynccontextmanager
async def cut_off(server: PostgresqlServer) -> AsyncIterator[None]:
    await asyncio.to_thread(server.cut)
    yield


@pytest.mark.parametrize(
    ("outage", "did", "seconds", "full_seconds", "times"),
    [
        (restarted, "restarted", 0.5, 2, 10),
        (crashed, "stopped at once, as by a crash, and started", 0.5, 2, 10),
        (frozen, "frozen for 30 s", 3, 30, 3),
        (cut_off, "alive, but every connection cut", 0, 0, 30),
    ],
    ids=["restarted", "crashed", "frozen", "cut off"],
)
async def test_outage_is_a_gap_and_nothing_else(
    tmp_path: Path,
    proof: Proof,
    outage: Callable[[PostgresqlServer], AbstractAsyncContextManager[None]],
    did: str,
    seconds: float,
    full_seconds: float,
    times: int,
) -> None:
    times = proof.rounds(quick=1, full=times)
    async with set_up(tmp_path, "postgresql") as stage, Load(stage) as load:
        server = stage.server.postgresql
        assert server is not None
        gaps = await ride_out(
            load, lambda: outage(server), seconds=full_seconds if proof.is_full else seconds, times=times
        )
    for gap in gaps:
        assert gap.statuses.keys() <= {200, 503}, gap
        assert gap.back_after_seconds < proof.within(FIRST_SUCCESS_SECONDS)
    slowest = max(gap.back_after_seconds for gap in gaps)
    told = sum(gap.statuses[503] for gap in gaps)
    proof.record(
        f"PostgreSQL {did}, under load",
        times=times,
        outcome=f"0 lost; {told} answers were 503, none any other error; the first success came after {slowest:.1f} s"
        " at most",
    )
