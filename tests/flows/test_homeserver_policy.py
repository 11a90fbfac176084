"""The operator decides which homeservers' users are served, and changes their mind about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from identity_server.api.route import Access
from identity_server.api.routes import ROUTES
from tests.api.support import path_of
from tests.support.harness import SECRET, Fakes, Reply, User, running
from tests.support.homeserver import UNBIND

ADDRESS = "alice@example.com"
DENIED = {"GENERAL__HOMESERVER_DENY_LIST": "Example.org"}
ANOTHER = "@carol:elsewhere.example"


def outcome(reply: Reply) -> tuple[int, str | None]:
    return reply.status, reply.errcode


@pytest.mark.parametrize(
    "settings",
    [
        {"GENERAL__HOMESERVER_ALLOW_LIST": "*.example"},
        DENIED,
        {"GENERAL__HOMESERVER_ALLOW_LIST": "*", "GENERAL__HOMESERVER_DENY_LIST": "*.org"},
    ],
)
async def test_users_of_some_homeservers_cannot_register(tmp_path: Path, settings: dict[str, str]) -> None:
    async with running(tmp_path, settings=settings) as server:

        async def asked() -> None:
            raise AssertionError("a homeserver that isn't served was asked")

        server.homeservers.on_call = asked
        for name in ("example.org", "Example.ORG"):
            openid = {"access_token": server.homeservers.issue("@alice:example.org"), "matrix_server_name": name}
            refused = await server.post("account/register", openid)
            assert outcome(refused) == (403, "M_UNAUTHORIZED")
        server.homeservers.on_call = None
        await server.register(ANOTHER)
        assert server.count("accounts") == 1


async def test_account_of_a_homeserver_that_is_denied_later_can_only_leave(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        sid = await server.bound(alice, ADDRESS)
    async with running(tmp_path, fakes=fakes, settings=DENIED) as server:
        carol = await server.register(ANOTHER)
        for route in ROUTES:
            for _ in range(2):  # the second time it is known already
                if route.access in {Access.ACCOUNT, Access.ACCOUNT_AND_TERMS}:
                    refused = await server.request(route.method, path_of(route), as_=alice, json={})
                    assert outcome(refused) == (403, "M_FORBIDDEN"), route.path
                    assert "Users of your homeserver may not use this identity server" in refused.json["error"]
        assert await server.find(carol, ADDRESS) == alice.user_id, "what is bound stays until it is removed"
        body = {
            "mxid": alice.user_id,
            "sid": sid,
            "client_secret": SECRET,
            "threepid": {"medium": "email", "address": ADDRESS},
        }
        assert (await server.post("3pid/unbind", body)).status == 200
        assert server.count("associations") == 0
        assert (await server.post("account/logout", as_=alice)).json == {}
        assert outcome(await server.get("account", as_=alice)) == (401, "M_UNAUTHORIZED")
    async with running(tmp_path, fakes=fakes) as server:
        assert (await server.get("account", as_=await server.register())).status == 200


async def test_a_denied_homeserver_still_unbinds(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        await server.bound(alice, ADDRESS)
    settings = DENIED | {"GENERAL__HOMESERVER_BIND_DENY_LIST": "*", "GENERAL__HOMESERVER_LOOKUP_DENY_LIST": "*"}
    async with running(tmp_path, fakes=fakes, settings=settings) as server:
        homeserver = server.homeservers.add_signing("example.org")
        body = {"mxid": alice.user_id, "threepid": {"medium": "email", "address": ADDRESS}}
        headers = {"Authorization": homeserver.authorization(body)}
        assert (await server.post(UNBIND, body, headers=headers)).status == 200
        assert server.count("associations") == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"GENERAL__HOMESERVER_BIND_DENY_LIST": "example.org"},
        {"GENERAL__HOMESERVER_BIND_ALLOW_LIST": "elsewhere.example"},
    ],
)
async def test_binding_may_be_for_some_homeservers_only(tmp_path: Path, settings: dict[str, str]) -> None:
    async with running(tmp_path, settings=settings) as server:
        alice, carol = await server.register(), await server.register(ANOTHER)
        refused = await server.bind(alice, await server.validated(alice, ADDRESS))
        assert outcome(refused) == (403, "M_FORBIDDEN")
        assert "does not bind addresses to users of that homeserver" in refused.json["error"]
        assert server.count("associations") == 0
        await server.bound(carol, "carol@example.com")
        assert await server.find(alice, "carol@example.com") == carol.user_id, "alice may do all else"


@pytest.mark.parametrize(
    "settings",
    [
        {"GENERAL__HOMESERVER_DENY_LIST": "example.org"},
        {"GENERAL__HOMESERVER_BIND_DENY_LIST": "example.org"},
    ],
)
async def test_v1_binds_to_nobody_of_a_denied_homeserver(tmp_path: Path, settings: dict[str, str]) -> None:
    v1 = {"GENERAL__ENABLE_V1_ACCESS": "true", "GENERAL__ENABLE_V1_ASSOCIATIONS": "true"}
    async with running(tmp_path, settings=settings | v1) as server:
        path = "/_matrix/identity/api/v1"
        body = {"client_secret": SECRET, "email": ADDRESS, "send_attempt": 1}
        sid = (await server.post(f"{path}/validate/email/requestToken", body)).json["sid"]
        proof = {"sid": sid, "client_secret": SECRET}
        submitted = await server.post(
            f"{path}/validate/email/submitToken", {**proof, "token": server.mail.last_token}
        )
        assert submitted.json == {"success": True}
        refused = await server.post(f"{path}/3pid/bind", {**proof, "mxid": "@alice:example.org"})
        assert outcome(refused) == (403, "M_FORBIDDEN")
        assert (await server.post(f"{path}/3pid/bind", {**proof, "mxid": ANOTHER})).status == 200


async def test_the_operators_own_systems_bind_as_they_like(tmp_path: Path) -> None:
    settings = DENIED | {"GENERAL__HOMESERVER_BIND_DENY_LIST": "*"}
    async with running(tmp_path, settings=settings) as server, server.internally() as inside:
        body = {"mxid": "@alice:example.org", "medium": "email", "address": ADDRESS}
        assert (await inside.post("/_matrix/identity/internal/bind", body)).status == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"GENERAL__HOMESERVER_LOOKUP_DENY_LIST": "elsewhere.example"},
        {"GENERAL__HOMESERVER_LOOKUP_ALLOW_LIST": "example.*"},
    ],
)
async def test_looking_up_may_be_for_some_homeservers_only(tmp_path: Path, settings: dict[str, str]) -> None:
    async with running(tmp_path, settings=settings) as server:
        alice, carol = await server.register(), await server.register(ANOTHER)
        await server.bound(carol, ADDRESS)
        assert await server.find(alice, ADDRESS) == carol.user_id
        pepper = await server.pepper(alice)
        for refused in (
            await server.get("hash_details", as_=carol),
            await server.lookup(carol, ADDRESS, pepper=pepper),
            await server.lookup(carol, ADDRESS, pepper="stale"),
        ):
            assert outcome(refused) == (403, "M_FORBIDDEN")
            assert "does not answer lookups of users of that homeserver" in refused.json["error"]


async def test_a_user_may_unbind_whose_homeserver_may_not_bind(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        await server.bound(alice, ADDRESS)
    async with running(tmp_path, fakes=fakes, settings={"GENERAL__HOMESERVER_BIND_DENY_LIST": "*"}) as server:
        sid = await server.validated(alice, ADDRESS, secret="another")
        body = {
            "mxid": alice.user_id,
            "sid": sid,
            "client_secret": "another",
            "threepid": {"medium": "email", "address": ADDRESS},
        }
        assert (await server.post("3pid/unbind", body, as_=User(alice.user_id, alice.token))).status == 200
        assert server.count("associations") == 0
