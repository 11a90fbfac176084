"""SIGHUP: everything is read again, tried, and taken over by one worker after the other."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from functools import partial

import pytest
from aiohttp import ClientSession

from tests.e2e.processes import reserve_port
from tests.processes.conftest import TOKEN, Server
from tests.processes.load import under_load

OF_V1 = "/_matrix/identity/api/v1/3pid/getValidated3pid?sid=a&client_secret=b"


async def status_of(server: Server, path: str) -> int:
    async with ClientSession() as session, session.get(server.base + path) as response:
        return response.status


async def serves_v1(server: Server) -> bool:
    async with ClientSession() as session, session.get(server.base + OF_V1) as response:
        errcode: str = (await response.json())["errcode"]
        return errcode != "M_UNRECOGNIZED"


def only_new_ones(server: Server, before: set[int]) -> bool:
    """Whether two workers take requests, and all former ones have ended."""
    return len(server.ready_workers()) == len(server.workers()) == 2 and not server.workers() & before


async def hang_up(server: Server) -> None:
    """Send SIGHUP, and wait until the server has said what came of it."""
    before = outcomes(server)
    server.signal(signal.SIGHUP)
    await asyncio.to_thread(server.wait_for, lambda: outcomes(server) > before)


def outcomes(server: Server) -> int:
    return server.log.count("] reloaded") + server.log.count("] not_reloaded")


@pytest.mark.parametrize("keep_connections", [True, False])
async def test_new_configuration_is_taken_over_without_a_request_refused(
    server: Server, *, keep_connections: bool
) -> None:
    server.start(workers=2)
    await server.add_account()
    for with_v1 in (True, False):
        assert await serves_v1(server) is not with_v1
        before = server.workers()
        server.configure(general="enable_v1_access = true" if with_v1 else "")
        async with under_load(server, clients=8, keep_connections=keep_connections) as load:
            await load.grow(by=50)
            await hang_up(server)
            await asyncio.to_thread(server.wait_for, partial(only_new_ones, server, before))
            await load.grow(by=50)
        assert load.failures == []
        assert await serves_v1(server) is with_v1
    assert server.stop() == 0


async def test_homeserver_that_is_denied_is_no_longer_served_though_its_account_was_known(server: Server) -> None:
    server.start(workers=1)
    await server.add_account()
    account = f"/_matrix/identity/v2/account?access_token={TOKEN}"
    assert await status_of(server, account) == 200
    for denied, status in (("example.org", 403), ("", 200)):
        before = server.workers()
        server.configure(workers=1, general=f"homeserver_deny_list = {denied}")
        await hang_up(server)
        await asyncio.to_thread(server.wait_for, partial(_have_ended, server, before))
        assert await status_of(server, account) == status


async def test_mistake_in_the_file_changes_nothing(server: Server) -> None:
    server.start(workers=2)
    before = server.workers()
    server.configure(general="log.level = LOUD")
    await hang_up(server)
    assert "not_reloaded" in server.log
    assert "log.level" in server.log
    assert server.workers() == before
    assert await status_of(server, "/ready") == 200


async def test_mistake_that_a_worker_finds_changes_nothing(server: Server) -> None:
    server.start(workers=2)
    before = server.workers()
    terms = server.folder / "terms"
    terms.mkdir()
    (terms / "terms.md").write_text("no front matter")
    server.configure(general=f"terms.path = {terms}")
    await hang_up(server)
    refused = next(line for line in server.log.splitlines() if "not_reloaded" in line)
    assert "terms.md" in refused
    assert server.workers() == before
    assert await status_of(server, "/ready") == 200


async def test_what_belongs_to_the_parent_is_named_and_kept(server: Server) -> None:
    server.start(workers=1)
    other = reserve_port()
    server.configure(workers=1, port=other)
    await hang_up(server)
    assert "needs_restart" in server.log
    assert "key=clientapi.http.port section=http" in server.log
    assert await status_of(server, "/ready") == 200
    with socket.socket() as nobody:
        assert nobody.connect_ex(("127.0.0.1", other)) != 0


async def test_number_of_workers_follows_the_file(server: Server) -> None:
    server.start(workers=1)
    for workers in (3, 2):
        server.configure(workers=workers)
        await hang_up(server)
        await asyncio.to_thread(server.wait_for, partial(_has, server, workers))
    assert server.stop() == 0


def _have_ended(server: Server, before: set[int]) -> bool:
    return not server.workers() & before


def _has(server: Server, workers: int) -> bool:
    return len(server.ready_workers()) == len(server.workers()) == workers


async def test_level_and_form_of_the_log_change_without_a_restart(server: Server) -> None:
    async def reconfigure(level: str) -> None:
        former = server.workers()
        server.configure(workers=1, level=level, general="log.format = json")
        server.signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for, lambda: bool(server.workers()) and not server.workers() & former)

    async def ask() -> None:
        assert await status_of(server, "/health") == 200
        assert await status_of(server, "/_matrix/identity/v2/account") == 401

    async def logged_since(mark: int) -> list[str]:
        """The requests in the log, and what the parent has said, once there is one more request."""
        await asyncio.to_thread(server.wait_for, lambda: "/account" in server.log[mark:])
        lines = [json.loads(line) for line in server.log[mark:].splitlines()]
        return [line.get("route", line["event"]) for line in lines if line["event"] in {"request", "reloaded"}]

    server.start(workers=1)
    await ask()
    await asyncio.to_thread(server.wait_for, lambda: "route=/_matrix/identity/v2/account status=401" in server.log)
    await reconfigure("INFO")
    mark = len(server.log)
    await ask()
    assert await logged_since(mark) == ["/_matrix/identity/v2/account"]
    mark = len(server.log)
    await reconfigure("WARNING")
    await ask()
    assert "reloaded" not in server.log[mark:]
    mark = len(server.log)
    await reconfigure("INFO")
    await ask()
    # The worker before has ended, so whatever it had to say about the request it had is there.
    assert await logged_since(mark) == ["reloaded", "/_matrix/identity/v2/account"]
