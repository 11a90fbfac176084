"""The door: fair to other workers, patient with nobody, and polite at the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, cast

import pytest
from aiohttp import web

from identity_server.api import protocol
from identity_server.api.protocol import Runner
from identity_server.server import door as module
from identity_server.server.board import Board
from identity_server.server.door import Door, Load
from identity_server.server.listeners import open_socket
from tests.support.loop_time import pass_on_loop

_PATIENCE_SECONDS = 60
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """A connection that stays open between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def ask(self) -> str:
        """Send a request; the head of the answer."""
        self.send(REQUEST)
        return await self.answer()

    async def answer(self) -> str:
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), _PATIENCE_SECONDS)).decode()
        assert await self._reader.readexactly(2) == b"ok"
        return head

    async def is_cut_off(self) -> bool:
        try:
            return await asyncio.wait_for(self._reader.read(), _PATIENCE_SECONDS) == b""
        except ConnectionResetError:
            return True

    async def begin(self) -> None:
        """Send the head of a request whose body doesn't come."""
        self.send(b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await asyncio.sleep(0.02)

    def ask_and_read_nothing(self, *, times: int) -> None:
        cast("asyncio.Transport", self._writer.transport).pause_reading()
        self.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n" * times)

    async def read(self, size: int) -> None:
        """Read so many bytes after all."""
        cast("asyncio.Transport", self._writer.transport).resume_reading()
        await asyncio.wait_for(self._reader.readexactly(size), _PATIENCE_SECONDS)

    @property
    def address(self) -> Any:
        """What the other side calls it."""
        return self._writer.get_extra_info("sockname")

    def close(self) -> None:
        self._writer.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not is_so():
            await asyncio.sleep(0.001)


class House:
    """A worker with one door, and the place of another worker on its board."""

    def __init__(self, listener: Any, runner: Runner, *, most: int) -> None:
        self.listener = listener
        self.port: int = listener.getsockname()[1]
        self.board = Board(workers=2)
        self.place, self.other = self.board.take_place(), self.board.take_place()
        self.door = Door(runner, listener, tls=None, load=Load(self.board, self.place), most=most)
        self.clients: list[Client] = []
        self.thoughts = 0
        self._runner = runner

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def connect_and_read_nothing(self, *, times: int) -> Client:
        """A client that asks for so many large answers, and has the first of them wait."""
        client = await self.connect()
        client.ask_and_read_nothing(times=times)
        await until(lambda: client.address in self._unread())
        return client

    def _unread(self) -> list[Any]:
        """Who has answers waiting."""
        server = self._runner._server_of_ours
        return [server._connections[each].get_extra_info("peername") for each in server._unread]


@asynccontextmanager
async def house(listener: Any = None, *, most: int = 100) -> AsyncIterator[House]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def read(request: web.Request) -> web.Response:
        with suppress(web.RequestPayloadError, ConnectionError):
            return web.Response(body=await request.read())
        return web.Response()

    async def answer_at_length(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1_000_000)

    async def think(_request: web.Request) -> web.Response:
        built.thoughts += 1
        await asyncio.sleep(60)
        return web.Response()

    app = web.Application()
    app.router.add_get("/", answer)
    app.router.add_post("/body", read)
    app.router.add_get("/large", answer_at_length)
    app.router.add_get("/thought", think)
    runner = Runner(app, shutdown_timeout=1.0)
    await runner.setup()
    listener = listener or _listener()
    with listener:
        built = House(listener, runner, most=most)
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
    monkeypatch.setattr(module, "_FAREWELL_SECONDS", 3 * 10.0)
    monkeypatch.setattr(module, "_POLL_SECONDS", 10.0)
    async with house() as home:
        busy, silent = await home.connect(), await home.connect()
        for client in (busy, silent):
            assert "Connection" not in await client.ask()
        farewell = asyncio.create_task(home.door.say_farewell())
        await asyncio.sleep(0)
        assert "Connection: close" in await busy.ask()
        assert await busy.is_cut_off()
        while not farewell.done():
            pass_on_loop(10.0)
            await asyncio.sleep(0)
        assert home.door.connections == 1
        await home.door.close()
        assert await silent.is_cut_off()


# --- no more than there is room for -------------------------------------------------------


async def test_who_has_been_idle_for_the_longest_makes_room_for_who_comes() -> None:
    async with house(most=3) as home:
        first, second, third = [await home.connect() for _ in range(3)]
        for client in (second, third, first):
            await client.ask()
        fourth = await home.connect()
        assert (await fourth.ask()).startswith("HTTP/1.1 200")
        assert await second.is_cut_off()
        for client in (first, third, fourth):
            await client.ask()
        assert home.door.connections == 3


@pytest.mark.parametrize("how", ["says nothing", "sends half a body"])
async def test_who_keeps_a_connection_without_a_request_makes_room(how: str) -> None:
    async with house(most=4) as home:
        for _ in range(20):
            client = await home.connect()
            if how == "sends half a body":
                await client.begin()
        assert (await (await home.connect()).ask()).startswith("HTTP/1.1 200")
        await until(lambda: home.door.connections == 4)


async def test_who_reads_no_answer_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_UNREAD_LETS_GO_SECONDS", 0.1)
    async with house(most=2) as home:
        for _ in range(4):
            await home.connect_and_read_nothing(times=50)
        assert (await (await home.connect()).ask()).startswith("HTTP/1.1 200")
        assert home.door.connections <= 3


async def test_nobody_who_waits_for_an_answer_is_ended() -> None:
    async with house(most=2) as home:
        waiting = [await home.connect() for _ in range(2)]
        for client in waiting:
            client.send(b"GET /thought HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: home.thoughts == 2)
        for _ in range(5):
            await (await home.connect()).ask()
        assert home.door.connections == 3
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(client.is_cut_off() for client in waiting)), 0.1)


async def test_answers_that_nobody_reads_are_given_up() -> None:
    async with house() as home:
        other = await home.connect()
        await home.connect_and_read_nothing(times=50)
        await other.ask()
        home.door.end_unread()
        pass_on_loop(protocol.UNREAD_SECONDS - 10)
        home.door.end_unread()
        assert home.door.connections == 2
        pass_on_loop(10)
        home.door.end_unread()
        await until(lambda: home.door.connections == 1)
        await other.ask()


async def test_the_oldest_answers_that_nobody_reads_are_given_up_when_they_are_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "_MOST_UNREAD", 100_000)
    async with house() as home:
        for _ in range(5):
            await home.connect_and_read_nothing(times=50)
        # More than half of it waits for each.
        assert home.door.connections == 1
        assert (await (await home.connect()).ask()).startswith("HTTP/1.1 200")


async def test_answers_that_were_read_after_all_count_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_MOST_UNREAD", 100_000)
    async with house() as home:
        slow = await home.connect_and_read_nothing(times=10)
        await slow.read(10 * 1_000_000)
        await home.connect_and_read_nothing(times=50)
        assert home.door.connections == 2


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
