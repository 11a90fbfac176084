"""Every operation of the specification document once with a good request, and with what it says can go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from identity_server.api.routes import ROUTES
from tests.contract import document
from tests.contract.document import PAGES, Answer, assert_keeps_to
from tests.support.harness import SECRET, Harness, Reply, User, running

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(not document.IS_HERE, reason=document.WHY_SKIPPED),
]

EMAIL = "alice@example.com"
POLICY = """---
id: terms_of_service
version: "2.0"
language: {language}
title: Terms
---
Be kind.
"""
V2 = "/_matrix/identity/v2"
FOLLOW_LINK = f"GET {V2}/validate/email/submitToken"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Harness]:
    """A server with terms."""
    terms = tmp_path / "terms"
    terms.mkdir()
    for language in ("en", "fr"):
        (terms / f"terms.{language}.md").write_text(POLICY.format(language=language))
    async with running(tmp_path, settings={"GENERAL__TERMS_PATH": str(terms)}) as harness:
        yield harness


@pytest.fixture
async def alice(server: Harness) -> User:
    """A user who has accepted the terms."""
    user = await server.register()
    policies = (await server.get("terms")).json["policies"]
    reply = await server.post("terms", {"user_accepts": [each["en"]["url"] for each in policies.values()]}, as_=user)
    assert reply.status == 200
    return user


def held_against(operation: str, reply: Reply) -> Reply:
    assert_keeps_to(operation, Answer(reply.status, reply.headers, reply.body))
    return reply


# --- one good request each ------------------------------------------------------------------


async def get_validated(server: Harness, alice: User) -> Reply:
    sid = await server.validated(alice, EMAIL)
    return await server.get("3pid/getValidated3pid", as_=alice, params={"sid": sid, "client_secret": SECRET})


async def bind(server: Harness, alice: User) -> Reply:
    return await server.bind(alice, await server.validated(alice, EMAIL))


async def unbind(server: Harness, alice: User) -> Reply:
    sid = await server.bound(alice, EMAIL)
    threepid = {"medium": "email", "address": EMAIL}
    body = {"sid": sid, "client_secret": SECRET, "mxid": alice.user_id, "threepid": threepid}
    return await server.post("3pid/unbind", body)


async def register(server: Harness, alice: User) -> Reply:
    body = {
        "access_token": server.homeservers.issue(alice.user_id),
        "token_type": "Bearer",
        "matrix_server_name": "example.org",
        "expires_in": 3600,
    }
    return await server.post("account/register", body)


async def request_token(server: Harness, alice: User) -> Reply:
    return await server.request_token(alice, EMAIL, next_link="https://app.example/done")


async def submit_token(server: Harness, alice: User) -> Reply:
    requested = await server.request_token(alice, EMAIL)
    return await server.submit(alice, requested.json["sid"])


async def follow_link(server: Harness, alice: User) -> Reply:
    requested = await server.request_token(alice, EMAIL)
    query = {"sid": requested.json["sid"], "client_secret": SECRET, "token": server.mail.last_token}
    return await server.get("validate/email/submitToken", params=query)


async def request_code(server: Harness, alice: User) -> Reply:
    body = {"client_secret": SECRET, "country": "GB", "phone_number": "07700900001", "send_attempt": 1}
    return await server.post("validate/msisdn/requestToken", body, as_=alice)


async def submit_code(server: Harness, alice: User) -> Reply:
    sid = (await request_code(server, alice)).json["sid"]
    body = {"sid": sid, "client_secret": SECRET, "token": server.sms.last_code}
    return await server.post("validate/msisdn/submitToken", body, as_=alice)


async def follow_code_link(server: Harness, alice: User) -> Reply:
    sid = (await request_code(server, alice)).json["sid"]
    query = {"sid": sid, "client_secret": SECRET, "token": server.sms.last_code}
    return await server.get("validate/msisdn/submitToken", params=query)


async def store_invite(server: Harness, alice: User) -> Reply:
    body = {"medium": "email", "address": EMAIL, "room_id": "!room:example.org", "sender": alice.user_id}
    return await server.post("store-invite", body, as_=alice)


async def sign(server: Harness, alice: User) -> Reply:
    stored = await store_invite(server, alice)
    private_key = server.mail.sent[-1].variables["ephemeral_private_key"]
    body = {"mxid": alice.user_id, "token": stored.json["token"], "private_key": private_key}
    return await server.post("sign-ed25519", body, as_=alice)


async def look_up(server: Harness, alice: User) -> Reply:
    await server.bound(alice, EMAIL)
    reply = await server.lookup(alice, EMAIL, "nobody@example.com")
    assert list(reply.json["mappings"].values()) == [alice.user_id]
    return reply


async def key(server: Harness, alice: User) -> Reply:
    return await server.get("pubkey/ed25519:0")


async def key_is_valid(server: Harness, alice: User) -> Reply:
    public_key = (await key(server, alice)).json["public_key"]
    reply = await server.get("pubkey/isvalid", params={"public_key": public_key})
    assert reply.json == {"valid": True}
    return reply


async def ephemeral_key_is_valid(server: Harness, alice: User) -> Reply:
    return await server.get(
        "pubkey/ephemeral/isvalid", params={"public_key": "VXuGitF39UH5iRfvbIknlvlAVKgD1BsLDMvBf0pmp7c"}
    )


async def accept_terms(server: Harness, alice: User) -> Reply:
    policies = (await server.get("terms")).json["policies"]
    return await server.post("terms", {"user_accepts": [policies["terms_of_service"]["fr"]["url"]]}, as_=alice)


def plain_get(path: str, *, as_alice: bool = False) -> Callable[[Harness, User], Awaitable[Reply]]:
    async def ask(server: Harness, alice: User) -> Reply:
        return await server.get(path, as_=alice if as_alice else None)

    return ask


async def logout(server: Harness, alice: User) -> Reply:
    return await server.post("account/logout", as_=alice)


GOOD: Final[dict[str, Callable[[Harness, User], Awaitable[Reply]]]] = {
    f"GET {V2}/3pid/getValidated3pid": get_validated,
    f"POST {V2}/3pid/bind": bind,
    f"POST {V2}/3pid/unbind": unbind,
    f"POST {V2}/account/register": register,
    f"GET {V2}/account": plain_get("account", as_alice=True),
    f"POST {V2}/account/logout": logout,
    f"POST {V2}/validate/email/requestToken": request_token,
    f"POST {V2}/validate/email/submitToken": submit_token,
    FOLLOW_LINK: follow_link,
    f"POST {V2}/validate/msisdn/requestToken": request_code,
    f"POST {V2}/validate/msisdn/submitToken": submit_code,
    f"GET {V2}/validate/msisdn/submitToken": follow_code_link,
    f"POST {V2}/store-invite": store_invite,
    f"POST {V2}/sign-ed25519": sign,
    f"GET {V2}/hash_details": plain_get("hash_details", as_alice=True),
    f"POST {V2}/lookup": look_up,
    f"GET {V2}": plain_get(V2),
    f"GET {V2}/pubkey/{{keyId}}": key,
    f"GET {V2}/pubkey/isvalid": key_is_valid,
    f"GET {V2}/pubkey/ephemeral/isvalid": ephemeral_key_is_valid,
    f"GET {V2}/terms": plain_get("terms"),
    f"POST {V2}/terms": accept_terms,
    "GET /_matrix/identity/versions": plain_get("/_matrix/identity/versions"),
}


def test_every_operation_is_asked_for() -> None:
    assert set(document.operations()) == set(GOOD)


def test_every_operation_has_a_row_in_the_route_table() -> None:
    rows = {f"{route.method} {route.path}".replace("{key_id}", "{keyId}") for route in ROUTES}
    assert set(document.operations()) <= rows


@pytest.mark.parametrize("operation", GOOD)
async def test_a_good_request(server: Harness, alice: User, operation: str) -> None:
    reply = held_against(operation, await GOOD[operation](server, alice))
    assert reply.status == 200


async def test_a_link_with_somewhere_to_go(server: Harness, alice: User) -> None:
    requested = await request_token(server, alice)
    query = {"sid": requested.json["sid"], "client_secret": SECRET, "token": server.mail.last_token}
    reply = held_against(FOLLOW_LINK, await server.get("validate/email/submitToken", params=query))
    assert (reply.status, reply.headers["Location"]) == (302, "https://app.example/done")


async def test_sid_is_a_string(server: Harness, alice: User) -> None:
    assert isinstance((await request_token(server, alice)).json["sid"], str)


async def test_terms_name_every_language(server: Harness) -> None:
    policies = (await server.get("terms")).json["policies"]
    assert {key for key in policies["terms_of_service"] if key != "version"} == {"en", "fr"}


# --- what the document says can go wrong ------------------------------------------------------


@pytest.mark.parametrize("operation", [each for each in GOOD if each not in PAGES])
async def test_terms_not_signed(server: Harness, operation: str) -> None:
    user = await server.register("@unsigned:example.org")
    method, _, path = operation.partition(" ")
    path = path.replace("{keyId}", "ed25519:0")
    reply = held_against(operation, await server.request(method, path, as_=user))
    demanded = "403" in document.document()["paths"][operation.partition(" ")[2]][method.lower()]["responses"]
    if reply.status == 403:
        assert reply.errcode == "M_TERMS_NOT_SIGNED"
    else:
        # Unbinding and logging out need no consent.
        assert not demanded or path.endswith(("unbind", "logout"))


async def test_sessions_that_are_not_there_not_done_or_over(server: Harness, alice: User) -> None:
    operation = f"GET {V2}/3pid/getValidated3pid"
    query = {"sid": "unknown", "client_secret": SECRET}

    async def ask() -> tuple[int, str | None]:
        reply = held_against(operation, await server.get("3pid/getValidated3pid", as_=alice, params=query))
        bound = held_against(f"POST {V2}/3pid/bind", await server.bind(alice, query["sid"]))
        assert (bound.status, bound.errcode) == (reply.status, reply.errcode)
        return reply.status, reply.errcode

    assert await ask() == (404, "M_NO_VALID_SESSION")
    query["sid"] = (await server.request_token(alice, EMAIL)).json["sid"]
    assert await ask() == (400, "M_SESSION_NOT_VALIDATED")
    server.clock.advance(hours=24)
    assert await ask() == (400, "M_SESSION_EXPIRED")


async def test_tokens_that_are_wrong(server: Harness, alice: User) -> None:
    operation = f"POST {V2}/validate/email/submitToken"
    sid = (await server.request_token(alice, EMAIL)).json["sid"]
    wrong = held_against(operation, await server.submit(alice, sid, "wrong"))
    assert (wrong.status, wrong.errcode) == (400, "M_TOKEN_INCORRECT")
    unknown = held_against(operation, await server.submit(alice, "unknown"))
    assert (unknown.status, unknown.errcode) == (400, "M_INVALID_PARAM")
    server.clock.advance(hours=24)
    late = held_against(operation, await server.submit(alice, sid))
    assert (late.status, late.errcode) == (400, "M_SESSION_EXPIRED")
    query = {"sid": sid, "client_secret": SECRET, "token": server.mail.last_token}
    assert held_against(FOLLOW_LINK, await server.get("validate/email/submitToken", params=query)).status == 400


async def test_peppers_and_algorithms_that_are_wrong(server: Harness, alice: User) -> None:
    operation = f"POST {V2}/lookup"
    stale = held_against(operation, await server.lookup(alice, EMAIL, pepper="stale"))
    assert (stale.status, stale.errcode) == (400, "M_INVALID_PEPPER")
    assert stale.json["lookup_pepper"] == await server.pepper(alice)
    body = {"algorithm": "md5", "pepper": await server.pepper(alice), "addresses": []}
    unknown = held_against(operation, await server.post("lookup", body, as_=alice))
    assert (unknown.status, unknown.errcode) == (400, "M_INVALID_PARAM")


async def test_what_is_somebody_elses(server: Harness, alice: User) -> None:
    sid = await server.validated(alice, EMAIL)
    for_another = held_against(f"POST {V2}/3pid/bind", await server.bind(alice, sid, mxid="@bob:example.org"))
    assert for_another.status == 403
    body = {
        "sid": sid,
        "client_secret": SECRET,
        "mxid": alice.user_id,
        "threepid": {"medium": "email", "address": "bob@example.com"},
    }
    of_another = held_against(f"POST {V2}/3pid/unbind", await server.post("3pid/unbind", body))
    assert (of_another.status, of_another.errcode) == (403, "M_FORBIDDEN")


async def test_keys_that_are_unknown(server: Harness) -> None:
    reply = held_against(f"GET {V2}/pubkey/{{keyId}}", await server.get("pubkey/ed25519:9"))
    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


async def test_addresses_that_are_none(server: Harness, alice: User) -> None:
    reply = held_against(f"POST {V2}/validate/email/requestToken", await server.request_token(alice, "a@b@c"))
    assert (reply.status, reply.errcode) == (400, "M_INVALID_EMAIL")


async def test_a_stranger(server: Harness) -> None:
    reply = held_against(f"POST {V2}/account/logout", await server.post("account/logout"))
    assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")
