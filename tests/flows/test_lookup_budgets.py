"""Budgets of lookups: who runs into them, when, what they are told, and what stays free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from identity_server.domain.identifiers import UserId
from identity_server.index.keys import LookupKeys
from identity_server.key_files import load_keys
from identity_server.storage.sealing.server_keys import KeyState
from identity_server.wiring.settings import key_sources
from tests.support.databases import written_to
from tests.support.harness import Fakes, Harness, Reply, User, hashed, running

DAY_MS = 86_400_000
SMALL = {"LOOKUP__BUDGET_ACCOUNT": "10", "LOOKUP__BUDGET_ACCOUNT_PER_DAY": "3"}


def people(first: int, last: int) -> list[str]:
    """Addresses that nobody has bound, from one number up to another."""
    return [f"n{number}@example.com" for number in range(first, last)]


async def ask(server: Harness, user: User, first: int, last: int) -> int:
    """Look so many up; returns the status."""
    return (await server.lookup(user, *people(first, last))).status


async def test_account_runs_into_its_budget_and_what_it_has_asked_for_stays_free(tmp_path: Path) -> None:
    async with running(tmp_path, settings=SMALL) as server:
        alice = await server.register()
        assert await ask(server, alice, 0, 8) == 200
        refused = await server.lookup(alice, *people(8, 11))
        assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
        # Being refused has cost nothing.
        assert await ask(server, alice, 8, 10) == 200
        assert await ask(server, alice, 10, 11) == 429
        for _ in range(3):
            assert await ask(server, alice, 0, 10) == 200
            assert await ask(server, alice, 4, 5) == 200
        # One that is new, among many that aren't.
        assert await ask(server, alice, 0, 11) == 429
        # Others have budgets of their own.
        bob = await server.register("@bob:example.org")
        assert await ask(server, bob, 5, 15) == 200


async def test_retry_after_is_true_to_the_millisecond(tmp_path: Path) -> None:
    async with running(tmp_path, settings=SMALL) as server:
        alice = await server.register()
        assert await ask(server, alice, 0, 10) == 200
        server.clock.advance(seconds=1000.123)
        refused = await server.lookup(alice, *people(10, 13))
        wait_ms = refused.json["retry_after_ms"]
        assert 0 < wait_ms <= DAY_MS - 1_000_123
        assert int(refused.headers["Retry-After"]) == -(-wait_ms // 1000)
        server.clock.advance(seconds=(wait_ms - 1) / 1000)
        again = await server.lookup(alice, *people(10, 13))
        assert (again.status, again.json["retry_after_ms"]) == (429, 1)
        server.clock.advance(seconds=0.001)
        assert await ask(server, alice, 10, 13) == 200
        assert await ask(server, alice, 13, 14) == 429
        server.clock.advance(days=1)
        assert await ask(server, alice, 13, 16) == 200


async def test_more_than_a_day_has_is_told_to_wait_for_the_next_pepper(tmp_path: Path) -> None:
    settings = {**SMALL, "LOOKUP__PEPPER_ROTATION_DAYS": "7"}
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        assert await ask(server, alice, 0, 10) == 200
        refused = await server.lookup(alice, *people(10, 14))
        assert refused.status == 429
        server.clock.advance(seconds=refused.json["retry_after_ms"] / 1000)
        await server.system.services.peppers.rotate_if_due()
        await server.take_pepper_into_use()
        assert await ask(server, alice, 10, 14) == 200


async def test_more_than_there_ever_is_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, settings=SMALL) as server:
        alice = await server.register()
        refused = await server.lookup(alice, *people(0, 14))
        assert (refused.status, refused.errcode) == (400, "M_TOO_LARGE")
        # So many there will be tomorrow.
        assert await ask(server, alice, 0, 13) == 429
        assert await ask(server, alice, 0, 10) == 200


async def test_addresses_of_one_lookup_count_once_and_what_is_none_not_at_all(tmp_path: Path) -> None:
    async with running(tmp_path, settings=SMALL) as server:
        alice = await server.register()
        pepper = await server.pepper(alice)
        hashes = [hashed(address, pepper) for address in people(0, 10)]
        body = {"algorithm": "sha256", "pepper": pepper, "addresses": [*hashes, *hashes, "", "x", "é" * 43]}
        assert (await server.post("lookup", body, as_=alice)).status == 200


async def test_what_was_asked_is_free_after_a_restart(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, settings=SMALL, fakes=fakes) as server:
        alice = await server.register()
        for number in range(10):
            assert await ask(server, alice, number, number + 1) == 200
    async with running(tmp_path, settings=SMALL, fakes=fakes) as server:
        assert await ask(server, alice, 0, 10) == 200
        assert await ask(server, alice, 10, 11) == 429


async def test_two_ways_to_ask_for_an_address_count_once(tmp_path: Path) -> None:
    async with running(tmp_path, settings={**SMALL, "LOOKUP__ALGORITHMS": "sha256,none"}) as server:
        alice = await server.register()
        body = {
            "algorithm": "none",
            "pepper": await server.pepper(alice),
            "addresses": [f"{address} email" for address in people(0, 10)],
        }
        assert (await server.post("lookup", body, as_=alice)).status == 200
        assert await ask(server, alice, 0, 10) == 200
        assert await ask(server, alice, 10, 11) == 429
        body["addresses"] = ["n10@example.com email"]
        assert (await server.post("lookup", body, as_=alice)).status == 429


async def test_accounts_of_a_homeserver_and_of_all_below_its_domain_share_a_budget(tmp_path: Path) -> None:
    settings = {"LOOKUP__BUDGET_HOMESERVER_PER_DAY": "10", "LOOKUP__BUDGET_HOMESERVER_PER_USER": "4"}
    async with running(tmp_path, settings=settings) as server:
        one, two = await server.register("@one:crawler.test"), await server.register("@two:crawler.test")
        other_port = await server.register("@one:sub.crawler.test:8449")
        assert await ask(server, one, 0, 4) == 200
        assert await ask(server, two, 0, 4) == 200
        assert await ask(server, other_port, 0, 3) == 429
        assert await ask(server, other_port, 0, 2) == 200
        assert await ask(server, two, 4, 5) == 429
        # What they have paid for stays free.
        assert await ask(server, one, 0, 4) == 200
        somebody_else = await server.register("@one:example.org")
        assert await ask(server, somebody_else, 0, 10) == 200
        server.clock.advance(days=1)
        assert await ask(server, two, 4, 14) == 200


async def test_homeserver_whose_users_are_bound_may_more(tmp_path: Path) -> None:
    settings = {"LOOKUP__BUDGET_HOMESERVER_PER_DAY": "10", "LOOKUP__BUDGET_HOMESERVER_PER_USER": "4"}
    async with running(tmp_path, settings=settings) as server:
        users = [await server.register(f"@user{number}:example.org") for number in range(3)]
        for number, user in enumerate(users):
            await server.bound(user, f"user{number}@example.com", secret=f"s{number}")
            # A second address doesn't make two of a user.
            await server.bound(user, f"also{number}@example.com", secret=f"t{number}")
        assert await ask(server, users[0], 0, 11) == 400
        assert await server.system.services.lookup_budgets.count_bound_users() == 3
        # For a few seconds, whoever was refused isn't looked at again.
        server.clock.advance(seconds=5)
        assert await ask(server, users[0], 0, 12) == 200
        assert await ask(server, users[1], 0, 1) == 429


@pytest.fixture
def behind_proxy() -> Mapping[str, str]:
    return {"HTTP__TRUSTED_PROXIES": "127.0.0.1", "LOOKUP__BUDGET_NETWORK_PER_DAY": "10"}


async def ask_from(server: Harness, address: str, user: User, first: int, last: int) -> int:
    pepper = await server.pepper(user)
    hashes = [hashed(each, pepper) for each in people(first, last)]
    body = {"algorithm": "sha256", "pepper": pepper, "addresses": hashes}
    return (await server.post("lookup", body, as_=user, headers={"X-Forwarded-For": address})).status


async def test_everybody_behind_one_network_shares_its_budget(
    tmp_path: Path, behind_proxy: Mapping[str, str]
) -> None:
    async with running(tmp_path, settings=behind_proxy) as server:
        one, two = await server.register("@one:one.test"), await server.register("@two:two.test")
        assert await ask_from(server, "192.0.2.1", one, 0, 6) == 200
        assert await ask_from(server, "192.0.2.200", two, 0, 5) == 429
        assert await ask_from(server, "192.0.2.200", two, 0, 4) == 200
        assert await ask_from(server, "192.0.3.1", two, 4, 14) == 200
        assert await ask_from(server, "192.0.2.77", one, 0, 6) == 200
        server.clock.advance(days=1)
        assert await ask_from(server, "192.0.2.1", one, 6, 16) == 200


async def test_refusals_are_counted_by_whose_budget_it_was(tmp_path: Path) -> None:
    settings = {**SMALL, "LOOKUP__BUDGET_HOMESERVER_PER_DAY": "12", "LOOKUP__BUDGET_HOMESERVER_PER_USER": "0"}
    async with running(tmp_path, settings=settings) as server:
        alice, bob = await server.register(), await server.register("@bob:example.org")
        assert await ask(server, alice, 0, 10) == 200
        assert await ask(server, alice, 10, 11) == 429
        assert await ask(server, alice, 10, 11) == 429
        assert await ask(server, bob, 0, 3) == 429
        numbers = server.metrics.totals.numbers
        assert numbers["refusals", "account budget"] == 2
        assert numbers["refusals", "homeserver budget"] + numbers["refusals", "domain budget"] == 1


async def invite(server: Harness, user: User, address: str) -> Reply:
    body = {"medium": "email", "address": address, "room_id": "!room:example.org", "sender": user.user_id}
    return await server.post("store-invite", body, as_=user)


async def test_invites_are_no_way_round(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"LOOKUP__BUDGET_ACCOUNT": "2"}) as server:
        alice, bob = await server.register(), await server.register("@bob:example.org")
        for number in range(3):
            await server.bound(bob, f"n{number}@example.com", secret=f"s{number}")
        for number in range(2):
            assert (await invite(server, alice, f"n{number}@example.com")).errcode == "M_THREEPID_IN_USE"
        # Bound or not, it is the same.
        for address in ("n2@example.com", "nobody@example.com"):
            refused = await invite(server, alice, address)
            assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
            assert refused.json["retry_after_ms"] > 0
        # They share one budget with lookups, and what was asked for by either is free.
        assert (await invite(server, alice, "N0@example.com")).errcode == "M_THREEPID_IN_USE"
        assert await ask(server, alice, 0, 2) == 200
        assert await ask(server, alice, 2, 3) == 429


async def test_invites_of_v1_are_charged_to_the_network(tmp_path: Path) -> None:
    settings = {"LOOKUP__BUDGET_NETWORK_PER_DAY": "2", "GENERAL__ENABLE_V1_ACCESS": "true"}
    async with running(tmp_path, settings=settings) as server:
        body = {"medium": "email", "room_id": "!room:example.org", "sender": "@alice:example.org"}
        statuses = [
            (
                await server.post(
                    "/_matrix/identity/api/v1/store-invite", {**body, "address": f"n{number}@example.com"}
                )
            ).status
            for number in range(3)
        ]
        assert statuses == [200, 200, 429]


async def test_what_was_asked_stands_nowhere_and_goes_with_its_pepper(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"LOOKUP__PEPPER_GRACE_SECONDS": "60"}) as server:
        alice = await server.register()
        pepper = await server.pepper(alice)
        assert await ask(server, alice, 0, 20) == 200
        assert await ask(server, alice, 20, 23) == 200
        assert await ask(server, alice, 23, 25) == 200
        budgets = server.system.services.lookup_budgets
        assert server.count("asked_addresses") == 2
        await budgets.write_down()
        assert server.count("asked_addresses") == 3
        known = dict(server.rows("SELECT name, fingerprint FROM server_keys"))
        root = load_keys(key_sources(server.config), KeyState(), randomness=Fakes().randomness).root.sealing
        assert known["root"] == root.fingerprint
        keys = LookupKeys(root).many([hashed(address, pepper) for address in people(0, 25)]) or b""
        content = written_to(server.config.db.file)
        for start in range(0, len(keys), 16):
            assert keys[start : start + 16] not in content
        assert b"@alice:example.org" not in b"".join(
            digest for (digest,) in server.rows("SELECT holder_digest FROM asked_addresses")
        )

        await server.rotate_pepper()
        assert await ask(server, alice, 0, 5) == 200
        await budgets.cleanup()
        assert server.count("asked_addresses") == 4
        server.clock.advance(seconds=61)
        await server.system.services.peppers.cleanup()
        await budgets.cleanup()
        (left,) = server.rows("SELECT DISTINCT pepper_id FROM asked_addresses")
        assert left == (2,)
        assert server.rows("SELECT DISTINCT pepper_id FROM lookup_budgets ORDER BY 1") == [(0,), (2,)]


async def test_what_networks_and_homeservers_did_is_forgotten_with_the_day(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        assert await ask(server, alice, 0, 2) == 200
        assert server.count("lookup_budgets") == 4
        server.clock.advance(days=1, hours=1)
        await server.system.services.lookup_budgets.cleanup()
        assert server.count("lookup_budgets") == 1


async def test_nothing_is_left_of_an_account_that_is_removed(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice, bob = await server.register(), await server.register("@bob:example.org")
        assert await ask(server, alice, 0, 2) == 200
        assert await ask(server, alice, 2, 4) == 200
        assert await ask(server, alice, 4, 5) == 200
        assert await ask(server, bob, 0, 2) == 200
        removed = await server.system.database.transaction(lambda tx: tx.budgets.remove_of(UserId(alice.user_id)))
        assert removed == {"lookup_budgets": 1, "asked_addresses": 2}
        # Nor does what was only in memory come back.
        await server.system.services.lookup_budgets.write_down()
        assert server.count("asked_addresses") == 1
        assert await ask(server, bob, 0, 2) == 200
