"""Which keys of a homeserver are believed, for how long, and how often it is asked."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from identity_server.domain.errors import HomeserverMisbehaved, HomeserverUnreachable
from identity_server.domain.identifiers import ServerName, parse_server_name
from identity_server.domain.ports import OriginKeys
from identity_server.outbound.federation import FederationLimits
from identity_server.outbound.origin_keys import KEYS_PATH, PublishedKeys
from tests.outbound.support import PUBLIC, Internet, TlsServer, http, http_json
from tests.support.homeserver import SigningHomeserver

DAY_MS = 24 * 3_600_000


@pytest.fixture
async def server(internet: Internet) -> TlsServer:
    internet.dns.add("hs.test", "A", PUBLIC)
    return await internet.tls_server("hs.test")


@pytest.fixture
def name(server: TlsServer) -> ServerName:
    return parse_server_name(f"hs.test:{server.port}")


@pytest.fixture
def homeserver(server: TlsServer, name: ServerName) -> SigningHomeserver:
    """A homeserver that publishes its keys."""
    signing = SigningHomeserver(name)
    publish(server, signing)
    return signing


@pytest.fixture
async def keys(internet: Internet) -> AsyncIterator[PublishedKeys]:
    published = PublishedKeys(
        federation=internet.federation(limits=FederationLimits(total_seconds=60)), clock=internet.clock
    )
    yield published
    await published.close()


def publish(server: TlsServer, homeserver: SigningHomeserver, **extra: Any) -> None:
    homeserver.extra = extra
    server.on(KEYS_PATH, http_json(homeserver.published_keys()))


def other_key(number: int = 1) -> dict[str, Any]:
    return {"key": base64.b64encode(number.to_bytes(32, "big")).decode().rstrip("=")}


# --- good answers -------------------------------------------------------------------------


async def test_a_published_key_is_asked_for_once(
    keys: OriginKeys, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    assert keys.known(name, homeserver.key_id) is None
    for _ in range(3):
        assert await keys.find(name, homeserver.key_id) == homeserver.public_key
    assert keys.known(name, homeserver.key_id) == homeserver.public_key
    (seen,) = server.seen
    assert (seen.method, seen.target, seen.host) == ("GET", "/_matrix/key/v2/server", name)


async def test_callers_at_once_share_one_call(
    keys: PublishedKeys, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    found = await asyncio.gather(*(keys.find(name, homeserver.key_id) for _ in range(10)))
    assert found == [homeserver.public_key] * 10
    assert len(server.seen) == 1


@pytest.mark.parametrize("version", ["0", "a_B9", "auto-2", "a.b:c", "\u00fc", ""])
async def test_a_key_of_any_version(
    keys: PublishedKeys, homeserver: SigningHomeserver, server: TlsServer, name: ServerName, version: str
) -> None:
    homeserver.rotate(version)
    publish(server, homeserver)
    assert await keys.find(name, f"ed25519:{version}") == homeserver.public_key


async def test_keys_of_other_algorithms_and_other_fields_do_no_harm(
    keys: PublishedKeys, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    verify_keys = {
        homeserver.key_id: {"key": base64.urlsafe_b64encode(homeserver.public_key).decode(), "x": 1},
        "dilithium:1": {"key": "?"},
        "ed25519:broken": {"key": "c2hvcnQ"},
        "ed25519:" + "long" * 32: other_key(),
    }
    publish(server, homeserver, verify_keys=verify_keys, extra=[None])
    assert await keys.find(name, homeserver.key_id) == homeserver.public_key
    for key_id in set(verify_keys) - {homeserver.key_id}:
        assert await keys.find(name, key_id) is None


# --- how long -----------------------------------------------------------------------------


async def test_keys_hold_until_the_homeserver_says(
    keys: PublishedKeys, internet: Internet, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    publish(server, homeserver, valid_until_ts=internet.clock.ms + 3_600_000)
    await keys.find(name, homeserver.key_id)
    internet.clock.advance(minutes=59)
    assert keys.known(name, homeserver.key_id) == homeserver.public_key
    internet.clock.advance(minutes=1)
    assert keys.known(name, homeserver.key_id) is None


async def test_keys_hold_a_week_at_most(
    keys: PublishedKeys, internet: Internet, homeserver: SigningHomeserver, name: ServerName
) -> None:
    await keys.find(name, homeserver.key_id)
    internet.clock.ms += 7 * DAY_MS - 1
    assert keys.known(name, homeserver.key_id) == homeserver.public_key
    internet.clock.ms += 1
    assert keys.known(name, homeserver.key_id) is None


async def test_an_old_key_ends_when_it_expired(
    keys: PublishedKeys, internet: Internet, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    now = internet.clock.ms
    old = {
        "ed25519:past": {**other_key(1), "expired_ts": now},
        "ed25519:soon": {**other_key(2), "expired_ts": now + 60_000},
        "ed25519:late": {**other_key(3), "expired_ts": now + 30 * DAY_MS},
        # A key that is both is a key in use.
        homeserver.key_id: {**other_key(4), "expired_ts": now + 60_000},
    }
    publish(server, homeserver, old_verify_keys=old)
    assert await keys.find(name, homeserver.key_id) == homeserver.public_key
    assert keys.known(name, "ed25519:past") is None
    assert keys.known(name, "ed25519:soon") == (2).to_bytes(32, "big")
    internet.clock.advance(minutes=1)
    assert keys.known(name, "ed25519:soon") is None
    assert keys.known(name, homeserver.key_id) == homeserver.public_key
    internet.clock.ms = now + 7 * DAY_MS
    assert keys.known(name, "ed25519:late") is None


async def test_an_old_key_does_not_vouch_for_the_list(
    keys: PublishedKeys, internet: Internet, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    entry = {
        **homeserver.published_keys()["verify_keys"][homeserver.key_id],
        "expired_ts": internet.clock.ms + 60_000,
    }
    publish(server, homeserver, verify_keys={"ed25519:new": other_key()}, old_verify_keys={homeserver.key_id: entry})
    with pytest.raises(HomeserverMisbehaved, match="not signed by one of them"):
        await keys.find(name, homeserver.key_id)


# --- how often ----------------------------------------------------------------------------


async def test_an_unknown_key_is_asked_for_once_a_minute(
    keys: PublishedKeys, internet: Internet, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    await keys.find(name, homeserver.key_id)
    homeserver.rotate("b")
    publish(server, homeserver)
    internet.clock.advance(seconds=59)
    assert await keys.find(name, "ed25519:b") is None
    assert len(server.seen) == 1
    internet.clock.advance(seconds=1)
    assert await keys.find(name, "ed25519:b") == homeserver.public_key
    assert len(server.seen) == 2
    # The answer took the place of the earlier one.
    assert await keys.find(name, "ed25519:a_test") is None
    assert len(server.seen) == 2


async def test_a_failed_call_for_an_unknown_key_leaves_the_others_and_counts(
    keys: PublishedKeys, internet: Internet, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    await keys.find(name, homeserver.key_id)
    server.on(KEYS_PATH, http(503))
    internet.clock.advance(minutes=1)
    with pytest.raises(HomeserverUnreachable):
        await keys.find(name, "ed25519:b")
    assert await keys.find(name, "ed25519:b") is None
    assert await keys.find(name, homeserver.key_id) == homeserver.public_key
    assert len(server.seen) == 2


async def test_a_homeserver_that_was_down_may_be_asked_at_once(
    keys: PublishedKeys, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    server.on(KEYS_PATH, http(502))
    with pytest.raises(HomeserverUnreachable):
        await keys.find(name, homeserver.key_id)
    publish(server, homeserver)
    assert await keys.find(name, homeserver.key_id) == homeserver.public_key


# --- answers that can't be used -----------------------------------------------------------


def changed(**fields: Any) -> Callable[[SigningHomeserver], bytes]:
    """The homeserver's answer with other fields, signed."""

    def body(homeserver: SigningHomeserver) -> bytes:
        homeserver.extra = fields
        return json.dumps(homeserver.published_keys()).encode()

    return body


def unsigned(homeserver: SigningHomeserver) -> bytes:
    return json.dumps({**homeserver.published_keys(), "signatures": {}}).encode()


def signed_before_a_change(homeserver: SigningHomeserver) -> bytes:
    answer = homeserver.published_keys()
    answer["verify_keys"]["ed25519:evil"] = other_key()
    return json.dumps(answer).encode()


def signed_by_another_server(homeserver: SigningHomeserver) -> bytes:
    answer = homeserver.published_keys()
    evil = SigningHomeserver("evil.test")
    del answer["signatures"]
    return json.dumps(evil.signed(answer)).encode()


def signed_by_a_key_that_is_not_listed(homeserver: SigningHomeserver) -> bytes:
    answer = homeserver.published_keys()
    homeserver.rotate("c")
    del answer["signatures"]
    return json.dumps(homeserver.signed(answer)).encode()


def deep(_: SigningHomeserver) -> bytes:
    return b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"


def too_many(homeserver: SigningHomeserver) -> bytes:
    keys = {f"ed25519:{number}": other_key(number) for number in range(20)}
    return changed(verify_keys=homeserver.published_keys()["verify_keys"] | keys)(homeserver)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (unsigned, "not signed by one of them"),
        (signed_before_a_change, "not signed by one of them"),
        (signed_by_another_server, "not signed by one of them"),
        (signed_by_a_key_that_is_not_listed, "not signed by one of them"),
        (changed(server_name="hs.test"), "those of another server"),
        (changed(valid_until_ts=0), "out of date"),
        (changed(valid_until_ts=1_800_000_000_000), "out of date"),
        (changed(valid_until_ts="2000000000000"), "not in the specified form"),
        (changed(valid_until_ts=2.5), "not in the specified form"),
        (changed(valid_until_ts=2**53), "not in the specified form"),
        (changed(valid_until_ts=True), "not in the specified form"),
        (changed(fraction=1.5), "not in the specified form"),
        (changed(verify_keys=[]), "not in the specified form"),
        (changed(verify_keys={"ed25519:1": "key"}), "not in the specified form"),
        (changed(verify_keys={"ed25519:1": {"key": 1}}), "not in the specified form"),
        (changed(old_verify_keys={"ed25519:1": other_key()}), "not in the specified form"),
        (changed(verify_keys={}), "not signed by one of them"),
        (too_many, "too many"),
        (deep, "not in the specified form"),
        (lambda _: b"", "not in the specified form"),
        (lambda _: b"[]", "not in the specified form"),
        (lambda _: b"{}", "not in the specified form"),
        (lambda _: b'{"signatures": {"hs.test": 1}}', "not in the specified form"),
    ],
)
async def test_a_useless_answer(
    keys: PublishedKeys,
    homeserver: SigningHomeserver,
    server: TlsServer,
    name: ServerName,
    body: Callable[[SigningHomeserver], bytes],
    said: str,
) -> None:
    server.on(KEYS_PATH, http(200, body(homeserver)))
    with pytest.raises(HomeserverMisbehaved, match=said) as caught:
        await keys.find(name, homeserver.key_id)
    assert name in caught.value.message
    assert caught.value.__cause__ is None
    assert keys.known(name, homeserver.key_id) is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http(404, b'{"errcode":"M_UNRECOGNIZED"}'), HomeserverMisbehaved),
        (http(302, Location="/elsewhere"), HomeserverMisbehaved),
        (http(429), HomeserverUnreachable),
        (http(500), HomeserverUnreachable),
        (http(200, b" " * (256 * 1024 + 1)), HomeserverMisbehaved),
    ],
    ids=["404", "302", "429", "500", "too long"],
)
async def test_no_answer(
    keys: PublishedKeys, server: TlsServer, name: ServerName, answer: bytes, error: type[Exception]
) -> None:
    server.on(KEYS_PATH, answer)
    with pytest.raises(error, match=name):
        await keys.find(name, "ed25519:a_test")


async def test_a_long_answer_is_taken(
    keys: PublishedKeys, homeserver: SigningHomeserver, server: TlsServer, name: ServerName
) -> None:
    publish(server, homeserver, padding="x" * 255 * 1024)
    assert await keys.find(name, homeserver.key_id) == homeserver.public_key


async def test_stopping_while_a_call_is_under_way(keys: PublishedKeys, server: TlsServer, name: ServerName) -> None:
    arrived = asyncio.Event()

    async def silence(_: asyncio.StreamWriter) -> None:
        arrived.set()
        await asyncio.sleep(10)

    server.on(KEYS_PATH, silence)
    caller = asyncio.create_task(keys.find(name, "ed25519:a_test"))
    await arrived.wait()
    await keys.close()
    with pytest.raises(HomeserverUnreachable, match="this server is stopping"):
        await caller
