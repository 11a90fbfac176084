"""`identity-server health`, beside a server that is there, isn't, or isn't well."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from click.testing import CliRunner, Result

from identity_server.__main__ import main
from identity_server.server.listeners import open_socket
from tests.e2e.processes import reserve_port


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked may be slow on a busy machine."""
    monkeypatch.setattr("identity_server.commands.health._SECONDS", 60.0)


@asynccontextmanager
async def answering(port: int, *, host: str = "127.0.0.1", ready: int = 200) -> AsyncIterator[None]:
    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    async def is_ready(_request: web.Request) -> web.Response:
        return web.Response(status=ready)

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_get("/ready", is_ready)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.SockSite(runner, open_socket(host, port)).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def ask(tmp_path: Path, *options: str, address: str = "127.0.0.1", port: int, more: str = "") -> Result:
    conf = tmp_path / "sydent.conf"
    conf.write_text(
        "[general]\nserver.name = id.example.org\n[http]\n"
        f"clientapi.http.bind_address = {address}\nclientapi.http.port = {port}\n{more}"
    )
    return await asyncio.to_thread(CliRunner().invoke, main, ["health", "-c", str(conf), *options])


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
async def test_server_that_answers_is_well(tmp_path: Path, address: str) -> None:
    port = reserve_port()
    async with answering(port, host=address):
        result = await ask(tmp_path, address=address, port=port)
    assert (result.exit_code, result.stdout) == (0, "well\n")


async def test_alive_is_not_ready(tmp_path: Path) -> None:
    port = reserve_port()
    async with answering(port, ready=503):
        alive = await ask(tmp_path, port=port)
        ready = await ask(tmp_path, "--ready", port=port)
    assert alive.exit_code == 0
    assert (ready.exit_code, ready.stderr) == (1, "Error: not well: it answers 503\n")


async def test_nobody_there_is_a_sentence(tmp_path: Path) -> None:
    result = await ask(tmp_path, port=reserve_port())
    assert (result.exit_code, result.stderr) == (1, "Error: no answer: ConnectionRefusedError\n")


async def test_server_with_a_certificate_is_asked_by_tls(tmp_path: Path) -> None:
    authority, port = trustme.CA(), reserve_port()
    certificate = authority.issue_cert("id.example.org")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)

    async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(well, "127.0.0.1", port, ssl=context)
    async with server:
        more = f"clientapi.https.certfile = {chain}\nclientapi.https.keyfile = {key}\n"
        result = await ask(tmp_path, port=port, more=more)
    assert (result.exit_code, result.stdout) == (0, "well\n")
