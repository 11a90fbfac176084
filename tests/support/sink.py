"""A place on loopback that takes whatever is posted to it, and keeps it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web


class Sink:
    """What has arrived.

    Attributes:
        base: where it listens.
        received: path and body of each request, unpacked.
    """

    def __init__(self) -> None:
        self.base = ""
        self.received: list[tuple[str, bytes]] = []

    async def wait_for(self, is_there: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Wait until something has arrived."""
        deadline = time.monotonic() + seconds
        while not is_there():
            assert time.monotonic() < deadline, f"not there after {seconds} s: {self.received}"
            await asyncio.sleep(0.05)

    def bodies(self, path: str) -> list[bytes]:
        """What was posted to a path."""
        return [body for found, body in self.received if found == path]

    async def take(self, request: web.Request) -> web.Response:
        """Keep a request."""
        self.received.append((request.path, await request.read()))
        return web.json_response({})


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """One that listens for as long as the block runs."""
    found = Sink()
    app = web.Application()
    app.router.add_post("/{path:.*}", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    found.base = f"http://127.0.0.1:{port}"
    try:
        yield found
    finally:
        await runner.cleanup()
