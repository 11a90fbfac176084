"""The root key changes while people look up and bind, and whoever changes it is killed on the way.

At the size of the figures in docs/operating.md (half an hour):

    IDENTITY_SERVER_TESTS_BINDINGS=1000000 .venv/bin/python -m pytest -s tests/processes/test_root_key_rotation.py
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e.processes import reserve_port
from tests.processes.conftest import REPOSITORY, Server
from tests.processes.test_pepper_rotation import BINDINGS, NO_END, Proof, fill, looking_up
from tests.support import stepwise
from tests.support.postgresql import PostgresqlServer
from tests.support.stepwise import kill_when

_PATIENCE_SECONDS = 3000.0
_COUNT = "SELECT key_id, count(*) FROM associations GROUP BY key_id"
# On PostgreSQL each step waits for as long as a transaction may last, half a minute. None does here.
_COMMAND = """
from identity_server.__main__ import main
from identity_server.storage.database import Database

Database.straggling_seconds = 1.0
main()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def server(server: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that isn't started yet, on either engine."""
    if request.param == "sqlite":
        yield server
        return
    server.postgresql = PostgresqlServer()
    try:
        server.configure()
        yield server
        server.program.kill()
    finally:
        server.postgresql.remove()


async def run(server: Server, command: str, *, stops_after_commits: bool = False) -> asyncio.subprocess.Process:
    """Start `identity-server keys`, as an operator does."""
    program = ("-m", "identity_server") if server.postgresql is None else ("-c", _COMMAND)
    if stops_after_commits:
        program = ("-c", stepwise.PREPARED + _COMMAND)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "keys", command, "-c", str(server.conf)),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def some_are_sealed_anew(server: Server, former: str) -> bool:
    """Whether there are rows of either key, the new one's being more than what was bound meanwhile."""
    left: dict[str, int] = dict(server.rows(_COUNT))
    return left.get(former, 0) <= BINDINGS - 1_000


async def test_nobody_notices_that_the_root_key_changes(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = reserve_port()
    http = f"internalapi.http.bind_address = 127.0.0.1\ninternalapi.http.port = {port}"
    lookup = NO_END
    server.configure(workers=2, http=http, lookup=lookup)
    await fill(server)
    server.start(workers=2, http=http, lookup=lookup)
    await server.add_account()
    ((former, _),) = server.rows(_COUNT)
    proof, begun = Proof(), time.monotonic()
    async with looking_up(server, proof, f"http://127.0.0.1:{port}"):
        rotation = await run(server, "rotate-root", stops_after_commits=True)
        halfway = partial(some_are_sealed_anew, server, former)
        await asyncio.to_thread(kill_when, halfway, rotation.pid, seconds=_PATIENCE_SECONDS)
        await rotation.wait()
        assert len(server.rows(_COUNT)) == 2, "it was killed in the middle"
        async with asyncio.timeout(_PATIENCE_SECONDS):
            rotation = await run(server, "rotate-root")
            output, _ = await rotation.communicate()
        assert rotation.returncode == 0, output.decode()
        assert "Nothing is sealed by the former root key any more." in output.decode()
        await proof.has_seen({"bind_and_find 5": 11})
    if "IDENTITY_SERVER_TESTS_BINDINGS" in os.environ:
        with capsys.disabled():
            sys.stdout.write(f"\nThe root key was replaced in {time.monotonic() - begun:.0f} s.{proof.summary([])}")

    assert proof.failures == []
    ((key_id, count),) = server.rows(_COUNT)
    assert key_id != former
    assert server.rows("SELECT count(DISTINCT address_blind) FROM associations") == [(count,)]
    assert server.stop() == 0
    (server.folder / "keys" / "root.key").unlink()
    status = await run(server, "status")
    output, _ = await status.communicate()
    assert f"Sealed by root key {key_id}." in output.decode(), "only the new key is needed from now on"
