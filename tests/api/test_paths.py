"""Paths and methods: what isn't there says so in JSON, and every answer can be read by a browser."""

from __future__ import annotations

import pytest

from identity_server.api.route import Route
from identity_server.api.routes import ROUTES
from tests.api.support import (
    CORS,
    assert_has_cors,
    assert_refused,
    exchange,
    head,
    is_page,
    nothing_stored,
    path_of,
)
from tests.support.harness import Harness, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = sorted({path_of(route) for route in ROUTES})
UNKNOWN = [
    "/",
    "/_matrix",
    "/_matrix/identity",
    "/_matrix/identity/v1",
    "/_matrix/identity/v2/nothing",
    "/_matrix/identity/v2/account/register/more",
    "/_matrix/identity/v2/pubkey",
    "/_matrix/identity/v2/3PID/bind",
    "/_matrix/identity/v3/account",
    "/_matrix/client/versions",
    "//_matrix/identity/v2",
    "/_matrix/identity//v2",
    "/_matrix/identity/v2/../v2",
    "/_matrix/identity/v2%2Faccount",
    "/_matrix/identity/v2/account;x=y",
    "/_matrix/identity/v2/%00",
    "/%FF%FE",
    "/favicon.ico",
    "/robots.txt",
    "/.env",
    "/zq8marker" * 500,
]
ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND")


def allowed(path: str) -> set[str]:
    return {method for route in ROUTES if path_of(route) == path for method in route.methods}


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_unknown_paths(server: Harness, alice: User, path: str, method: str) -> None:
    answers = await exchange(server, head(method, path, "Content-Length: 0", f"Authorization: Bearer {alice.token}"))
    assert_refused(answers.only, 404, "M_UNRECOGNIZED")


@pytest.mark.parametrize("path", PATHS)
async def test_a_slash_too_many(server: Harness, path: str) -> None:
    for method in ("GET", "POST"):
        assert_refused(await server.request(method, f"{path}/"), 404, "M_UNRECOGNIZED")


@pytest.mark.parametrize("path", PATHS)
async def test_methods_that_a_path_does_not_take(server: Harness, alice: User, path: str) -> None:
    methods = allowed(path)
    for method in set(ALL_METHODS) - methods:
        reply = await server.request(method, path, as_=alice)
        if method == "HEAD":
            assert (reply.status, reply.body) == (405, b"")
        else:
            assert_refused(reply, 405, "M_UNRECOGNIZED")
        assert {each.strip() for each in reply.headers["Allow"].split(",")} == methods


@pytest.mark.parametrize("path", [*PATHS, *UNKNOWN])
async def test_preflights_are_answered_before_anyone_is_asked_for(server: Harness, path: str) -> None:
    preflight = [
        "Origin: https://app.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type",
    ]
    for lines in ([], preflight, [*preflight, "Authorization: Bearer unknown"], ["Content-Length: 3"]):
        answers = await exchange(
            server, head("OPTIONS", path, *lines), b"{x}" if "Content-Length: 3" in lines else b""
        )
        reply = answers.only
        assert (reply.status, reply.body) == (200, b"")
        found = {name: value for name, value in reply.headers.items() if name.startswith("Access-Control-")}
        assert found == CORS


async def test_a_preflight_for_the_server_as_a_whole(server: Harness) -> None:
    answers = await exchange(server, head("OPTIONS", "*"))
    assert answers.only.status == 200
    assert_has_cors(answers.only.headers)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_every_answer_can_be_read_by_a_browser(server: Harness, alice: User, route: Route) -> None:
    for user in (None, alice):
        if user is not None and route.path.endswith("logout"):
            continue
        with nothing_stored(server):
            reply = await server.request(
                route.method, path_of(route), as_=user, headers={"Origin": "https://a.example"}
            )
        assert_has_cors(reply.headers)
        assert reply.headers["Content-Type"].startswith("text/html" if is_page(route) else "application/json") or (
            reply.status == 404
        )
        assert "aiohttp" not in reply.headers["Server"].lower()
        assert "Python" not in reply.headers["Server"]


@pytest.mark.parametrize("path", [path for path in PATHS if "HEAD" in allowed(path)])
async def test_head_says_what_get_would(server: Harness, alice: User, path: str) -> None:
    for user in (None, alice):
        got = await server.get(path, as_=user)
        asked = await server.request("HEAD", path, as_=user)
        assert (asked.status, asked.body) == (got.status, b"")
        assert_has_cors(asked.headers)
        for name in ("Content-Type", "Content-Length"):
            assert asked.headers[name] == got.headers[name]


async def test_head_on_unknown_paths(server: Harness) -> None:
    reply = await server.request("HEAD", "/nothing")
    assert (reply.status, reply.body) == (404, b"")
    assert_has_cors(reply.headers)


async def test_head_does_not_follow_the_mailed_link(server: Harness, alice: User) -> None:
    requested = await server.request_token(alice, "head@example.com")
    query = {
        "sid": requested.json["sid"],
        "client_secret": "monkeys_are_GREAT",
        "token": server.mail.last_token,
    }
    with nothing_stored(server):
        reply = await server.request("HEAD", "validate/email/submitToken", params=query)
    assert reply.status == 405
    assert_has_cors(reply.headers)
    assert (await server.get("validate/email/submitToken", params=query)).status == 200
