"""A homeserver takes the bindings of its users back, and nobody else does in its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from identity_server.domain.errors import HomeserverMisbehaved, HomeserverUnreachable, IdentityServerError
from tests.support.harness import SECRET, Harness, Reply, User, running
from tests.support.homeserver import UNBIND, SigningHomeserver

ADDRESS = "alice@example.com"
FORBIDDEN = (403, "M_FORBIDDEN")


def body_for(user: User, address: str = ADDRESS, *, medium: str = "email", **more: Any) -> dict[str, Any]:
    return {"mxid": user.user_id, "threepid": {"medium": medium, "address": address}, **more}


async def send(server: Harness, body: Any, *authorization: str, path: str = UNBIND, **options: Any) -> Reply:
    """Send a request with any number of Authorization headers."""
    headers = [("Authorization", value) for value in authorization]
    return await server.post(path, body, headers=headers, **options)


def outcome(reply: Reply) -> tuple[int, str | None]:
    return reply.status, reply.errcode


@pytest.fixture
def homeserver(server: Harness) -> SigningHomeserver:
    """Alice's homeserver."""
    return server.homeservers.add_signing("example.org")


@pytest.fixture
async def bound(server: Harness, alice: User) -> User:
    """Alice, with her address bound."""
    await server.bound(alice, ADDRESS)
    return alice


# --- good requests ------------------------------------------------------------------------


async def test_the_binding_is_gone_for_everyone(
    server: Harness, homeserver: SigningHomeserver, bound: User, bob: User
) -> None:
    assert await server.find(bob, ADDRESS) == bound.user_id
    body = body_for(bound)

    reply = await send(server, body, homeserver.authorization(body))

    assert (reply.status, reply.json) == (200, {})
    assert await server.find(bob, ADDRESS) is None
    assert server.count("associations") == 0


async def test_as_the_specification_writes_it(server: Harness, homeserver: SigningHomeserver, bound: User) -> None:
    body = body_for(bound)
    signature = homeserver.signature(body, field="destination")
    header = (
        f"x-matrix  Destination = id.example.org , KEY={homeserver.key_id},\t"
        f'Sig="{signature}" , unknown=1, origin = "exam\\ple.org"'
    )
    assert (await send(server, body, header)).status == 200
    assert server.count("associations") == 0


async def test_as_an_old_homeserver_that_does_not_repeat_the_destination(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    body = body_for(bound)
    signature = homeserver.signature(body)
    header = f'X-Matrix origin={homeserver.name},key="{homeserver.key_id}",sig="{signature}"'
    assert (await send(server, body, header)).status == 200
    assert server.count("associations") == 0


async def test_the_query_is_signed_too(server: Harness, homeserver: SigningHomeserver, bound: User) -> None:
    body = body_for(bound)
    path = f"{UNBIND}?b=a+b&a=%C3%A9&a"
    unsigned = await send(server, body, homeserver.authorization(body), path=path)
    assert outcome(unsigned) == FORBIDDEN
    signed = await send(server, body, homeserver.authorization(body, uri=path), path=path)
    assert signed.status == 200
    assert server.count("associations") == 0


async def test_an_address_is_folded_as_everywhere(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    body = body_for(bound, "Alice@Example.COM")
    assert (await send(server, body, homeserver.authorization(body))).status == 200
    assert server.count("associations") == 0


async def test_fields_that_nobody_knows_are_signed_like_the_others(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    body = body_for(bound, x=[None, True, -(2**53) + 1, {"ü": {"unsigned": {}, "signatures": "x"}}])
    assert (await send(server, body, homeserver.authorization(body))).status == 200
    assert server.count("associations") == 0


async def test_of_a_name_that_stands_twice_the_last_counts_for_both_the_signature_and_the_deed(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    threepid = f'"threepid":{{"medium":"email","address":"{ADDRESS}"}}'
    twice = f'{{"mxid":"@mallory:example.org","mxid":"{bound.user_id}",{threepid}}}'
    first = body_for(User("@mallory:example.org", ""))
    refused = await send(server, None, homeserver.authorization(first), data=twice)
    assert outcome(refused) == FORBIDDEN
    assert server.count("associations") == 1
    assert (await send(server, None, homeserver.authorization(body_for(bound)), data=twice)).status == 200
    assert server.count("associations") == 0


async def test_one_good_signature_of_several_is_enough(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    body = body_for(bound)
    good = homeserver.authorization(body)
    unknown_key = good.replace(homeserver.key_id, "ed25519:other")
    reply = await send(server, body, "Bearer unknown", unknown_key, good)
    assert reply.status == 200
    assert server.count("associations") == 0


async def test_repeating_it_changes_nothing(server: Harness, homeserver: SigningHomeserver, bound: User) -> None:
    body = body_for(bound)
    for _ in range(3):
        reply = await send(server, body, homeserver.authorization(body))
        assert (reply.status, reply.json) == (200, {})
    assert server.homeservers.keys_asked == ["example.org"]


@pytest.mark.parametrize("medium", ["email", "msisdn"])
async def test_what_is_not_bound_is_no_fault(
    server: Harness, homeserver: SigningHomeserver, alice: User, medium: str
) -> None:
    body = body_for(alice, {"email": "nobody@example.com", "msisdn": "447700900123"}[medium], medium=medium)
    reply = await send(server, body, homeserver.authorization(body))
    assert (reply.status, reply.json) == (200, {})


async def test_what_has_gone_to_someone_else_stays_with_them(
    server: Harness, homeserver: SigningHomeserver, bound: User, bob: User
) -> None:
    await server.bound(bob, ADDRESS, secret="another")
    body = body_for(bound)
    reply = await send(server, body, homeserver.authorization(body))
    assert (reply.status, reply.json) == (200, {})
    assert await server.find(bound, ADDRESS) == bob.user_id


# --- names of this server -----------------------------------------------------------------


@pytest.fixture
async def named(tmp_path: Path) -> AsyncIterator[Harness]:
    """A server that goes by several names."""
    settings = {
        "HTTP__CLIENT_HTTP_BASE": "https://public.example.org:8448/identity/",
        "GENERAL__SERVER_ALIASES": "old.example.org, old.example.org:8090/is",
    }
    async with running(tmp_path, settings=settings) as harness:
        yield harness


NAMES = [
    "id.example.org",
    "ID.Example.org",
    "id.example.org:443",
    "public.example.org:8448",
    "public.example.org:8448/identity",
    "old.example.org",
    "old.example.org:8090/is/",
]


async def test_a_name_of_this_server(named: Harness) -> None:
    homeserver = named.homeservers.add_signing("example.org")
    body = body_for(User("@alice:example.org", ""))
    for destination in NAMES:
        reply = await send(named, body, homeserver.authorization(body, destination=destination))
        assert (reply.status, reply.json) == (200, {}), destination


OTHER_NAMES = [
    "example.org",
    "id.example.org:8448",
    "public.example.org",
    "id.example.org/identity",
    "id.example.org.evil.test",
]


async def test_a_request_for_another_server(named: Harness) -> None:
    homeserver = named.homeservers.add_signing("example.org")
    body = body_for(User("@alice:example.org", ""))
    for destination in OTHER_NAMES:
        with structlog.testing.capture_logs() as logs:
            reply = await send(named, body, homeserver.authorization(body, destination=destination))
        assert outcome(reply) == FORBIDDEN, destination
        assert named.homeservers.keys_asked == []
        (entry,) = [entry for entry in logs if entry["event"] == "homeserver_request.refused"]
        assert (entry["destination"], entry["origin"]) == (destination, "example.org")
        assert "server.aliases" in entry["hint"]


# --- bad requests -------------------------------------------------------------------------


async def assert_refused(server: Harness, body: dict[str, Any], *authorization: str) -> None:
    reply = await send(server, body, *authorization)
    assert outcome(reply) == FORBIDDEN, authorization
    assert server.count("associations") == 1


async def test_without_any_proof(server: Harness, bound: User) -> None:
    await assert_refused(server, body_for(bound))
    await assert_refused(server, body_for(bound), f"Bearer {bound.token}")


async def test_signed_for_another_destination_than_the_header_says(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    body = body_for(bound)
    header = homeserver.authorization(body, destination="other.example.org")
    await assert_refused(server, body, header.replace("other.example.org", "id.example.org"))
    await assert_refused(server, body, header.replace(',destination="other.example.org"', ""))


@pytest.mark.parametrize(
    "change",
    [
        {"mxid": "@carol:example.org"},
        {"threepid": {"medium": "email", "address": "carol@example.com"}},
        {"added": 1},
    ],
)
async def test_another_body_than_was_signed(
    server: Harness, homeserver: SigningHomeserver, bound: User, change: dict[str, Any]
) -> None:
    signed = body_for(bound) | change
    await assert_refused(server, body_for(bound), homeserver.authorization(signed))


async def test_another_method_or_path_than_was_signed(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    body = body_for(bound)
    await assert_refused(server, body, homeserver.authorization(body, method="PUT"))
    await assert_refused(server, body, homeserver.authorization(body, uri="/_matrix/identity/v2/3pid/bind"))


async def test_a_homeserver_speaks_for_its_own_users_only(server: Harness, bound: User) -> None:
    for name in ("evil.test", "le.org", "sub.example.org", "example.org:8448"):
        stranger = server.homeservers.add_signing(name)
        body = body_for(bound)
        await assert_refused(server, body, stranger.authorization(body))


async def test_a_homeserver_does_not_sign_in_anothers_name(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    impostor = SigningHomeserver("example.org", version="other")
    body = body_for(bound)
    await assert_refused(server, body, impostor.authorization(body))
    await assert_refused(server, body, impostor.authorization(body).replace(impostor.key_id, homeserver.key_id))


async def test_signatures_of_two_homeservers(server: Harness, homeserver: SigningHomeserver, bound: User) -> None:
    stranger = server.homeservers.add_signing("evil.test")
    body = body_for(bound)
    await assert_refused(server, body, homeserver.authorization(body), stranger.authorization(body))


WRONG_HEADERS = [
    "X-Matrix",
    "X-Matrix ",
    "X-Matrix ,,,",
    'X-Matrix origin="example.org"',
    'X-Matrix origin="example.org,key="ed25519:a_test",sig="x"',
    'X-Matrix origin="EXAMPLE.org",key="ed25519:a_test",sig="x"',
    'X-Matrix origin="not a name",key="ed25519:a_test",sig="x"',
    'X-Matrix origin="example.org",key="rsa:a_test",sig="x"',
    'X-Matrix origin="example.org",key="ed25519:a_test",sig="x"',
    'X-Matrix origin="example.org",key="ed25519:a_test",sig="!!!"',
    'X-Matrix origin="example.org",key="ed25519:a_test",sig="\u00fc"',
    'X-Matrix origin="example.org",origin="example.org",key="ed25519:a_test",sig="x"',
]


async def test_a_header_that_is_not_right(server: Harness, homeserver: SigningHomeserver, bound: User) -> None:
    for header in WRONG_HEADERS:
        await assert_refused(server, body_for(bound), header)


NOT_CANONICAL = ["1.5", "1e3", "9007199254740992", "123456789012345678901234567890", "[" * 70 + "]" * 70]


async def test_a_body_without_a_canonical_form(server: Harness, homeserver: SigningHomeserver, bound: User) -> None:
    threepid = f'"threepid":{{"medium":"email","address":"{ADDRESS}"}}'
    header = homeserver.authorization(body_for(bound))
    for text in NOT_CANONICAL:
        reply = await send(server, None, header, data=f'{{"mxid":"{bound.user_id}",{threepid},"x":{text}}}')
        assert outcome(reply) == (400, "M_INVALID_PARAM"), text
    assert server.homeservers.keys_asked == []


async def test_a_body_larger_than_any_that_homeservers_sign(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    """Who is known to have a key may ask as often as they like, and each body is written anew for each signature."""
    body = body_for(bound, more="x" * 8_192)
    assert outcome(await send(server, body, homeserver.authorization(body))) == (413, "M_TOO_LARGE")


NO_ADDRESSES = [
    ("email", "alice"),
    ("msisdn", "+447700900123"),
    ("msisdn", "0044 7700"),
    ("msisdn", "\u0664\u0664"),
    ("fax", "1"),
]


async def test_what_is_no_address(server: Harness, homeserver: SigningHomeserver, alice: User) -> None:
    for medium, address in NO_ADDRESSES:
        body = body_for(alice, address, medium=medium)
        reply = await send(server, body, homeserver.authorization(body))
        assert outcome(reply) == (400, "M_INVALID_PARAM"), address


async def test_a_session_counts_where_one_is_shown(
    server: Harness, homeserver: SigningHomeserver, bound: User
) -> None:
    body = body_for(bound, sid="unknown", client_secret=SECRET)
    await assert_refused(server, body, homeserver.authorization(body))
    half = body_for(bound, sid="unknown")
    reply = await send(server, half, homeserver.authorization(half))
    assert outcome(reply) == (400, "M_MISSING_PARAMS")


# --- keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [HomeserverUnreachable(), HomeserverMisbehaved()])
async def test_a_homeserver_whose_keys_cannot_be_had(
    server: Harness, homeserver: SigningHomeserver, bound: User, failure: IdentityServerError
) -> None:
    server.homeservers.failure = failure
    body = body_for(bound)
    reply = await send(server, body, homeserver.authorization(body))
    assert outcome(reply) == (503, "M_UNKNOWN")
    assert server.count("associations") == 1

    server.homeservers.failure = None
    assert (await send(server, body, homeserver.authorization(body))).status == 200


async def test_a_homeserver_that_changes_its_key(server: Harness, homeserver: SigningHomeserver, bound: User) -> None:
    body = body_for(bound)
    assert (await send(server, body, homeserver.authorization(body))).status == 200
    homeserver.rotate("b_test")
    server.clock.advance(minutes=1)
    assert (await send(server, body, homeserver.authorization(body))).status == 200
    assert server.homeservers.keys_asked == ["example.org"] * 2


async def test_unknown_keys_are_limited_by_network_and_known_ones_are_not(server: Harness, alice: User) -> None:
    body = body_for(alice)
    servers = [server.homeservers.add_signing(f"hs{number}.example") for number in range(31)]
    replies = [await send(server, body, each.authorization(body)) for each in servers]
    assert [outcome(reply) for reply in replies[:30]] == [FORBIDDEN] * 30
    assert outcome(replies[30]) == (429, "M_LIMIT_EXCEEDED")
    assert replies[30].headers["Retry-After"] == "2"
    assert len(server.homeservers.keys_asked) == 30
    # One whose key is known is served all the same.
    assert outcome(await send(server, body, servers[0].authorization(body))) == FORBIDDEN


async def test_calls_under_way_are_limited_by_network(server: Harness, alice: User) -> None:
    arrived, gate = asyncio.Semaphore(0), asyncio.Event()

    async def wait() -> None:
        arrived.release()
        await gate.wait()

    server.homeservers.on_call = wait
    body = body_for(alice)
    servers = [server.homeservers.add_signing(f"hs{number}.example") for number in range(11)]
    waiting = [asyncio.create_task(send(server, body, each.authorization(body))) for each in servers[:10]]
    for _ in waiting:
        await arrived.acquire()
    assert outcome(await send(server, body, servers[10].authorization(body))) == (429, "M_LIMIT_EXCEEDED")
    gate.set()
    assert [outcome(reply) for reply in await asyncio.gather(*waiting)] == [FORBIDDEN] * 10
