"""Who may ask: bearer tokens in every shape, and terms that aren't signed yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from identity_server.api.route import Access, Route
from identity_server.api.routes import ROUTES
from identity_server.api.visibility import VISIBILITY_PATH
from tests.api.support import (
    GOOD,
    MARKER,
    V2,
    assert_refused,
    exchange,
    head,
    nothing_stored,
    path_of,
    rows_of,
)
from tests.support.harness import Harness, User, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARDED = rows_of(Access.TOKEN, Access.ACCOUNT, Access.ACCOUNT_AND_TERMS)
NEEDS_TERMS = rows_of(Access.ACCOUNT_AND_TERMS)
POLICY = """---
id: privacy_policy
version: "1.0"
language: en
title: Privacy
---
We keep what you bind, and nothing else.
"""


def row_name(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """A server that has terms, and takes tokens in headers alone."""
    directory = tmp_path_factory.mktemp("strict")
    terms = directory / "terms"
    terms.mkdir()
    (terms / "privacy.en.md").write_text(POLICY)
    settings = {"GENERAL__TERMS_PATH": str(terms), "HTTP__ACCEPT_QUERY_TOKEN": "false"}
    async with running(directory, settings=settings) as harness:
        yield harness


async def answer_to(server: Harness, *authorizations: str, target: str = f"{V2}/account") -> int:
    lines = [f"Authorization: {value}" for value in authorizations]
    return (await exchange(server, head("GET", target, *lines))).only.status


# --- tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("route", GUARDED, ids=row_name)
async def test_no_token_no_service_and_no_look_at_the_body(server: Harness, route: Route) -> None:
    for authorization in (None, "", "Bearer", "Bearer ", f"Bearer {MARKER}", f"Basic {MARKER}"):
        headers = {} if authorization is None else {"Authorization": authorization}
        bodies = (b"", b"no json", b"{}") if route.method == "POST" and authorization is None else (b"",)
        for body in bodies:
            with nothing_stored(server):
                reply = await server.request(route.method, path_of(route), headers=headers, data=body)
            assert_refused(reply, 401, "M_UNAUTHORIZED")


async def test_a_body_is_not_waited_for_where_nobody_may_send_one(server: Harness) -> None:
    for route in (route for route in GUARDED if route.method == "POST"):
        answers = await exchange(server, head("POST", path_of(route), "Content-Length: 1000"))
        assert_refused(answers.only, 401, "M_UNAUTHORIZED")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("spaces", [" ", "  ", "     "])
async def test_forms_that_are_a_bearer_token(server: Harness, alice: User, scheme: str, spaces: str) -> None:
    assert await answer_to(server, f"{scheme}{spaces}{alice.token}") == 200
    assert await answer_to(server, f"{scheme}{spaces}{alice.token}  \t") == 200


@pytest.mark.parametrize(
    "form",
    [
        "{token}",
        "Bearer{token}",
        "Bearer:{token}",
        "Bearer,{token}",
        'Bearer "{token}"',
        "Bearer {token},",
        "Bearer {token} more",
        "Bearer {token}=",
        "Bearer token={token}",
        "Token {token}",
        "Basic {token}",
        "Bearer Bearer {token}",
        "X-Matrix {token}",
        "Bearer x{token}",
        "Bearer {token}\xa0",
        "Bearer \xff{token}",
        "\xa0Bearer {token}",
    ],
)
async def test_forms_that_are_none(server: Harness, alice: User, form: str) -> None:
    assert await answer_to(server, form.format(token=alice.token)) == 401


@pytest.mark.parametrize(
    "token", ["", " ", "\xff", "\xe9" * 600, "z" * 513, "z" * 8000, "z" * 512, "-", "%00", "' OR 1=1 --", "null"]
)
async def test_tokens_that_nobody_was_given(server: Harness, token: str) -> None:
    with nothing_stored(server):
        answers = await exchange(server, head("GET", f"{V2}/account", f"Authorization: Bearer {token}"))
    assert_refused(answers.only, 401, "M_UNAUTHORIZED", hidden="zzz")


async def test_a_token_of_ten_kilobytes(server: Harness) -> None:
    answers = await exchange(server, head("GET", f"{V2}/account", f"Authorization: Bearer {'z' * 10_000}"))
    assert_refused(answers.only, 400, "M_UNRECOGNIZED", hidden="zzz")


async def test_case_and_neighbours_of_a_token(server: Harness, alice: User) -> None:
    for token in (alice.token.swapcase(), alice.token[:-1], alice.token + "A", alice.token[1:]):
        assert await answer_to(server, f"Bearer {token}") == 401


async def test_the_first_of_several_headers_counts(server: Harness, alice: User) -> None:
    good, bad = f"Bearer {alice.token}", "Bearer unknown"
    assert await answer_to(server, good, bad) == 200
    assert await answer_to(server, bad, good) == 401
    assert await answer_to(server, "Basic eDp5", good) == 401


async def test_a_token_in_the_query_is_taken_on_get(server: Harness, alice: User) -> None:
    target = f"{V2}/hash_details?access_token={alice.token}"
    assert await answer_to(server, target=target) == 200
    assert await answer_to(server, "", target=target) == 200
    assert await answer_to(server, "Bearer unknown", target=target) == 401, "the header comes first"
    for value in ("", "unknown", "%00", "%FF", "z" * 600):
        assert await answer_to(server, target=f"{V2}/hash_details?access_token={value}") == 401


async def test_a_token_in_the_query_is_taken_on_nothing_else(server: Harness, alice: User) -> None:
    for route in GUARDED:
        if route.method == "GET":
            continue
        reply = await server.request(
            route.method, path_of(route), params={"access_token": alice.token}, json={"access_token": alice.token}
        )
        assert_refused(reply, 401, "M_UNAUTHORIZED")
    reply = await server.request("HEAD", "account", params={"access_token": alice.token})
    assert reply.status == 401


async def test_a_token_in_the_query_is_taken_only_while_configured(strict: Harness) -> None:
    user = await strict.register("@query:example.org")
    for path in ("hash_details", "account"):
        reply = await strict.get(path, params={"access_token": user.token})
        assert_refused(reply, 401, "M_UNAUTHORIZED", hidden=user.token)


async def test_logout_needs_no_body_and_ends_this_token_alone(server: Harness) -> None:
    kept = await server.register("@twice:example.org")
    for body in (None, b"", b"{}", b"not json", b"\xff"):
        user = await server.register("@twice:example.org")
        reply = await server.post("account/logout", as_=user, data=body)
        assert (reply.status, reply.json) == (200, {})
        assert_refused(await server.get("account", as_=user), 401, "M_UNAUTHORIZED")
        assert_refused(await server.post("account/logout", as_=user), 401, "M_UNAUTHORIZED")
        server.clock.advance(minutes=1)
    assert (await server.get("account", as_=kept)).status == 200


# --- terms --------------------------------------------------------------------------------


@pytest.mark.parametrize("route", NEEDS_TERMS, ids=row_name)
async def test_terms_come_before_everything_else(strict: Harness, route: Route) -> None:
    user = await strict.register("@unsigned:example.org")
    for body in (b"", b"no json", b"{}"):
        if route.method == "GET" and body:
            continue
        with nothing_stored(strict):
            reply = await strict.request(route.method, path_of(route), as_=user, data=body)
        assert_refused(reply, 403, "M_TERMS_NOT_SIGNED")
    reply = await strict.request(route.method, path_of(route), headers={"Authorization": "Bearer unknown"})
    assert_refused(reply, 401, "M_UNAUTHORIZED")
    strict.clock.advance(minutes=1)


async def test_nothing_else_asks_for_terms(strict: Harness) -> None:
    for route in ROUTES:
        user = await strict.register("@free:example.org")
        strict.clock.advance(minutes=1)
        if route not in NEEDS_TERMS:
            body = GOOD.get(route.path.removeprefix(f"{V2}/"))
            reply = await strict.request(route.method, path_of(route), as_=user, json=body)
            assert reply.errcode != "M_TERMS_NOT_SIGNED", row_name(route)


async def test_the_rows_that_need_no_terms() -> None:
    assert {row_name(route) for route in rows_of(Access.TOKEN, Access.ACCOUNT)} == {
        f"POST {V2}/account/logout",
        f"POST {V2}/terms",
        f"GET {VISIBILITY_PATH}",
        f"PUT {VISIBILITY_PATH}",
    }


async def test_once_signed_nothing_asks_again(strict: Harness) -> None:
    user = await strict.register("@signed:example.org")
    (url,) = [policy["en"]["url"] for policy in (await strict.get("terms")).json["policies"].values()]
    with nothing_stored(strict):
        refused = await strict.post("terms", {"user_accepts": [url, f"{url}{MARKER}"]}, as_=user)
    assert_refused(refused, 400, "M_INVALID_PARAM")
    assert (await strict.post("terms", {"user_accepts": [url]}, as_=user)).status == 200
    for route in NEEDS_TERMS:
        reply = await strict.request(route.method, path_of(route), as_=user)
        assert reply.status not in {401, 403}, row_name(route)
    again = await strict.register("@signed:example.org")
    assert (await strict.get("account", as_=again)).status == 200


async def test_policies_that_are_not_there(strict: Harness) -> None:
    for path in (
        "privacy_policy/2.0/en",
        "privacy_policy/1.0/de",
        "x/1.0/en",
        "privacy_policy/1.0/%00",
        "%FF/1.0/en",
    ):
        reply = await strict.get(f"/_matrix/identity/terms/{path}")
        assert reply.status == 404
    assert (await strict.get("/_matrix/identity/terms/privacy_policy/1.0/en")).status == 200


async def test_who_is_asked_for_does_not_matter_to_a_stranger(tmp_path: Path) -> None:
    """One account's token says nothing about another's session."""
    async with running(tmp_path) as server:
        owner = await server.register("@owner:example.org")
        other = await server.register("@other:example.org")
        sid = await server.validated(owner, "owner@example.com")
        with nothing_stored(server):
            reply = await server.bind(other, sid)
        assert_refused(reply, 404, "M_NO_VALID_SESSION")
