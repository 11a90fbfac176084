"""Key management (https://spec.matrix.org/v1.20/identity-service-api/#key-management)."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web

from identity_server.api.app_keys import SERVICES
from identity_server.api.errors import json_response
from identity_server.api.requests import Text, WireModel, read_query

_PublicKey = Annotated[str, Text(128)]


class _KeyQuery(WireModel):
    public_key: _PublicKey


async def get_key(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2pubkeykeyid."""
    return json_response({"public_key": request.app[SERVICES].public_keys.lookup(request.match_info["key_id"])})


async def is_valid(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2pubkeyisvalid."""
    query = read_query(request, _KeyQuery)
    return json_response({"valid": request.app[SERVICES].public_keys.is_valid(query.public_key)})


async def is_valid_ephemeral(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2pubkeyephemeralisvalid."""
    query = read_query(request, _KeyQuery)
    return json_response({"valid": await request.app[SERVICES].public_keys.is_valid_ephemeral(query.public_key)})
