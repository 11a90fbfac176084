"""What is bound on one worker is found by the next lookup on any of them."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from aiohttp import ClientSession

from tests.e2e.processes import reserve_port
from tests.processes.conftest import TOKEN, Server
from tests.support.harness import hashed

_WORKERS = 4
_CONNECTIONS = 12

# As the other number of this folder: a thousand is what was promised.
_TRIES = int(os.environ.get("IDENTITY_SERVER_TESTS_BINDS", "60"))


async def test_binding_is_found_by_the_next_lookup_on_any_worker(server: Server) -> None:
    internal = reserve_port()
    server.start(
        workers=_WORKERS, http=f"internalapi.http.bind_address = 127.0.0.1\ninternalapi.http.port = {internal}"
    )
    await server.add_account()
    async with AsyncExitStack() as stack:
        # Each keeps its connection, and with it its worker.
        callers = [
            await stack.enter_async_context(ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}))
            for _ in range(_CONNECTIONS)
        ]
        operators = [await stack.enter_async_context(ClientSession()) for _ in range(_WORKERS)]
        async with callers[0].get(f"{server.base}/_matrix/identity/v2/hash_details") as response:
            pepper = (await response.json())["lookup_pepper"]
        for number in range(_TRIES):
            address, user_id = f"n{number}@example.com", f"@n{number}:example.org"
            server.ledger.note_whole_address(address, medium="email", peppers=[pepper])
            binding = {"medium": "email", "address": address, "mxid": user_id}
            bind = f"http://127.0.0.1:{internal}/_matrix/identity/internal/bind"
            async with operators[number % _WORKERS].post(bind, json=binding) as response:
                assert response.status == 200, await response.text()

            asked = hashed(address, pepper)
            question = {"algorithm": "sha256", "pepper": pepper, "addresses": [asked]}
            for caller in callers:
                async with caller.post(f"{server.base}/_matrix/identity/v2/lookup", json=question) as response:
                    assert await response.json() == {"mappings": {asked: user_id}}, number
    assert server.stop() == 0
