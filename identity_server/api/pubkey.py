"""Key management (https://spec.matrix.org/v1.20/identity-service-api/#key-management)."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES
from identity_server.api.route import outcomes
from identity_server.api.wire import Text, WireModel
from identity_server.domain.errors import NoSuchKey


class KeyQuery(WireModel):
    """Which key is asked about."""

    public_key: Annotated[str, Text(128), Field(description="An Ed25519 public key in unpadded base64.")]


class PublicKey(TypedDict):
    """A key of this server."""

    public_key: Annotated[str, Field(description="An Ed25519 public key in unpadded base64.")]


class KeyValidity(TypedDict):
    """Whether a key may be relied on."""

    valid: Annotated[bool, Field(description="Whether it is this server's, and has not been revoked.")]


@outcomes(NoSuchKey)
async def get_key(request: web.Request) -> PublicKey:
    """Give the public half of a long-term key.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2pubkeykeyid
    """
    return {"public_key": request.app[SERVICES].public_keys.lookup(request.match_info["key_id"])}


async def is_valid(request: web.Request, query: KeyQuery) -> KeyValidity:
    """Say whether a long-term key is this server's.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2pubkeyisvalid
    """
    return {"valid": request.app[SERVICES].public_keys.is_valid(query.public_key)}


async def is_valid_ephemeral(request: web.Request, query: KeyQuery) -> KeyValidity:
    """Say whether a key belongs to an invite of this server's.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2pubkeyephemeralisvalid
    """
    return {"valid": await request.app[SERVICES].public_keys.is_valid_ephemeral(query.public_key)}
