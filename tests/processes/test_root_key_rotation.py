"""The root key changes while people look up and bind, and whoever changes it is killed on the way."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.e2e.processes import reserve_port
from tests.processes.conftest import REPOSITORY, Server
from tests.processes.test_pepper_rotation import NO_END, Proof, fill, looking_up
from tests.support.databases import read_rows

_PATIENCE_SECONDS = 240.0
_COUNT = "SELECT key_id, count(*) FROM associations GROUP BY key_id"


async def run(server: Server, command: str) -> asyncio.subprocess.Process:
    """Start `identity-server keys`, as an operator does."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "identity_server", "keys", command, "-c", str(server.conf)),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def until_some_are_sealed_anew(database: Path, former: str) -> None:
    """Wait until there are rows of either key, the new one's being more than what was bound meanwhile."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while dict(read_rows(database, _COUNT)).get(former, 0) > 20_000:
            await asyncio.sleep(0.01)


async def test_nobody_notices_that_the_root_key_changes(server: Server) -> None:
    port, database = reserve_port(), server.folder / "db" / "identity.db"
    http = f"internalapi.http.bind_address = 127.0.0.1\ninternalapi.http.port = {port}"
    lookup = NO_END
    server.configure(workers=2, http=http, lookup=lookup)
    await fill(server)
    server.start(workers=2, http=http, lookup=lookup)
    await server.add_account()
    ((former, _),) = read_rows(database, _COUNT)
    proof = Proof()
    async with looking_up(server, proof, f"http://127.0.0.1:{port}"):
        rotation = await run(server, "rotate-root")
        await until_some_are_sealed_anew(database, former)
        rotation.kill()
        await rotation.wait()
        assert len(read_rows(database, _COUNT)) == 2, "it was killed in the middle"
        async with asyncio.timeout(_PATIENCE_SECONDS):
            rotation = await run(server, "rotate-root")
            output, _ = await rotation.communicate()
        assert rotation.returncode == 0, output.decode()
        assert "Nothing is sealed by the former root key any more." in output.decode()

    assert proof.failures == []
    assert proof.lookups["bind_and_find 5"] > 10
    ((key_id, count),) = read_rows(database, _COUNT)
    assert key_id != former
    assert read_rows(database, "SELECT count(DISTINCT address_blind) FROM associations") == [(count,)]
    assert server.stop() == 0
    (server.folder / "keys" / "root.key").unlink()
    status = await run(server, "status")
    output, _ = await status.communicate()
    assert f"Sealed by root key {key_id}." in output.decode(), "only the new key is needed from now on"
