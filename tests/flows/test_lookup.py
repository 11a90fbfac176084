"""Hashed lookup: algorithms, peppers and their rotation, and what doesn't match."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from threading import get_ident

import pytest

from identity_server.index.keys import LookupKeys
from identity_server.wiring.desks import open_peppers
from tests.support.harness import Harness, User, hashed, running


async def test_details_name_the_algorithm_and_a_pepper_of_letters_and_digits(server: Harness, alice: User) -> None:
    details = (await server.get("hash_details", as_=alice)).json
    assert details["algorithms"] == ["sha256"]
    assert len(details["lookup_pepper"]) == 32
    assert details["lookup_pepper"].isalnum()


async def test_only_what_was_asked_and_is_bound_is_answered(server: Harness, alice: User, bob: User) -> None:
    await server.bound(alice, "alice@example.com")
    await server.bound(bob, "bob@example.com", secret="b")
    pepper = await server.pepper(bob)
    known, unknown = hashed("alice@example.com", pepper), hashed("nobody@example.com", pepper)
    body: dict[str, object] = {
        "algorithm": "sha256",
        "pepper": pepper,
        "addresses": [known, unknown, "", "x", known + "=", "é" * 43],
    }
    assert (await server.post("lookup", body, as_=bob)).json == {"mappings": {known: alice.user_id}}


async def test_medium_is_part_of_the_hash(server: Harness, alice: User) -> None:
    await server.bound(alice, "alice@example.com")
    pepper = await server.pepper(alice)
    wrong = hashed("alice@example.com msisdn", pepper)
    reply = await server.post("lookup", {"algorithm": "sha256", "pepper": pepper, "addresses": [wrong]}, as_=alice)
    assert reply.json == {"mappings": {}}


async def test_unknown_pepper_names_the_right_one(server: Harness, alice: User) -> None:
    reply = await server.lookup(alice, "alice@example.com", pepper="stale")
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PEPPER")
    assert reply.json["algorithm"] == "sha256"
    assert reply.json["lookup_pepper"] == await server.pepper(alice)


async def test_algorithms_that_are_not_offered(server: Harness, alice: User) -> None:
    for algorithm in ("none", "md5", ""):
        body: dict[str, object] = {"algorithm": algorithm, "pepper": await server.pepper(alice), "addresses": []}
        reply = await server.post("lookup", body, as_=alice)
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


async def test_too_many_addresses(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"GENERAL__ADDRESS_LOOKUP_LIMIT": "3"}) as server:
        alice = await server.register()
        assert (await server.lookup(alice, *"abc")).status == 200
        reply = await server.lookup(alice, *"abcd")
        assert (reply.status, reply.errcode) == (400, "M_TOO_LARGE")


async def test_ten_thousand_addresses_fit_into_one_body(server: Harness, alice: User) -> None:
    await server.bound(alice, "alice@example.com")
    others = [f"n{number}@example.com" for number in range(9_999)]
    reply = await server.lookup(alice, "alice@example.com", *others)
    assert list(reply.json["mappings"].values()) == [alice.user_id]


async def test_plain_lookup_where_it_is_configured(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"LOOKUP__ALGORITHMS": "sha256,none"}) as server:
        alice = await server.register()
        await server.bound(alice, "alice@example.com")
        details = (await server.get("hash_details", as_=alice)).json
        assert details["algorithms"] == ["sha256", "none"]
        queries = [
            "alice@example.com email",
            "Alice@Example.com email",
            "x@y.z email",
            "alice@example.com msisdn",
            "?",
        ]
        body = {"algorithm": "none", "pepper": details["lookup_pepper"], "addresses": queries}
        assert (await server.post("lookup", body, as_=alice)).json == {
            "mappings": dict.fromkeys(queries[:2], alice.user_id)
        }
        await server.rotate_pepper()
        body["pepper"] = await server.pepper(alice)
        assert len((await server.post("lookup", body, as_=alice)).json["mappings"]) == 2


async def test_rotation_has_no_gap(server: Harness, alice: User, bob: User) -> None:
    await server.bound(alice, "alice@example.com")
    old = await server.pepper(bob)
    await server.rotate_pepper()
    new = await server.pepper(bob)
    assert new != old
    for pepper in (old, new):
        reply = await server.lookup(bob, "alice@example.com", pepper=pepper)
        assert list(reply.json["mappings"].values()) == [alice.user_id]

    await server.bound(bob, "bob@example.com", secret="b")
    for pepper in (old, new):
        reply = await server.lookup(alice, "bob@example.com", pepper=pepper)
        assert list(reply.json["mappings"].values()) == [bob.user_id], "bound after the rotation, in both"

    server.clock.advance(hours=1)
    reply = await server.lookup(bob, "alice@example.com", pepper=old)
    assert reply.errcode == "M_INVALID_PEPPER"
    await server.system.services.peppers.cleanup()
    assert server.count("peppers") == 1
    assert (await server.lookup(bob, "alice@example.com")).json["mappings"]


async def test_pepper_rotates_when_it_is_thirty_days_old(server: Harness, alice: User) -> None:
    first = await server.pepper(alice)
    server.clock.advance(days=29)
    await server.system.services.peppers.rotate_if_due()
    assert server.count("peppers") == 1
    server.clock.advance(days=1)
    await server.system.services.peppers.rotate_if_due()
    await server.take_pepper_into_use()
    assert await server.pepper(await server.register()) != first


async def test_rotation_by_another_process_is_followed(server: Harness, alice: User, bob: User) -> None:
    await server.bound(alice, "alice@example.com")
    old = await server.pepper(bob)
    async with open_peppers(server.config) as peppers:
        await peppers.rotate()
    await server.pepper(bob)
    await server.take_pepper_into_use()
    new = await server.pepper(bob)
    assert new != old
    for pepper in (old, new):
        reply = await server.lookup(bob, "alice@example.com", pepper=pepper)
        assert list(reply.json["mappings"].values()) == [alice.user_id]


async def test_lookups_during_rotations_are_never_wrong(server: Harness, alice: User, bob: User) -> None:
    await server.bound(alice, "alice@example.com")
    stop = asyncio.Event()
    peppers: set[str] = set()

    async def look_up() -> int:
        count = 0
        while not stop.is_set():
            pepper = await server.pepper(bob)
            peppers.add(pepper)
            reply = await server.lookup(bob, "alice@example.com", pepper=pepper)
            assert list(reply.json["mappings"].values()) == [alice.user_id]
            count += 1
        return count

    lookers = [asyncio.create_task(look_up()) for _ in range(4)]
    for rotations in range(1, 6):
        await server.rotate_pepper()
        newest = await server.pepper(bob)
        while newest not in peppers:
            await asyncio.sleep(0.001)
        assert len(peppers) >= rotations
    stop.set()
    counts = await asyncio.gather(*lookers)
    assert min(counts) > 0


@pytest.mark.parametrize("settings", [{}, {"LOOKUP__ALGORITHMS": "sha256,none"}])
async def test_index_is_rebuilt_at_start(tmp_path: Path, settings: dict[str, str]) -> None:
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        await server.bound(alice, "alice@example.com")
        await server.system.services.peppers.rotate()
        await server.system.index.settled()
    async with running(tmp_path, settings=settings) as server:
        assert await server.find(alice, "alice@example.com") == alice.user_id


async def test_no_cipher_is_used_by_lookups_while_another_thread_makes_the_index(
    server: Harness, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[LookupKeys, set[int]] = defaultdict(set)
    usual = LookupKeys._of_blocks

    def noted(self: LookupKeys, blocks: Sequence[bytes]) -> bytes:
        threads[self].add(get_ident())
        return usual(self, blocks)

    monkeypatch.setattr(LookupKeys, "_of_blocks", noted)
    await server.bound(alice, "alice@example.com")
    await server.rotate_pepper()
    emails = ["alice@example.com", *(f"nobody{number}@example.com" for number in range(9))]
    reply = await server.lookup(alice, *emails)
    assert len(reply.json["mappings"]) == 1
    lookups = [used for used in threads.values() if get_ident() in used]
    assert lookups == [{get_ident()}]
    assert len(threads) > len(lookups), "another thread had work to do, too"
