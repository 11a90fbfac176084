"""A server as it is run, with Sentry and a collector: what it says to them when something breaks, and what it doesn't."""

from __future__ import annotations

import sqlite3

import pytest
from aiohttp import ClientSession

from tests.processes.conftest import TOKEN, Server
from tests.support.sink import sink

ADDRESS, SECRET, KEY = "carol@example.net", "s3cret_of_carol", "AKeyInAQueryAKeyInAQueryAKeyInAQueryAKeyIA8"


async def test_injected_fault_arrives_and_nothing_of_anybody_does(server: Server) -> None:
    pytest.importorskip("sentry_sdk", reason="the environment is older than requirements-dev.lock")
    pytest.importorskip("opentelemetry.exporter", reason="the environment is older than requirements-dev.lock")
    async with sink() as found:
        dsn = found.base.replace("://", "://key@") + "/7"
        server.configure(workers=1, general=f"sentry_dsn = {dsn}\notlp_endpoint = {found.base}")
        server.program.start()
        server.wait_for(lambda: server.log_holds("serving "))
        server.wait_for(lambda: len(server.ready_workers()) == 1)
        await server.add_account()
        # Somebody has damaged the database.
        with sqlite3.connect(server.folder / "db" / "identity.db") as connection:
            connection.execute("ALTER TABLE ephemeral_keys RENAME TO gone")
        v2 = f"{server.base}/_matrix/identity/v2"
        async with ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            async with session.get(f"{v2}/pubkey/ephemeral/isvalid?public_key={KEY}") as response:
                assert response.status == 500
                request_id = response.headers["X-Request-ID"]
            body = {"email": ADDRESS, "client_secret": SECRET, "send_attempt": 1}
            async with session.post(f"{v2}/validate/email/requestToken", json=body) as response:
                assert response.status == 200
        await found.wait_for(lambda: bool(found.bodies("/api/7/envelope/")))
        server.stop()
        await found.wait_for(lambda: b"requestToken" in b"".join(found.bodies("/v1/traces")))
    reports = b"\n".join(found.bodies("/api/7/envelope/"))
    assert b"/_matrix/identity/v2/pubkey/ephemeral/isvalid" in reports
    assert request_id.encode() in reports
    assert b"OperationalError" in reports
    assert request_id.encode() in b"".join(found.bodies("/v1/traces"))
    everything = b"\n".join(body for _, body in found.received)
    hidden = (ADDRESS, "carol", SECRET, KEY, TOKEN, "@alice", "127.0.0.1:", str(server.folder))
    assert [each for each in hidden if each.encode() in everything] == []
