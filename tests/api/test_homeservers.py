"""Registering with homeservers that can't be reached, over the real federation client: 503, and says so."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from identity_server.domain.errors import HomeserverMisbehaved, HomeserverUnreachable, OpenIdTokenRefused
from identity_server.domain.identifiers import ServerName, UserId
from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.federation import Federation
from tests.api.support import MARKER, assert_refused, nothing_stored
from tests.support.fakes import FakeHomeservers
from tests.support.harness import Fakes, Harness, running


class _Real(FakeHomeservers):
    """The real client in the place of the fake one."""

    def __init__(self, federation: Federation) -> None:
        super().__init__()
        self._federation = federation

    async def openid_user_id(self, server_name: ServerName, openid_token: str) -> UserId:
        return await self._federation.openid_user_id(server_name, openid_token)


@asynccontextmanager
async def with_real_federation(directory: Path, *, whitelist: str | None) -> AsyncIterator[Harness]:
    fakes = Fakes()
    federation = Federation(
        clock=fakes.clock,
        randomness=fakes.randomness,
        screen=AddressScreen(blacklist=(), whitelist=() if whitelist is None else (ipaddress.ip_network(whitelist),)),
        verify_certs=True,
        ca_file=None,
    )
    fakes.homeservers = _Real(federation)
    try:
        async with running(directory, fakes=fakes) as server:
            yield server
    finally:
        await federation.close()


@pytest.fixture
def closed_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("whitelist", [None, "127.0.0.0/8"], ids=["screened off", "closed"])
async def test_a_homeserver_that_cannot_be_reached(tmp_path: Path, closed_port: int, whitelist: str | None) -> None:
    body = {"matrix_server_name": f"127.0.0.1:{closed_port}", "access_token": MARKER}
    async with with_real_federation(tmp_path, whitelist=whitelist) as server:
        with nothing_stored(server, is_counted=True), capture_logs() as entries:
            reply = await server.post("account/register", body)
    assert_refused(reply, 503, "M_UNKNOWN")
    assert MARKER not in str(entries)


@pytest.mark.parametrize(
    ("failure", "status", "errcode"),
    [
        (HomeserverUnreachable(), 503, "M_UNKNOWN"),
        (HomeserverMisbehaved(), 503, "M_UNKNOWN"),
        (OpenIdTokenRefused(), 401, "M_UNAUTHORIZED"),
        (RuntimeError(MARKER), 500, "M_UNKNOWN"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_what_a_homeserver_may_do_to_us(tmp_path: Path, failure: Exception, status: int, errcode: str) -> None:
    async def fail() -> None:
        raise failure

    fakes = Fakes()
    fakes.homeservers.on_call = fail
    async with running(tmp_path, fakes=fakes) as server:
        with nothing_stored(server, is_counted=True), capture_logs() as entries:
            reply = await server.post("account/register", {"matrix_server_name": "a.example", "access_token": MARKER})
    assert_refused(reply, status, errcode)
    assert ("request.failed" in [entry["event"] for entry in entries]) == (status == 500)
