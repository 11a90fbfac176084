"""What a connection can make the server hold that reads nothing, or sends more than is its turn.

On the loop that workers run on: what it keeps of an answer is its own affair.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from identity_server.api.document import DOCUMENT_PATH
from tests.api.support import V2, head
from tests.support.harness import Harness, running

Story = Callable[[Harness], Coroutine[Any, Any, None]]
Run = Callable[[Story], None]

_CONNECTIONS = 5
_SETTLED = 6
_BODY = 60_000
_IN_LINE = 28
_UNREAD = head("GET", DOCUMENT_PATH) * 4
_LINE = _UNREAD + (head("POST", f"{V2}/terms", f"Content-Length: {_BODY}") + b"x" * _BODY) * _IN_LINE


@pytest.fixture
def on_uvloop(tmp_path: Path) -> Run:
    """Runs something beside a server, as workers run it."""

    def run(story: Story) -> None:
        async def beside_a_server() -> None:
            async with running(tmp_path) as server:
                await story(server)

        uvloop.run(beside_a_server())

    return run


async def _held_for(server: Harness, sent: bytes) -> float:
    """How many bytes are held for each of some connections that send as much as is taken, and read nothing."""
    address = ("127.0.0.1", int(server.base.rpartition(":")[2]))
    with ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        clients = [stack.enter_context(socket.socket()) for _ in range(_CONNECTIONS)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(address)
            client.setblocking(False)
        rests = [memoryview(sent)] * _CONNECTIONS
        most = unchanged = 0
        while unchanged < _SETTLED:
            for place, client in enumerate(clients):
                with suppress(BlockingIOError):
                    rests[place] = rests[place][client.send(rests[place]) :]
            await asyncio.sleep(0.05)
            # Nobody holds garbage.
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
            most, unchanged = max(most, held), 0 if held > most else unchanged + 1
        return most / _CONNECTIONS


def test_answers_that_nobody_reads_are_held_once(on_uvloop: Run) -> None:
    async def story(server: Harness) -> None:
        document = len((await server.get(DOCUMENT_PATH)).body)
        assert await _held_for(server, _UNREAD) < document

    on_uvloop(story)


def test_what_waits_behind_an_answer_that_nobody_reads_is_left_with_who_sent_it(on_uvloop: Run) -> None:
    async def story(server: Harness) -> None:
        await server.get(DOCUMENT_PATH)
        assert await _held_for(server, _LINE) < _IN_LINE / 3 * _BODY

    on_uvloop(story)
