"""Invitation storage and signing (https://spec.matrix.org/v1.20/identity-service-api/#invitation-storage)."""

from __future__ import annotations

from typing import Annotated, Any, cast
from urllib.parse import urlencode

from aiohttp import web
from pydantic import ConfigDict, Field, StrictStr
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES, SETTINGS
from identity_server.api.clients import network_of
from identity_server.api.pages import brand_of
from identity_server.api.route import account_id, outcomes
from identity_server.api.wire import MediumField, Text, UserIdField, WireModel
from identity_server.domain.errors import (
    AddressRefused,
    EmailRefused,
    InvalidEmail,
    InvalidParameter,
    InviteBlocked,
    NoSuchInvite,
    NotYourMatrixId,
    RateLimited,
    ThreepidInUse,
    UnsupportedMedium,
)
from identity_server.domain.identifiers import UserId
from identity_server.rendering.languages import parse_accept_language
from identity_server.services.invites.inviting import InviteRequest

SIGN_PATH = "/_matrix/identity/api/v1/sign-ed25519"
"""Where mails point to: the path that clients know, which takes no access token."""

_VALID_PATH = "/_matrix/identity/v2/pubkey/isvalid"
_EPHEMERAL_VALID_PATH = "/_matrix/identity/v2/pubkey/ephemeral/isvalid"
_MAX_DETAILS = 50
_MAX_DETAIL = 2048


class Invitation(WireModel):
    """Who is invited, whereto, and by whom. Further strings (names, pictures) are for the mail."""

    model_config = ConfigDict(extra="allow")

    medium: MediumField
    # Whatever string is no address is refused as an address, by `canonical_email`.
    address: Annotated[StrictStr, Field(description="The address.", examples=["alice@example.org"])]
    room_id: Annotated[str, Text(255), Field(description="The room.", examples=["!room:example.org"])]
    sender: UserIdField


class SigningRequest(WireModel):
    """What the mail of an invite holds, and who has followed its link."""

    token: Annotated[str, Text(255), Field(description="The invite's token.")]
    private_key: Annotated[str, Text(128), Field(description="The invite's private key in unpadded base64.")]
    mxid: UserIdField


class InviteKey(TypedDict):
    """A key that may sign for an invite."""

    public_key: Annotated[str, Field(description="An Ed25519 public key in unpadded base64.")]
    key_validity_url: Annotated[str, Field(description="Where it can be asked whether the key is still valid.")]


class StoredInvitation(TypedDict):
    """What belongs into the room's event."""

    token: Annotated[str, Field(description="The invite's token.")]
    public_key: Annotated[str, Field(description="The long-term key alone; Synapse falls back to it.")]
    public_keys: Annotated[list[InviteKey], Field(description="The long-term key, and the invite's own.")]
    display_name: Annotated[str, Field(description="The address, made hard to read.")]


class SignedInvitation(TypedDict):
    """The proof that whoever joins has been invited."""

    mxid: str
    sender: str
    token: str
    signatures: Annotated[dict[str, dict[str, str]], Field(description="By server name and key id.")]


def sign_link(base_url: str, token: str, private_key: str) -> str:
    """The link by which a client gets a signature for joining."""
    return f"{base_url}{SIGN_PATH}?{urlencode({'token': token, 'private_key': private_key})}"


@outcomes(
    NotYourMatrixId,
    InviteBlocked,
    UnsupportedMedium,
    InvalidEmail,
    InvalidParameter,
    ThreepidInUse,
    AddressRefused,
    RateLimited,
    EmailRefused,
)
async def store_invite(request: web.Request, body: Invitation) -> StoredInvitation:
    """Invite somebody to a room by their e-mail address.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2store-invite
    """
    stored = await request.app[SERVICES].invitations.store(
        InviteRequest(
            medium=body.medium,
            address=body.address,
            room_id=body.room_id,
            sender=UserId(body.sender),
            details=_details(body.model_extra or {}),
            languages=parse_accept_language(request.headers.get("Accept-Language")),
            brand=brand_of(request),
            client_network=network_of(request),
        ),
        account_id=account_id(request),
    )
    base_url = request.app[SETTINGS].public_base_url
    keys = [(stored.public_key, _VALID_PATH), (stored.ephemeral_public_key, _EPHEMERAL_VALID_PATH)]
    return {
        "token": stored.token,
        "public_key": stored.public_key,
        "public_keys": [{"public_key": key, "key_validity_url": f"{base_url}{path}"} for key, path in keys],
        "display_name": stored.display_name,
    }


@outcomes(NoSuchInvite, InvalidParameter)
async def sign(request: web.Request, body: SigningRequest) -> SignedInvitation:
    """Sign for whoever has followed the link of an invite.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2sign-ed25519
    """
    signed = await request.app[SERVICES].invitations.sign(
        token=body.token, private_key=body.private_key, user_id=UserId(body.mxid)
    )
    return cast("SignedInvitation", signed)


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
