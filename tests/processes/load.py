"""Load on a server: clients that ask without a pause, and remember what went wrong and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, TCPConnector

from identity_server.domain.hashing import encode_digest
from tests.e2e.processes import PATIENCE_SECONDS
from tests.processes.conftest import TOKEN, Server

_HEADERS = {"Authorization": f"Bearer {TOKEN}"}
_ADDRESSES = [encode_digest(bytes([number]) * 32) for number in range(20)]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that wasn't answered as it should.

    Attributes:
        begun, ended: by the monotonic clock.
        cut_off: whether its connection was there and broke; rather than refused, too slow or answered with an error.
    """

    begun: float
    ended: float
    reason: str
    cut_off: bool


@dataclass(slots=True)
class Load:
    """What the clients have seen so far."""

    answered: int = 0
    failures: list[Failure] = field(default_factory=list)

    async def grow(self, by: int) -> None:
        """Wait until so many more requests were answered."""
        goal = self.answered + by
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.answered < goal:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def under_load(server: Server, *, clients: int, keep_connections: bool) -> AsyncIterator[Load]:
    """Have clients ask for as long as the block runs.

    They look addresses up: a POST, which no HTTP library sends a second time by itself.
    """
    load = Load()
    stopped = asyncio.Event()
    connector = TCPConnector(limit=0, force_close=not keep_connections)
    async with ClientSession(
        connector=connector, headers=_HEADERS, timeout=ClientTimeout(total=PATIENCE_SECONDS)
    ) as session:
        async with session.get(f"{server.base}/_matrix/identity/v2/hash_details") as response:
            pepper = (await response.json())["lookup_pepper"]
        body = {"algorithm": "sha256", "pepper": pepper, "addresses": _ADDRESSES}

        async def ask() -> None:
            while not stopped.is_set():
                begun, cut_off = time.monotonic(), False
                try:
                    async with session.post(f"{server.base}/_matrix/identity/v2/lookup", json=body) as response:
                        text = await response.text()
                    reason = (
                        None if (response.status, text) == (200, '{"mappings":{}}') else f"{response.status} {text}"
                    )
                except (ClientError, TimeoutError) as error:
                    reason = repr(error)
                    cut_off = not isinstance(error, ClientConnectorError | TimeoutError)
                if reason is None:
                    load.answered += 1
                else:
                    load.failures.append(Failure(begun, time.monotonic(), reason, cut_off))

        tasks = [asyncio.create_task(ask()) for _ in range(clients)]
        try:
            yield load
        finally:
            stopped.set()
            await asyncio.gather(*tasks)
