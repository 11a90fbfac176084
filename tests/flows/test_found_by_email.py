"""The main story: register, validate, bind, be found, unbind."""

from __future__ import annotations

import signedjson.key
import signedjson.sign
from unpaddedbase64 import decode_base64

from tests.support.harness import SECRET, Harness, User


async def test_bound_address_is_found_by_others_until_it_is_unbound(server: Harness, alice: User, bob: User) -> None:
    sid = await server.validated(alice, "Alice@Example.COM")
    assert await server.find(bob, "alice@example.com") is None

    association = (await server.bind(alice, sid)).json
    assert await server.find(bob, "alice@example.com") == alice.user_id

    assert association["medium"] == "email"
    assert association["address"] == "alice@example.com"
    assert association["mxid"] == alice.user_id
    assert association["ts"] == association["not_before"] == server.clock.ms
    assert association["not_after"] - association["not_before"] == 100 * 365 * 24 * 3_600_000

    unbound = await server.post(
        "3pid/unbind",
        {
            "sid": sid,
            "client_secret": SECRET,
            "mxid": alice.user_id,
            "threepid": {"medium": "email", "address": "ALICE@example.com"},
        },
    )
    assert (unbound.status, unbound.json) == (200, {})
    assert await server.find(bob, "alice@example.com") is None
    assert server.count("associations") == 0


async def test_association_is_signed_by_the_published_key(server: Harness, alice: User) -> None:
    sid = await server.validated(alice, "alice@example.com")
    association = (await server.bind(alice, sid)).json
    public = (await server.get("pubkey/ed25519:0")).json["public_key"]
    key = signedjson.key.decode_verify_key_bytes("ed25519:0", decode_base64(public))
    signedjson.sign.verify_signed_json(association, "id.example.org", key)


async def test_newest_proof_wins(server: Harness, alice: User, bob: User) -> None:
    await server.bound(alice, "shared@example.com")
    await server.bound(bob, "shared@example.com", secret="another")
    assert await server.find(alice, "shared@example.com") == bob.user_id
    assert server.count("associations") == 1


async def test_session_is_bound_by_the_account_that_asked(server: Harness, alice: User, bob: User) -> None:
    sid = await server.validated(alice, "alice@example.com")
    reply = await server.bind(bob, sid)
    assert (reply.status, reply.errcode) == (404, "M_NO_VALID_SESSION")


async def test_nobody_binds_for_someone_else(server: Harness, alice: User, bob: User) -> None:
    sid = await server.validated(alice, "alice@example.com")
    reply = await server.bind(alice, sid, mxid=bob.user_id)
    assert (reply.status, reply.errcode) == (403, "M_UNAUTHORIZED")
    assert server.count("associations") == 0
