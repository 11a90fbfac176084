"""Invitation storage and signing (https://spec.matrix.org/v1.20/identity-service-api/#invitation-storage)."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from aiohttp import web
from pydantic import ConfigDict, StrictStr

from identity_server.api.app_keys import SERVICES, SETTINGS
from identity_server.api.clients import network_of
from identity_server.api.errors import json_response
from identity_server.api.pages import brand_of
from identity_server.api.requests import MediumField, Text, UserIdField, WireModel, read_json
from identity_server.api.route import account_id
from identity_server.domain.errors import InvalidParameter
from identity_server.domain.identifiers import UserId
from identity_server.rendering.languages import parse_accept_language
from identity_server.services.invitations import InviteRequest

SIGN_PATH = "/_matrix/identity/api/v1/sign-ed25519"
"""Where mails point to: the path that clients know, which takes no access token."""

_VALID_PATH = "/_matrix/identity/v2/pubkey/isvalid"
_EPHEMERAL_VALID_PATH = "/_matrix/identity/v2/pubkey/ephemeral/isvalid"
_MAX_DETAILS = 50
_MAX_DETAIL = 2048

# Whatever string is no address is refused as an address, by `canonical_email`.
_Address = StrictStr
_RoomId = Annotated[str, Text(255)]
_InviteToken = Annotated[str, Text(255)]
_PrivateKey = Annotated[str, Text(128)]


class _StoreInvite(WireModel):
    model_config = ConfigDict(extra="allow")

    medium: MediumField
    address: _Address
    room_id: _RoomId
    sender: UserIdField


class _Sign(WireModel):
    token: _InviteToken
    private_key: _PrivateKey
    mxid: UserIdField


def sign_link(base_url: str, token: str, private_key: str) -> str:
    """The link by which a client gets a signature for joining."""
    return f"{base_url}{SIGN_PATH}?{urlencode({'token': token, 'private_key': private_key})}"


async def store_invite(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2store-invite."""
    body = await read_json(request, _StoreInvite)
    stored = await request.app[SERVICES].invitations.store(
        InviteRequest(
            medium=body.medium,
            address=body.address,
            room_id=body.room_id,
            sender=UserId(body.sender),
            details=_details(body.model_extra or {}),
            languages=parse_accept_language(request.headers.get("Accept-Language")),
            brand=brand_of(request),
            client_network=network_of(request, request.app[SETTINGS].trusted_proxies),
        ),
        account_id=account_id(request),
    )
    base_url = request.app[SETTINGS].public_base_url
    keys = [(stored.public_key, _VALID_PATH), (stored.ephemeral_public_key, _EPHEMERAL_VALID_PATH)]
    return json_response(
        {
            "token": stored.token,
            # Synapse falls back to this one.
            "public_key": stored.public_key,
            "public_keys": [{"public_key": key, "key_validity_url": f"{base_url}{path}"} for key, path in keys],
            "display_name": stored.display_name,
        }
    )


async def sign(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2sign-ed25519."""
    body = await read_json(request, _Sign)
    signed = await request.app[SERVICES].invitations.sign(
        token=body.token, private_key=body.private_key, user_id=UserId(body.mxid)
    )
    return json_response(signed)


def _details(extra: dict[str, Any]) -> dict[str, str]:
    """Every further string of the request, for the mail."""
    if len(extra) > _MAX_DETAILS:
        raise InvalidParameter("Too many fields.")
    details = {name: value for name, value in extra.items() if isinstance(value, str)}
    for name, value in details.items():
        if len(name) > _MAX_DETAIL or len(value) > _MAX_DETAIL:
            raise InvalidParameter("A field is too long.")
    return {name: _without_controls(value) for name, value in details.items()}


def _without_controls(text: str) -> str:
    """Names of rooms and people may hold anything; a mail may not."""
    return "".join(character if character.isprintable() else " " for character in text)
