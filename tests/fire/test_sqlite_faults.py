"""SQLite can't write under load: whoever asks meanwhile gets 503, nothing that was acknowledged is lost, and as soon as
it can be written again everything goes on by itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.fire.gaps import FIRST_SUCCESS_SECONDS, ride_out
from tests.fire.load import Load
from tests.fire.report import Proof
from tests.fire.stage import Server, set_up

_DISK_MIB = 24
_BLOCK = bytes(1 << 16)
_LOCKED_SECONDS = 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the database, if this user may make one."""
    database = tmp_path / "db"
    database.mkdir(mode=0o700)
    if os.geteuid() != 0:
        yield database
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=700", "tmpfs", str(database)]
    is_mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    yield database
    if is_mounted:
        subprocess.run(["umount", "--lazy", str(database)], check=True)


@asynccontextmanager
async def full_disk(server: Server) -> AsyncIterator[None]:
    """Nothing is left on the disk that the database is on."""
    if not server.database.parent.is_mount():
        pytest.skip("this user can't make a small disk; see the file that may not grow")
    filler = server.database.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (len(_BLOCK), 512):
            try:
                while True:
                    file.write(_BLOCK[:size])
            except OSError:
                continue
    yield
    filler.unlink()


@asynccontextmanager
async def no_growth(server: Server) -> AsyncIterator[None]:
    server.set_pragma("max_page_count = 1")
    yield
    server.set_pragma(f"max_page_count = {2**30}")


@asynccontextmanager
async def read_only(server: Server) -> AsyncIterator[None]:
    server.set_pragma("query_only = 1")
    yield
    server.set_pragma("query_only = 0")


@asynccontextmanager
async def locked(server: Server) -> AsyncIterator[None]:
    """A stranger writes for a long time: a careless backup, a forgotten shell."""
    with closing(sqlite3.connect(server.database, isolation_level=None, timeout=20)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        yield
        stranger.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("outage", "did", "seconds", "times"),
    [
        (full_disk, "full disk", 2, 10),
        (no_growth, "file that may not grow (SQLITE_FULL)", 4, 10),
        (read_only, "file that can't be written (SQLITE_READONLY)", 1, 10),
        (locked, "file that a stranger has locked for 10 s", _LOCKED_SECONDS, 5),
    ],
    ids=["full disk", "no growth", "read-only", "locked"],
)
async def test_fault_is_a_gap_and_nothing_else(
    tmp_path: Path,
    small_disk: Path,
    proof: Proof,
    outage: Callable[[Server], AbstractAsyncContextManager[None]],
    did: str,
    seconds: float,
    times: int,
) -> None:
    times = proof.rounds(quick=1, full=times)
    async with set_up(tmp_path, "sqlite") as stage, Load(stage) as load:
        # A lock is waited for, longer than this one is held.
        until_told = outage is not locked
        gaps = await ride_out(load, lambda: outage(stage.server), seconds=seconds, times=times, until_told=until_told)
        assert await asyncio.to_thread(integrity, stage.server.database) == "ok"
    for gap in gaps:
        assert gap.statuses.keys() <= {200, 503}, gap
        assert gap.back_after_seconds < proof.within(FIRST_SUCCESS_SECONDS)
    slowest = max(gap.back_after_seconds for gap in gaps)
    told = sum(gap.statuses[503] for gap in gaps)
    proof.record(
        f"SQLite on a {did}, under load",
        times=times,
        outcome=f"0 lost; {told} answers were 503, none any other error; the first success came after {slowest:.1f} s"
        " at most",
    )


def integrity(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        verdict: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
    return verdict
