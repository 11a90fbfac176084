"""PostgreSQL going away and coming back, behind TLS and a password, and behind a pooler."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from sqlalchemy import text
from sqlalchemy.engine import URL

from identity_server.domain.errors import Unavailable
from identity_server.domain.identifiers import UserId
from identity_server.storage.database import Transaction
from identity_server.storage.engines import postgresql as limits
from identity_server.storage.engines.opening import make_engine
from identity_server.storage.schema.upgrade import Schema, SchemaProblem
from tests.e2e.processes import reserve_port
from tests.support.databases import PATIENT, connect_to, open_database, put_migrated, url_for
from tests.support.harness import ALICE, SECRET, Fakes, running
from tests.support.postgresql import (
    PostgresqlServer,
    as_servers_do,
    give_away,
    in_a_thread,
    make_folder,
)

pytestmark = pytest.mark.postgresql(reason="connections to a server")

_PGBOUNCER = Path("/usr/sbin/pgbouncer")
# Promised is less; a machine that other tests share may take longer for it.
_RESTART_SECONDS = 30


def settings_for(url: URL, **more: str) -> dict[str, str]:
    """The configuration of a server on another database than the tests' own."""
    return {"DB__DB_URL": url.render_as_string(hide_password=False), "DB__DB_AUTO_UPGRADE": "true", **more}


# --- going away -----------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[PostgresqlServer]:
    """A server that only this test uses, and may stop."""
    server = PostgresqlServer()
    yield server
    server.remove()


async def test_restart_of_postgresql_is_a_gap_and_nothing_else(tmp_path: Path, own_server: PostgresqlServer) -> None:
    async with running(tmp_path, settings=settings_for(own_server.url("postgres"))) as server:
        alice = await server.register(ALICE)
        sid = await server.bound(alice, "alice@example.com")
        # One that is never answered from memory.
        path = f"3pid/getValidated3pid?sid={sid}&client_secret={SECRET}"
        statuses = {(await server.get(path, as_=alice)).status}

        async def ask_all_the_time() -> None:
            for _ in range(100_000):
                reply = await server.get(path, as_=alice)
                statuses.add(reply.status)
                if reply.status == 503:
                    assert reply.errcode == "M_UNKNOWN"

        asking = asyncio.create_task(ask_all_the_time())
        await asyncio.to_thread(own_server.stop)
        while 503 not in statuses:
            assert not asking.done(), asking
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_server.start)
        back_at = time.monotonic()
        while (await server.bind(alice, sid)).status != 200:
            assert time.monotonic() - back_at < _RESTART_SECONDS
            await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait({asking})
        assert statuses == {200, 503}
        assert await server.find(alice, "alice@example.com") == alice.user_id


async def test_killed_session_is_a_passing_failure(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        connection = await connect_to(tmp_path / "db" / "identity.db")

        async def killed(tx: Transaction) -> None:
            process = await tx.accounts._connection.execute(text("SELECT pg_backend_pid()"))
            await connection.execute("SELECT pg_terminate_backend($1)", process.scalar_one())
            await tx.peppers.list()

        with pytest.raises(Unavailable):
            await server.system.database.transaction(killed)
        await connection.close()
        await server.register(ALICE)


async def test_session_that_was_killed_while_idle_is_noticed_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_RESTED_SECONDS", 0.0)
    async with open_database(tmp_path) as database:

        async def process(tx: Transaction) -> int:
            return int((await tx.accounts._connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())

        before = await database.read(process)
        connection = await connect_to(tmp_path / "identity.db")
        assert await connection.fetchval("SELECT pg_terminate_backend($1, 60000)", before)
        await connection.close()
        assert await database.read(process) != before


async def test_more_at_once_than_connections_wait_for_their_turn(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"DB__DB_POOL_SIZE": "1"}) as server:
        database = server.system.database

        async def add(number: int) -> None:
            user_id = UserId(f"@user{number}:example.org")
            await database.transaction(lambda tx: tx.accounts.add_if_new(user_id, now_ms=server.clock.ms))

        await asyncio.gather(*(add(number) for number in range(50)))
        assert server.count("accounts") == 50


# --- a pooler -------------------------------------------------------------------------------


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_folder()
    yield made
    shutil.rmtree(made)


@contextmanager
def pgbouncer(database: URL, folder: Path, *, more: str = "auth_type = any") -> Iterator[URL]:
    """A pooler in transaction mode before a database, with fewer connections than it is asked for."""
    assert _PGBOUNCER.exists(), "pgbouncer isn't installed: run tests/install-needs"
    port = reserve_port()
    conf = folder / "pgbouncer.ini"
    conf.write_text(
        f"""[databases]
* = host={database.query["host"]} user={database.username}
[pgbouncer]
pool_mode = transaction
default_pool_size = 3
unix_socket_dir = {folder}
listen_port = {port}
{more}
"""
    )
    give_away(conf)
    process = subprocess.Popen(
        [_PGBOUNCER, conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_servers_do()
    )
    try:
        deadline = time.monotonic() + 60
        while not (folder / f".s.PGSQL.{port}").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield database.set(query={"host": str(folder)}, port=port)
    finally:
        process.terminate()
        process.wait(60)


async def test_whole_story_behind_a_pooler(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "db" / "identity.db"
    await put_migrated(file)
    with pgbouncer(url_for(file), folder) as url:
        settings = settings_for(url, DB__DB_TRANSACTION_POOLER="true")
        async with (
            running(tmp_path, settings=settings) as server,
            running(tmp_path, settings=settings, fakes=_same_time_as(server.clock.ms)) as second,
        ):
            # As many as one network may register at once; the pooler has fewer connections.
            users = await asyncio.gather(*(server.register(f"@user{number}:example.org") for number in range(10)))
            names = [f"user{number}@example.com" for number in range(10)]
            await asyncio.gather(
                *(
                    server.request_token(user, name, secret=f"s{name}")
                    for user, name in zip(users, names, strict=True)
                )
            )
            await server.bound(users[0], "alice@example.com")
            assert await second.find(users[1], "alice@example.com") == users[0].user_id

            async def limit(tx: Transaction) -> object:
                return (await tx.accounts._connection.execute(text("SHOW statement_timeout"))).scalar_one()

            assert await server.system.database.transaction(limit) == "10s"


# --- TLS and passwords ----------------------------------------------------------------------


@pytest.fixture
def guarded(folder: Path, tmp_path: Path) -> Iterator[URL]:
    """A database that is reached by TLS and with a password only: the pooler's, because the wheel has no TLS."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    certificate = authority.issue_cert("localhost")
    file = tmp_path / "db" / "identity.db"
    in_a_thread(put_migrated(file))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    (folder / "users").write_text('"identity" "hunter2"\n')
    for name in ("key.pem", "chain.pem", "users"):
        give_away(folder / name)
    more = f"""listen_addr = 127.0.0.1
auth_type = scram-sha-256
auth_file = {folder}/users
client_tls_sslmode = require
client_tls_key_file = {folder}/key.pem
client_tls_cert_file = {folder}/chain.pem
"""
    with pgbouncer(url_for(file), folder, more=more) as url:
        yield url.set(username="identity", host="localhost", query={})


async def test_password_from_a_file_and_a_certificate_that_is_checked(tmp_path: Path, guarded: URL) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    settings = settings_for(
        guarded,
        DB__DB_PASSWORD_FILE=str(password),
        DB__DB_CA_FILE=str(tmp_path / "ca.pem"),
        DB__DB_TRANSACTION_POOLER="true",
    )
    async with running(tmp_path, settings=settings) as server:
        await server.register(ALICE)


@pytest.mark.parametrize(
    ("password", "ca_file", "sentence"),
    [("hunter3", "ca.pem", "refused"), ("hunter2", "other.pem", "can't be reached")],
)
async def test_wrong_password_or_certificate_is_refused(
    tmp_path: Path,
    guarded: URL,
    password: str,
    ca_file: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = replace(PATIENT, ca_file=tmp_path / ca_file, pooler=True)
    engine = make_engine(guarded.set(password=password), settings)
    with pytest.raises(SchemaProblem, match=sentence) as caught:
        await Schema(engine).status()
    await engine.dispose()
    told = "".join(capsys.readouterr()) + str(caught.value) + repr(caught.value.__cause__)
    assert password not in told


@pytest.mark.parametrize("ssl", ["verify-full", "require"])
async def test_only_full_verification_asks_who_signed_the_certificate(guarded: URL, ssl: str) -> None:
    engine = make_engine(guarded.set(password="hunter2", query={"ssl": ssl}), replace(PATIENT, pooler=True))
    if ssl == "verify-full":
        with pytest.raises(SchemaProblem, match="can't be reached"):
            await Schema(engine).status()
    else:
        assert (await Schema(engine).status()).up_to_date
    await engine.dispose()


def _same_time_as(ms: int) -> Fakes:
    fakes = Fakes()
    fakes.clock.ms = ms
    return fakes


async def test_connections_show_whose_they_are(tmp_path: Path) -> None:
    await put_migrated(tmp_path / "identity.db")
    engine = make_engine(url_for(tmp_path / "identity.db"), PATIENT)
    async with engine.connect() as connection:
        shown = await connection.execute(text("SHOW application_name"))
        assert shown.scalar_one() == "matrix-identity-server"
    await engine.dispose()
