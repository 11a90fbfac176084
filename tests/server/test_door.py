"""The door: fair to other workers, patient with nobody, and polite at the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
from aiohttp import web

from identity_server.api.protocol import Runner
from identity_server.server import door as module
from identity_server.server.board import Board
from identity_server.server.door import Door, Load
from identity_server.server.listeners import open_socket

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """A connection that stays open between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self) -> str:
        """Send a request; the head of the answer."""
        self._writer.write(REQUEST)
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 5)).decode()
        assert await self._reader.readexactly(2) == b"ok"
        return head

    async def is_cut_off(self) -> bool:
        return await asyncio.wait_for(self._reader.read(), 10) == b""

    def close(self) -> None:
        self._writer.close()


class House:
    """A worker with one door, and the place of another worker on its board."""

    def __init__(self, listener: Any, runner: Runner) -> None:
        self.listener = listener
        self.port: int = listener.getsockname()[1]
        self.board = Board(workers=2)
        self.place, self.other = self.board.take_place(), self.board.take_place()
        self.door = Door(runner, listener, tls=None, load=Load(self.board, self.place))
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client


@asynccontextmanager
async def house(listener: Any = None) -> AsyncIterator[House]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = Runner(app, shutdown_timeout=1.0)
    await runner.setup()
    listener = listener or _listener()
    with listener:
        built = House(listener, runner)
        built.door.open()
        try:
            yield built
        finally:
            await built.door.close()
            for client in built.clients:
                client.close()


def _listener() -> socket.socket:
    listener = open_socket("127.0.0.1", 0)
    listener.setblocking(False)
    return listener


async def test_who_is_alone_takes_all() -> None:
    async with house() as home:
        for _ in range(10):
            await (await home.connect()).ask()
        assert home.door.connections == 10
        assert home.board.fewest_connections() >= 7


async def test_other_worker_with_less_to_do_is_let_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COURTESY_SECONDS", 60.0)
    async with house() as home:
        home.board.set_connections(home.other, 0)
        for _ in range(3):
            await (await home.connect()).ask()
        fourth = await home.connect()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fourth.ask(), 0.3)
        assert home.door.connections == 3, "left to the other one"


async def test_nobody_waits_for_a_worker_that_does_not_come() -> None:
    async with house() as home:
        home.board.set_connections(home.other, 0)
        for _ in range(10):
            await (await home.connect()).ask()
        assert home.door.connections == 10


async def test_worker_that_takes_none_any_more_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COURTESY_SECONDS", 60.0)
    async with house() as home:
        Load(home.board, home.other).take_no_more()
        for _ in range(10):
            await (await home.connect()).ask()


async def test_farewell_is_said_in_an_answer_and_then_to_those_who_are_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FAREWELL_SECONDS", 0.5)
    async with house() as home:
        busy, silent = await home.connect(), await home.connect()
        for client in (busy, silent):
            assert "Connection" not in await client.ask()
        farewell = asyncio.create_task(home.door.say_farewell())
        await asyncio.sleep(0.1)
        assert "Connection: close" in await busy.ask()
        assert await busy.is_cut_off()
        await farewell
        assert home.door.connections == 1
        await home.door.close()
        assert await silent.is_cut_off()


class Exhausted:
    """A listener on a machine that has no file descriptor left, for once."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._left = [errno.EMFILE]

    def accept(self) -> Any:
        if self._left:
            raise OSError(self._left.pop(), "Too many open files")
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


async def test_door_opens_again_when_descriptors_were_exhausted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXHAUSTED_SECONDS", 0.05)
    async with house(Exhausted(_listener())) as home:
        assert (await (await home.connect()).ask()).startswith("HTTP/1.1 200")
