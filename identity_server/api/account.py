"""Authentication (https://spec.matrix.org/v1.20/identity-service-api/#authentication)."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES
from identity_server.api.clients import network_of
from identity_server.api.route import ACCOUNT, outcomes
from identity_server.api.wire import Empty, ServerNameField, Text, WireModel
from identity_server.domain.errors import (
    HomeserverMisbehaved,
    HomeserverNotAllowed,
    HomeserverUnreachable,
    OpenIdTokenRefused,
    RateLimited,
)
from identity_server.domain.identifiers import ServerName


class OpenIdCredentials(WireModel):
    """What the homeserver gave the client; the other fields of it are of no use here, so they may be missing."""

    matrix_server_name: ServerNameField
    access_token: Annotated[str, Text(4096), Field(description="The OpenID token that the homeserver gave out.")]


class Registration(TypedDict):
    """What belongs to a new account."""

    token: Annotated[str, Field(description="The access token for this server.")]
    access_token: Annotated[str, Field(description="The same, for older clients.")]


class AccountOwner(TypedDict):
    """Whose account it is."""

    user_id: Annotated[str, Field(description="The Matrix ID that was registered.")]


@outcomes(HomeserverNotAllowed, RateLimited, OpenIdTokenRefused, HomeserverUnreachable, HomeserverMisbehaved)
async def register(request: web.Request, credentials: OpenIdCredentials) -> Registration:
    """Exchange an OpenID token of a homeserver for an access token of this server.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2accountregister
    """
    token = await request.app[SERVICES].accounts.register(
        server_name=ServerName(credentials.matrix_server_name),
        openid_token=credentials.access_token,
        client_network=network_of(request),
    )
    return {"token": token, "access_token": token}


async def whoami(request: web.Request) -> AccountOwner:
    """Say whose access token this is.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2account
    """
    return {"user_id": request[ACCOUNT].user_id}


async def logout(request: web.Request) -> Empty:
    """Give the access token up.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2accountlogout
    """
    await request.app[SERVICES].accounts.logout(request[ACCOUNT])
    return {}
