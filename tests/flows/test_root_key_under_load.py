"""The root key replaced while people bind and look up on two servers, without a pause: thousands of requests."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

from tests.flows.test_root_key import key_ids, new_file, root_key
from tests.support.harness import ALICE, BOB, Fakes, Harness, User, running
from tests.support.rotation import LEASE_SECONDS, rotate


class Crowd:
    """People who bind and look up on several nodes, without a pause, and what must be so afterwards."""

    def __init__(self) -> None:
        self.bound: dict[str, str] = {}
        self.stopped = asyncio.Event()

    async def bind(self, node: Harness, address: str, user_id: str) -> None:
        body = {"medium": "email", "address": address, "mxid": user_id}
        while (reply := await node.post("/_matrix/identity/internal/bind", body)).status == 503:
            pass  # whoever has lost every race is told to try again
        assert reply.status == 200, reply.json

    async def come(self, node: Harness, name: str) -> None:
        """Bind an address that nobody has bound, again and again."""
        for number in itertools.count():
            address = f"{name}{number}@example.com"
            await self.bind(node, address, ALICE)
            self.bound[address] = ALICE
            if self.stopped.is_set():
                return

    async def fight(self, node: Harness, user_id: str) -> None:
        """Take an address from somebody who takes it back."""
        while not self.stopped.is_set():
            await self.bind(node, "fought@example.com", user_id)

    async def look_up(self, node: Harness, user: User) -> None:
        while not self.stopped.is_set():
            await asyncio.sleep(0.01)
            address = next(reversed(self.bound))
            assert await node.find(user, address) == self.bound[address]


async def test_nothing_is_lost_or_there_twice_under_load(tmp_path: Path) -> None:
    fakes, crowd = Fakes(), Crowd()
    other_fakes = fakes.beside()
    lease: dict[str, Any] = {"key_lease_seconds": LEASE_SECONDS}
    async with (
        running(tmp_path, fakes=fakes, **lease) as here,
        running(tmp_path, fakes=other_fakes, **lease) as there,
        here.internally() as inside,
        there.internally() as also_inside,
    ):
        alice = await here.register(ALICE)
        for number in range(20):
            await crowd.bind(inside, f"before{number}@example.com", ALICE)
            crowd.bound[f"before{number}@example.com"] = ALICE
        async with asyncio.TaskGroup() as tasks:
            for node, name, user_id in ((inside, "here", ALICE), (also_inside, "there", BOB)):
                tasks.create_task(crowd.come(node, name))
                tasks.create_task(crowd.fight(node, user_id))
            tasks.create_task(crowd.look_up(here, alice))
            await rotate(here, there)
            crowd.stopped.set()
        assert key_ids(here) == {root_key(new_file(tmp_path)).key_id}
        assert here.count("associations") == len(crowd.bound) + 1, "one for each, and the one that was fought for"
        for node in (here, there):
            await node.system.index.catch_up()
            assert await node.find(alice, "fought@example.com") in {ALICE, BOB}
            reply = await node.lookup(alice, *crowd.bound)
            assert sorted(reply.json["mappings"].values()) == sorted(crowd.bound.values())
