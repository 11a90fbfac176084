"""What homeservers check of an invite by address: the room's own events, and nobody's word.

The one rule: a key is taken from the event that announced it, and its server is asked whether it still holds.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import signedjson.key
import signedjson.sign
from unpaddedbase64 import decode_base64

from tests.e2e.people import Person
from tests.e2e.web import Web


def assert_signed_by_an_announced_key(
    host: Person, guest: Person, room: str, *, identity_server_url: str, web: Web
) -> list[str]:
    """Make sure that the guest's member event is signed by a key that the invite's event named.

    Returns:
        where the announced keys say that they are asked about.
    """
    state = host.state_of(room)
    (member,) = [event for event in state if event["state_key"] == guest.user_id]
    assert (member["sender"], member["content"]["membership"]) == (host.user_id, "invite")
    signed = member["content"]["third_party_invite"]["signed"]
    invites = {event["state_key"]: event for event in state if event["type"] == "m.room.third_party_invite"}
    assert signed["mxid"] == guest.user_id
    keys = invites[signed["token"]]["content"]["public_keys"]
    server_name = identity_server_url.removeprefix("https://")
    published = published_key(identity_server_url, web)
    assert {key["public_key"] for key in keys if verifies(signed, server_name, key["public_key"])} == {published}
    for key in keys:
        answer = web.get(f"{key['key_validity_url']}?{urlencode({'public_key': key['public_key']})}")
        assert answer.json() == {"valid": True}
    return [key["key_validity_url"] for key in keys]


def published_key(identity_server_url: str, web: Web) -> str:
    """The long-term key of an identity server, in unpadded base64."""
    key: str = web.get(f"{identity_server_url}/_matrix/identity/v2/pubkey/ed25519:0").json()["public_key"]
    return key


def verifies(signed: dict[str, Any], server_name: str, public_key: str) -> bool:
    """Whether a server's signature of something is by this key."""
    key = signedjson.key.decode_verify_key_bytes("ed25519:0", decode_base64(public_key))
    try:
        signedjson.sign.verify_signed_json(signed, server_name, key)
    except signedjson.sign.SignatureVerifyException:
        return False
    return True
