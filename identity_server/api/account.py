"""Authentication (https://spec.matrix.org/v1.20/identity-service-api/#authentication)."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web

from identity_server.api.app_keys import SERVICES, SETTINGS
from identity_server.api.clients import network_of
from identity_server.api.errors import json_response
from identity_server.api.requests import ServerNameField, Text, WireModel, read_json
from identity_server.api.route import ACCOUNT
from identity_server.domain.identifiers import ServerName

_OpenIdToken = Annotated[str, Text(4096)]


class _OpenIdCredentials(WireModel):
    """What the homeserver gave the client; the other fields of it are of no use here, so they may be missing."""

    matrix_server_name: ServerNameField
    access_token: _OpenIdToken


async def register(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2accountregister."""
    credentials = await read_json(request, _OpenIdCredentials)
    token = await request.app[SERVICES].accounts.register(
        server_name=ServerName(credentials.matrix_server_name),
        openid_token=credentials.access_token,
        client_network=network_of(request, request.app[SETTINGS].trusted_proxies),
    )
    # Older clients read `access_token`.
    return json_response({"token": token, "access_token": token})


async def whoami(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2account."""
    return json_response({"user_id": request[ACCOUNT].user_id})


async def logout(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2accountlogout."""
    await request.app[SERVICES].accounts.logout(request[ACCOUNT])
    return json_response({})
