"""Accounts: registration, recognition, expiry, logout."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from identity_server.domain.errors import (
    HomeserverMisbehaved,
    HomeserverStep,
    HomeserverUnreachable,
    IdentityServerError,
)
from tests.support.harness import ALICE, Harness, Reply, User, running


def openid(server: Harness, user_id: str = ALICE, **changes: Any) -> dict[str, Any]:
    answer = {
        "access_token": server.homeservers.issue(user_id),
        "token_type": "Bearer",
        "matrix_server_name": user_id.partition(":")[2],
        "expires_in": 3600,
    }
    return {**answer, **changes}


async def test_registering_gives_a_token_under_both_names(server: Harness) -> None:
    reply = await server.post("account/register", openid(server))
    assert reply.status == 200
    assert reply.json["token"] == reply.json["access_token"]
    whoami = await server.get("account", as_=User(ALICE, reply.json["token"]))
    assert whoami.json == {"user_id": ALICE}


async def test_fields_that_are_not_needed_may_be_missing(server: Harness) -> None:
    body = openid(server)
    del body["token_type"], body["expires_in"]
    assert (await server.post("account/register", body)).status == 200


async def test_server_name_is_folded(server: Harness) -> None:
    reply = await server.post("account/register", openid(server, matrix_server_name="Example.ORG"))
    assert reply.status == 200


async def test_unknown_openid_token_is_the_users_fault(server: Harness) -> None:
    reply = await server.post("account/register", openid(server, access_token="stale"))
    assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")
    assert server.count("accounts") == 0


@pytest.mark.parametrize("failure", [HomeserverUnreachable("no route"), HomeserverMisbehaved("lies")])
async def test_homeserver_that_fails_is_told_from_a_bad_token(server: Harness, failure: IdentityServerError) -> None:
    server.homeservers.failure = failure
    reply = await server.post("account/register", openid(server))
    assert (reply.status, reply.errcode) == (503, "M_UNKNOWN")
    assert reply.json["error"] == failure.message
    assert server.count("accounts") == 0


async def test_log_says_which_step_failed_and_more_than_the_caller_may_know(server: Harness) -> None:
    step = HomeserverStep.FIND
    server.homeservers.failure = HomeserverUnreachable("no address", step=step, detail="it is in our own network")
    with structlog.testing.capture_logs() as logs:
        reply = await server.post("account/register", openid(server))
        server.homeservers.failure = None
        await server.post("account/register", openid(server, access_token="stale"))
    assert reply.json["error"] == "no address"
    failed, refused = [entry for entry in logs if entry["event"] in {"homeserver.failed", "registration.refused"}]
    assert (failed["event"], failed["step"], failed["reason"]) == (
        "homeserver.failed",
        "find",
        "it is in our own network",
    )
    assert refused["event"] == "registration.refused"
    assert "OpenID token" in refused["reason"]


async def test_only_listed_homeservers_may_register(tmp_path: Path) -> None:
    settings = {"GENERAL__HOMESERVER_ALLOW_LIST": "Elsewhere.example"}
    async with running(tmp_path, settings=settings) as server:
        refused = await server.post("account/register", openid(server))
        assert (refused.status, refused.errcode) == (403, "M_UNAUTHORIZED")
        assert (await server.post("account/register", openid(server, "@bob:elsewhere.example"))).status == 200


async def test_logout_ends_this_token_alone(server: Harness, alice: User) -> None:
    other = await server.register(alice.user_id)
    assert (await server.post("account/logout", as_=alice)).json == {}
    gone = await server.get("account", as_=alice)
    assert (gone.status, gone.errcode) == (401, "M_UNAUTHORIZED")
    again = await server.post("account/logout", as_=alice)
    assert (again.status, again.errcode) == (401, "M_UNAUTHORIZED")
    assert (await server.get("account", as_=other)).status == 200


async def test_token_dies_of_sixty_days_without_use(server: Harness, alice: User) -> None:
    server.clock.advance(days=59)
    assert (await server.get("account", as_=alice)).status == 200
    await server.system.services.accounts.record_token_uses()
    server.clock.advance(days=59)
    assert (await server.get("account", as_=alice)).status == 200, "use prolongs its life"
    await server.system.services.accounts.record_token_uses()
    server.clock.advance(days=60)
    assert (await server.get("account", as_=alice)).status == 401
    await server.system.services.accounts.cleanup()
    assert server.count("access_tokens") == 0


async def test_use_is_recorded_once_a_day(server: Harness, alice: User) -> None:
    def last_use() -> int:
        use: int = server.rows("SELECT last_used_at_ms FROM access_tokens")[0][0]
        return use

    made = last_use()
    server.clock.advance(hours=23)
    await server.get("account", as_=alice)
    await server.system.services.accounts.record_token_uses()
    assert last_use() == made
    server.clock.advance(hours=2)
    await server.get("account", as_=alice)
    assert last_use() == made, "not on the request's path"
    await server.system.services.accounts.record_token_uses()
    assert last_use() == server.clock.ms


async def test_network_registers_thirty_times_a_minute(server: Harness) -> None:
    replies = [await server.post("account/register", openid(server)) for _ in range(31)]
    assert [reply.status for reply in replies[:30]] == [200] * 30
    assert (replies[30].status, replies[30].errcode) == (429, "M_LIMIT_EXCEEDED")
    assert replies[30].headers["Retry-After"] == "2"
    assert replies[30].json["retry_after_ms"] == 2000
    server.clock.advance(seconds=2)
    assert (await server.post("account/register", openid(server))).status == 200


async def test_network_registers_ten_at_once(server: Harness) -> None:
    gate = asyncio.Event()
    arrived = asyncio.Semaphore(0)

    async def wait_at_gate() -> None:
        arrived.release()
        await gate.wait()

    server.homeservers.on_call = wait_at_gate
    under_way: list[asyncio.Task[Reply]] = []
    for _ in range(10):
        under_way.append(asyncio.create_task(server.post("account/register", openid(server))))
        await arrived.acquire()
    refused = await server.post("account/register", openid(server))
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    gate.set()
    assert [reply.status for reply in await asyncio.gather(*under_way)] == [200] * 10


async def test_query_token_is_for_get_and_can_be_switched_off(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        assert (await server.get(f"hash_details?access_token={alice.token}")).status == 200
        assert (await server.post(f"account/logout?access_token={alice.token}")).status == 401
    async with running(tmp_path, settings={"HTTP__ACCEPT_QUERY_TOKEN": "false"}) as server:
        reply = await server.get(f"hash_details?access_token={alice.token}")
        assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")
