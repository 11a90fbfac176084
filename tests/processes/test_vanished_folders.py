"""Database and keys vanish under a server, as when a volume is unmounted: it begins no new ones, and waits."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.processes.conftest import TOKEN, Server

_FOLDERS = ("db", "keys")


def take_away(server: Server, *, leaves_mount_points: bool) -> None:
    for name in _FOLDERS:
        (server.folder / name).rename(server.folder / f"unmounted-{name}")
        if leaves_mount_points:
            (server.folder / name).mkdir()


def made_instead(server: Server) -> list[Path]:
    """What has been made where the folders were."""
    return [path for name in _FOLDERS for path in (server.folder / name).rglob("*")]


def bring_back(server: Server) -> None:
    for name in _FOLDERS:
        if (server.folder / name).exists():
            (server.folder / name).rmdir()
        (server.folder / f"unmounted-{name}").rename(server.folder / name)


async def get(server: Server, path: str) -> tuple[int, object]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with ClientSession(headers=headers) as session, session.get(f"{server.base}{path}") as response:
        return response.status, await response.json()


@pytest.mark.parametrize("leaves_mount_points", [True, False])
async def test_worker_that_replaces_another_makes_no_new_database(
    server: Server,
    leaves_mount_points: bool,
) -> None:
    server.start(workers=1)
    await server.add_account()
    key = await get(server, "/_matrix/identity/v2/pubkey/isvalid?public_key=x")
    account = await get(server, "/_matrix/identity/v2/account")
    assert account == (200, {"user_id": "@alice:example.org"})
    take_away(server, leaves_mount_points=leaves_mount_points)
    server.kill_worker()
    for number in (2, 3):
        # One by one: a worker needs some seconds to come to that on a busy machine.
        server.wait_for(lambda number=number: server.workers_lost() >= number)  # type: ignore[misc]
    told = [line for line in server.log.splitlines() if "worker.lost" in line][1:3]
    assert all(f"the database {server.folder}/db/identity.db has vanished" in line for line in told)
    assert "replaced_in_seconds=1.0" in told[1]
    assert made_instead(server) == []
    bring_back(server)
    server.wait_for(lambda: len(server.ready_workers()) == 1)
    assert await get(server, "/_matrix/identity/v2/account") == account
    assert await get(server, "/_matrix/identity/v2/pubkey/isvalid?public_key=x") == key
    assert "worker.failed" not in server.log


async def test_workers_that_are_left_write_nothing_until_the_folders_are_back(server: Server) -> None:
    server.start(workers=1)
    await server.add_account()
    take_away(server, leaves_mount_points=True)
    assert (await get(server, "/ready"))[0] == 503
    assert (await get(server, "/_matrix/identity/v2/account"))[0] == 503
    assert (await get(server, "/health"))[0] == 200
    assert made_instead(server) == []
    bring_back(server)
    assert (await get(server, "/ready"))[0] == 200
    assert (await get(server, "/_matrix/identity/v2/account"))[0] == 200
    assert "worker.failed" not in server.log


async def test_reload_meanwhile_is_refused(server: Server) -> None:
    server.start(workers=1)
    (worker,) = server.workers()
    take_away(server, leaves_mount_points=True)
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: server.log_holds("not_reloaded"))
    (told,) = [line for line in server.log.splitlines() if "not_reloaded" in line]
    assert f"the database {server.folder}/db/identity.db has vanished" in told
    assert made_instead(server) == []
    bring_back(server)
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: " reloaded " in server.log)
    server.wait_for(lambda: len(server.ready_workers() - {worker}) == 1)
    assert (await get(server, "/ready"))[0] == 200


async def test_end_meanwhile_is_told_in_words(server: Server) -> None:
    server.start(workers=1)
    await server.add_account()
    while not await has_use_to_write_down(server):
        # The upkeep was quicker, once in a minute.
        bring_back(server)
        server.stop()
        server.start_again(workers=1)
    assert server.stop() == 0
    (told,) = [line for line in server.log.splitlines() if "worker.failed" in line]
    assert "reason='The server cannot answer at the moment; try again.'" in told, "when the token was used is lost"
    assert "Bad file descriptor" not in server.log
    assert made_instead(server) == []


async def has_use_to_write_down(server: Server) -> bool:
    """Use a token for the first time in days, take the folders away, and tell whether that wasn't written down before."""
    with closing(sqlite3.connect(server.folder / "db" / "identity.db", isolation_level=None)) as connection:
        connection.execute("UPDATE access_tokens SET last_used_at_ms = last_used_at_ms - 2 * 86400000")
        (set_back,) = connection.execute("SELECT last_used_at_ms FROM access_tokens").fetchall()
        assert (await get(server, "/_matrix/identity/v2/account"))[0] == 200
        take_away(server, leaves_mount_points=True)
        return [set_back] == connection.execute("SELECT last_used_at_ms FROM access_tokens").fetchall()


async def test_file_that_takes_the_place_of_the_database_is_opened_anew(server: Server) -> None:
    server.start(workers=1)
    await server.add_account()
    (worker,) = server.workers()
    file = server.folder / "db" / "identity.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("VACUUM INTO ?", (str(server.folder / "copy.db"),))
    for each in file.parent.glob("identity.db*"):
        each.unlink()
    (server.folder / "copy.db").rename(file)
    server.wait_for(lambda: len(server.ready_workers() - {worker}) == 1)
    (told,) = [line for line in server.log.splitlines() if "worker.failed" in line]
    assert "there is another file in the place of the database" in told
    assert (await get(server, "/_matrix/identity/v2/account"))[0] == 200


async def test_workers_that_would_not_hear_of_each_other_any_more_begin_anew(server: Server) -> None:
    server.start(workers=3)
    await server.add_account()
    before = server.ready_workers()
    (stamps,) = server.folder.rglob("stamps")
    stamps.unlink()
    server.kill_worker()
    server.wait_for(lambda: len(server.ready_workers() - before) == 3)
    told = [line for line in server.log.splitlines() if "worker.failed" in line]
    assert len(told) == 2
    assert all("there is another file in the place of `stamps`" in line for line in told)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(12):
        assert (await get(server, "/_matrix/identity/v2/account"))[0] == 200
    async with (
        ClientSession(headers=headers) as session,
        session.post(f"{server.base}/_matrix/identity/v2/account/logout") as response,
    ):
        assert response.status == 200
    for _ in range(12):
        assert (await get(server, "/_matrix/identity/v2/account"))[0] == 401
