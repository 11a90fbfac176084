"""The internal listener: the operator's own systems bind and unbind without a proof."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.harness import Harness, User, running

INTERNAL = "/_matrix/identity/internal"
BINDING = {"medium": "email", "address": "Alice@Example.com", "mxid": "@alice:example.org"}


async def test_client_listener_knows_nothing_of_it(server: Harness) -> None:
    reply = await server.post(f"{INTERNAL}/bind", BINDING)
    assert (reply.status, reply.errcode) == (404, "M_UNRECOGNIZED")


async def test_binds_and_unbinds(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.internally() as internal:
        bob = await server.register("@bob:elsewhere.example")
        bound = await internal.post(f"{INTERNAL}/bind", BINDING)
        assert bound.json["address"] == "alice@example.com"
        assert "id.example.org" in bound.json["signatures"]
        assert await server.find(bob, "alice@example.com") == BINDING["mxid"]
        await server.system.runner.run_until_idle()
        assert [name for name, _ in server.homeservers.notices.delivered] == ["example.org"]
        other = await internal.post(f"{INTERNAL}/unbind", {**BINDING, "mxid": bob.user_id})
        assert (other.status, other.json) == (200, {})
        assert await server.find(bob, "alice@example.com") == BINDING["mxid"], "bound to someone else: left"
        assert (await internal.post(f"{INTERNAL}/unbind", BINDING)).json == {}
        assert await server.find(bob, "alice@example.com") is None


async def test_secret_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    settings = {"HTTP__INTERNALAPI_SECRET": "open sesame"}
    async with running(tmp_path, settings=settings) as server, server.internally() as internal:
        for token in (None, "wrong", "open sesam"):
            reply = await internal.post(f"{INTERNAL}/bind", BINDING, as_=None if token is None else User("", token))
            assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")
        reply = await internal.post(f"{INTERNAL}/bind", BINDING, as_=User("", "open sesame"))
        assert reply.status == 200


@pytest.mark.parametrize("changes", [{"medium": "fax"}, {"address": "nonsense"}, {"mxid": "alice"}, {"mxid": 5}])
async def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    async with running(tmp_path) as server, server.internally() as internal:
        reply = await internal.post(f"{INTERNAL}/bind", {**BINDING, **changes})
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
        assert server.count("associations") == 0


async def test_web_page_in_a_browser_on_this_machine_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.internally() as internal:
        reply = await internal.post(f"{INTERNAL}/bind", BINDING, headers={"Origin": "https://evil.example"})
        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
        assert server.count("associations") == 0
