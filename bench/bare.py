"""The limit: an aiohttp server that reads the same requests and sends answers of the same size, and does nothing else.

    python -m bench.bare PORT

No routes to tell apart but by path, no accounts, no consent, no log, no headers but those of aiohttp: the body is
parsed, and an answer that was made beforehand is sent. Nothing that is built on aiohttp can be faster.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import cycle

import orjson
import uvloop
from aiohttp import web

from bench import world
from bench.requests import LOOKUP_SIZES, V2

_LARGEST_BYTES = 1024 * 1024


class _Answers:
    """What is sent, as many bytes as a real answer has."""

    def __init__(self) -> None:
        self.account = orjson.dumps({"user_id": world.account(0).user_id})
        self.hash_details = orjson.dumps({"algorithms": ["sha256"], "lookup_pepper": world.PEPPER})
        # Every second lookup of one address finds nobody.
        self._of_one = cycle((_mappings(1), _mappings(0)))
        self._of_many = {size: _mappings(size // 2) for size in (10, *LOOKUP_SIZES[1:])}

    def lookup(self, size: int) -> bytes:
        return next(self._of_one) if size == 1 else self._of_many[size]


def _mappings(hits: int) -> bytes:
    return orjson.dumps({"mappings": {world.bound(each).hashed("x"): world.owner(each) for each in range(hits)}})


def _application() -> web.Application:
    answers = _Answers()

    def reply(body: bytes) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def ping(_request: web.Request) -> web.Response:
        return reply(b"{}")

    async def account(_request: web.Request) -> web.Response:
        return reply(answers.account)

    async def hash_details(_request: web.Request) -> web.Response:
        return reply(answers.hash_details)

    async def lookup(request: web.Request) -> web.Response:
        query = orjson.loads(await request.read())
        return reply(answers.lookup(len(query["addresses"])))

    app = web.Application(client_max_size=_LARGEST_BYTES)
    app.router.add_get(V2, ping)
    app.router.add_get(f"{V2}/account", account)
    app.router.add_get(f"{V2}/hash_details", hash_details)
    app.router.add_post(f"{V2}/lookup", lookup)
    return app


async def _serve(port: int) -> None:
    runner = web.AppRunner(_application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
