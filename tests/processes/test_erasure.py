"""Somebody is erased beside a server of several workers: it knows nothing of them any more, and no file does."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from sqlite3 import connect

from aiohttp import ClientSession

from identity_server.config import load
from identity_server.domain.identifiers import parse_user_id
from identity_server.storage.database import Transaction
from identity_server.storage.sealing.sealer import token_digest
from identity_server.wiring.desks import open_storage
from tests.e2e.processes import PATIENCE_SECONDS, reserve_port
from tests.processes.conftest import REPOSITORY, TOKEN, Server
from tests.support import stepwise
from tests.support.harness import hashed
from tests.support.stepwise import kill_when

_WORKERS = 3
_CONNECTIONS = 9
_ALICE = "@alice:example.org"
_EMAIL = "walter.kestrel@example.com"
_BOBS_TOKEN = "a-token-of-bob"
_GONE = "gone.example"


class Callers:
    """Connections that are kept, and with them their workers."""

    def __init__(self, server: Server, sessions: list[ClientSession]) -> None:
        self._v2 = f"{server.base}/_matrix/identity/v2"
        self._sessions = sessions

    async def statuses(self, token: str) -> set[int]:
        """What all workers say to a token."""
        found = set()
        for session in self._sessions:
            async with session.get(f"{self._v2}/account", headers={"Authorization": f"Bearer {token}"}) as response:
                found.add(response.status)
        return found

    async def who_is(self, address: str) -> set[str | None]:
        """Whom all workers find behind an address, as Bob asks."""
        headers, found = {"Authorization": f"Bearer {_BOBS_TOKEN}"}, set()
        async with self._sessions[0].get(f"{self._v2}/hash_details", headers=headers) as response:
            pepper = (await response.json())["lookup_pepper"]
        asked = hashed(address, pepper)
        question = {"algorithm": "sha256", "pepper": pepper, "addresses": [asked]}
        for session in self._sessions:
            async with session.post(f"{self._v2}/lookup", json=question, headers=headers) as response:
                found.add((await response.json())["mappings"].get(asked))
        return found


async def start(server: Server, stack: AsyncExitStack) -> Callers:
    """A server that knows Alice and Bob, and to whom Alice's address belongs."""
    internal = reserve_port()
    server.start(
        workers=_WORKERS, http=f"internalapi.http.bind_address = 127.0.0.1\ninternalapi.http.port = {internal}"
    )
    await server.add_account()
    await add_bob(server)
    sessions = [await stack.enter_async_context(ClientSession()) for _ in range(_CONNECTIONS)]
    binding = {"medium": "email", "address": _EMAIL, "mxid": _ALICE}
    url = f"http://127.0.0.1:{internal}/_matrix/identity/internal/bind"
    async with sessions[0].post(url, json=binding) as response:
        assert response.status == 200, await response.text()
    callers = Callers(server, sessions)
    assert await callers.statuses(TOKEN) == {200}
    assert await callers.who_is(_EMAIL) == {_ALICE}
    return callers


async def add_bob(server: Server) -> None:
    """Give Bob an account."""

    async def use_case(tx: Transaction) -> None:
        bob, now_ms = parse_user_id("@bob:example.org"), 1
        await tx.accounts.add_if_new(bob, now_ms=now_ms)
        await tx.access_tokens.add(token_digest(_BOBS_TOKEN), bob, now_ms=storage.clock.now_ms())

    async with open_storage(load(server.conf, environ={})) as storage:
        await storage.database.transaction(use_case)


async def begin_erasing(
    server: Server, *whom: str, program: tuple[str, str] = ("-m", "identity_server")
) -> asyncio.subprocess.Process:
    """The command, as an operator runs it."""
    whom = whom or ("account", "erase", _ALICE)
    arguments = (sys.executable, *program, *whom, "--yes", "-c", str(server.conf))
    return await asyncio.create_subprocess_exec(*arguments, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def has_account(server: Server) -> bool:
    return count_accounts(server, _ALICE) > 0


def count_accounts(server: Server, pattern: str) -> int:
    with closing(connect(f"{database(server).as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT count(*) FROM accounts WHERE user_id LIKE ?"
        return int(connection.execute(query, (pattern,)).fetchone()[0])


def database(server: Server) -> Path:
    return server.folder / "db" / "identity.db"


def files_with(server: Server, text: str) -> list[str]:
    """The files below the server's folder that hold a text, its log and its index among them."""
    found = []
    for path in [path for path in server.folder.rglob("*") if path.is_file()]:
        with suppress(FileNotFoundError):  # another one has taken its place
            found += [path.name] * (text.encode() in path.read_bytes())
    return sorted(found)


async def test_no_worker_and_no_file_knows_anything(server: Server) -> None:
    async with AsyncExitStack() as stack:
        callers = await start(server, stack)
        assert {"identity.db-wal"} <= set(files_with(server, _ALICE))

        erasing = await begin_erasing(server)
        async with asyncio.timeout(PATIENCE_SECONDS):
            # In a second or so, every worker has heard of it.
            while await callers.statuses(TOKEN) != {401}:
                await asyncio.sleep(0.05)
            assert not has_account(server)
            assert await erasing.wait() == 0

        assert await callers.who_is(_EMAIL) == {None}
        assert await callers.statuses(_BOBS_TOKEN) == {200}
        assert files_with(server, _ALICE) == []
    assert server.stop() == 0
    assert files_with(server, _ALICE) == []


async def test_erasing_that_was_killed_is_finished_by_the_next(server: Server) -> None:
    async with AsyncExitStack() as stack:
        callers = await start(server, stack)
        killed = await begin_erasing(server, program=("-c", stepwise.PROGRAM))
        await asyncio.to_thread(kill_when, lambda: not has_account(server), killed.pid)
        await killed.wait()
        assert await callers.who_is(_EMAIL) == {None}
        assert files_with(server, _ALICE), "it was killed before it could clear the files"

        assert await (await begin_erasing(server)).wait() == 0
        assert files_with(server, _ALICE) == []
    assert server.stop() == 0


async def test_erasing_a_homeserver_is_finished_by_the_next(server: Server) -> None:
    server.start(workers=1)
    await add_crowd(server)
    everybody = count_accounts(server, f"%:{_GONE}")
    killed = await begin_erasing(server, "homeserver", "erase", _GONE, program=("-c", stepwise.PROGRAM))
    await asyncio.to_thread(kill_when, lambda: count_accounts(server, f"%:{_GONE}") < everybody, killed.pid)
    await killed.wait()
    assert 0 < count_accounts(server, f"%:{_GONE}") < everybody, "what was committed is gone, and the rest is there"

    assert await (await begin_erasing(server, "homeserver", "erase", _GONE)).wait() == 0
    assert count_accounts(server, f"%:{_GONE}") == 0
    assert files_with(server, f":{_GONE}") == []
    assert server.stop() == 0


async def add_crowd(server: Server) -> None:
    """Give the users of a homeserver accounts."""

    async def use_case(tx: Transaction) -> None:
        for number in range(3_000):
            await tx.accounts.add_if_new(parse_user_id(f"@n{number}:{_GONE}"), now_ms=1)

    async with open_storage(load(server.conf, environ={})) as storage:
        await storage.database.transaction(use_case, bulk=True)
