"""Two servers on one database, asked for the same thing at the same time: what holds on one holds on both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from identity_server.app import background_work
from identity_server.domain.identifiers import UserId
from identity_server.domain.retention import SAVE_INDEX
from identity_server.wiring import services as wiring_services
from identity_server.wiring.desks import open_erasure
from identity_server.workers.upkeep import schedule
from tests.flows.test_phone import request_code, submit, wrong
from tests.support.databases import read_rows
from tests.support.harness import ALICE, BOB, SECRET, Fakes, Harness, User, running
from tests.support.leaks import everything_in

pytestmark = pytest.mark.postgresql(reason="several servers on one database")

EMAIL = "alice@example.com"
# A thousand is what was promised.
_TRIES = int(os.environ.get("IDENTITY_SERVER_TESTS_BINDS", "60"))
# Promised is one; a machine that other tests share may take longer for it.
_SOON_SECONDS = 30.0
Nodes = tuple[Harness, Harness]


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    here = Fakes()
    there = here.beside()
    async with running(tmp_path, fakes=here) as first, running(tmp_path, fakes=there) as second:
        yield first, second


@pytest.fixture
async def users(nodes: Nodes) -> tuple[User, User]:
    return await nodes[0].register(ALICE), await nodes[1].register(BOB)


async def test_user_who_registers_everywhere_has_one_account(nodes: Nodes) -> None:
    users = await asyncio.gather(*(node.register(ALICE) for node in nodes * 5))
    assert nodes[0].count("accounts") == 1
    for user in users:
        for node in nodes:
            assert (await node.get("account", as_=user)).json == {"user_id": ALICE}


async def test_address_bound_by_two_has_one_owner(nodes: Nodes, users: tuple[User, User]) -> None:
    for number in range(5):
        address = f"n{number}@example.com"
        pairs = list(zip(nodes, users, strict=True))
        sids = [await node.validated(user, address, secret=f"s{user.user_id[1]}{number}") for node, user in pairs]
        replies = await asyncio.gather(
            *(
                node.bind(user, sid, secret=f"s{user.user_id[1]}{number}")
                for (node, user), sid in zip(pairs, sids, strict=True)
            )
        )
        assert [reply.status for reply in replies] == [200, 200]
        assert nodes[0].count("associations") == number + 1
        found = [await node.find(user, address) for node, user in pairs]
        owners = {owner for (owner,) in nodes[0].rows("SELECT user_id FROM associations")}
        assert found[0] == found[1]
        assert found[0] in owners


async def test_bind_against_unbind_leaves_both_nodes_of_one_mind(nodes: Nodes, users: tuple[User, User]) -> None:
    here, there = nodes
    alice = users[0]
    sid = await here.bound(alice, EMAIL)
    for _ in range(5):
        body = {
            "sid": sid,
            "client_secret": SECRET,
            "mxid": alice.user_id,
            "threepid": {"medium": "email", "address": EMAIL},
        }
        replies = await asyncio.gather(here.bind(alice, sid), there.post("3pid/unbind", body))
        assert [reply.status for reply in replies] == [200, 200]
        stored = here.count("associations")
        assert await here.find(alice, EMAIL) == await there.find(alice, EMAIL) == (ALICE if stored else None)


async def test_one_attempt_sends_one_mail(nodes: Nodes, users: tuple[User, User]) -> None:
    replies = await asyncio.gather(*(node.request_token(users[0], EMAIL) for node in nodes * 5))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.json["sid"] for reply in replies}) == 1
    assert sum(len(node.mail.sent) for node in nodes) == 1


async def test_wrong_codes_are_counted_together(nodes: Nodes, users: tuple[User, User]) -> None:
    here, _ = nodes
    sid = (await request_code(here, users[0])).json["sid"]
    code = wrong(here)
    replies = await asyncio.gather(*(submit(node, users[0], sid, code) for node in nodes * 10))
    errcodes = [reply.errcode for reply in replies]
    assert errcodes.count("M_TOKEN_INCORRECT") == 5
    assert errcodes.count("M_SESSION_EXPIRED") == 15


async def test_allowance_is_one_for_all_nodes(nodes: Nodes, users: tuple[User, User], tmp_path: Path) -> None:
    alice = users[0]
    sid = await nodes[0].validated(alice, EMAIL)
    replies = await asyncio.gather(*(node.bind(alice, sid) for node in nodes * 20))
    statuses = [reply.status for reply in replies]
    assert statuses.count(200) == 20
    assert statuses.count(429) == 20
    assert read_rows(tmp_path / "db" / "identity.db", "SELECT count(*) FROM associations") == [(1,)]


async def test_logout_on_one_node_counts_on_the_other(nodes: Nodes, users: tuple[User, User]) -> None:
    here, there = nodes
    assert (await there.get("account", as_=users[0])).status == 200
    assert (await here.post("account/logout", {}, as_=users[0])).status == 200
    async with asyncio.timeout(_SOON_SECONDS):
        while (await there.get("account", as_=users[0])).status != 401:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def working(folder: Path) -> AsyncIterator[Nodes]:
    """Two nodes, each with an index of its own, and what runs in the background."""
    here = Fakes()
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                running(folder, fakes=fakes, settings={"LOOKUP__INDEX_DIR": str(folder / name)})
            )
            for name, fakes in (("here", here), ("there", here.beside()))
        ]
        for node in nodes:
            await stack.enter_async_context(background_work(node.system))
        yield (nodes[0], nodes[1])


async def test_binding_on_one_node_is_found_on_another_within_a_second(tmp_path: Path) -> None:
    """Each with an index of its own, and what runs in the background."""
    async with working(tmp_path) as nodes:
        alice = await nodes[0].register(ALICE)
        pepper = await nodes[0].pepper(alice)
        for number in range(_TRIES):
            one, other = nodes if number % 2 else nodes[::-1]
            address = f"n{number}@example.com"
            async with one.internally() as operator:
                binding = {"medium": "email", "address": address, "mxid": f"@n{number}:example.org"}
                assert (await operator.post("/_matrix/identity/internal/bind", binding)).status == 200
            async with asyncio.timeout(_SOON_SECONDS):
                while (await other.lookup(alice, address, pepper=pepper)).json == {"mappings": {}}:
                    await asyncio.sleep(0.005)


async def test_logout_on_one_node_is_known_on_another_within_a_second(tmp_path: Path) -> None:
    async with working(tmp_path) as (one, other):
        alice = await one.register(ALICE)
        assert (await other.get("account", as_=alice)).status == 200

        await one.post("account/logout", {}, as_=alice)

        async with asyncio.timeout(_SOON_SECONDS):
            while (await other.get("account", as_=alice)).status == 200:
                await asyncio.sleep(0.01)


async def test_who_is_erased_on_one_node_goes_from_the_other_ones_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once from its answers, and from its file as soon as that is saved, which each node does every 20 minutes."""
    monkeypatch.setattr(wiring_services, "SETTLING_SECONDS", 0.05)
    async with working(tmp_path) as (one, other):
        alice, bob = await one.register("@walter.kestrel:example.org"), await one.register(BOB)
        await one.bound(alice, EMAIL)
        pepper = await other.pepper(bob)
        async with asyncio.timeout(_SOON_SECONDS):
            while (await other.lookup(bob, EMAIL, pepper=pepper)).json == {"mappings": {}}:
                await asyncio.sleep(0.01)
        for node in (one, other):
            await node.system.index.save()
            assert in_index(node, alice)

        async with open_erasure(one.config) as operator:
            erased = await operator.erase_account(UserId(alice.user_id))
            await operator.leave_nothing(erased.traces)

        assert not in_index(one, alice)
        async with asyncio.timeout(_SOON_SECONDS):
            while (await other.lookup(bob, EMAIL, pepper=pepper)).json != {"mappings": {}}:
                await asyncio.sleep(0.01)
        assert in_index(other, alice), "the test can tell"
        chores = schedule(other.system.services, other.system.index, other.system.look_at_keys)
        (save,) = [each for each in chores if each.name == SAVE_INDEX.name]
        assert save.every_seconds == 20 * 60
        await save.run()
        assert not in_index(other, alice)


def in_index(node: Harness, user: User) -> bool:
    """Whether any file beside a node's index holds a Matrix ID."""
    return user.user_id.encode() in everything_in(node.config.index_folder)


async def test_new_pepper_is_given_out_when_the_other_node_can_answer_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has an index of its own, and one takes longer to make a table."""
    here = Fakes()
    there = here.beside()
    async with AsyncExitStack() as stack:
        fast, slow = [
            await stack.enter_async_context(
                running(tmp_path, fakes=fakes, settings={"LOOKUP__INDEX_DIR": str(tmp_path / name)})
            )
            for name, fakes in (("here", here), ("there", there))
        ]
        alice = await fast.register(ALICE)
        await fast.bound(alice, EMAIL)
        before = await fast.pepper(alice)
        may_build = asyncio.Event()
        build = slow.system.index._build

        async def build_slowly() -> None:
            await may_build.wait()
            await build()

        monkeypatch.setattr(slow.system.index, "_build", build_slowly)

        async def retire() -> None:
            for node in (fast, slow):
                await node.system.services.peppers.retire_replaced(node.system.index)

        await slow.system.index.catch_up()
        await fast.system.services.peppers.rotate()
        await slow.system.index.catch_up()
        here.clock.advance(minutes=5)
        await fast.system.index.settled()
        await retire()
        here.clock.advance(minutes=4)
        await retire()
        assert [await node.pepper(alice) for node in (fast, slow)] == [before] * 2

        may_build.set()
        await slow.system.index.settled()
        here.clock.advance(minutes=1)
        await retire()
        after = await fast.pepper(alice)
        assert after != before
        for node in (fast, slow):
            for pepper in (before, after):
                found = (await node.lookup(alice, EMAIL, pepper=pepper)).json["mappings"]
                assert list(found.values()) == [ALICE]
        await slow.system.index.poll()
        assert await slow.pepper(alice) == after
