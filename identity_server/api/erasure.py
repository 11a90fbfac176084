"""A homeserver has everything about one of its users removed: an addition, below a prefix of its own.

POST /_matrix/identity/unstable/org.matrix-identity-server/erase {"mxid": "@alice:example.org"}, signed as `3pid/unbind` is.
"""

from __future__ import annotations

from aiohttp import web

from identity_server.api.app_keys import SERVICES
from identity_server.api.clients import network_of
from identity_server.api.route import outcomes
from identity_server.api.threepid import signing_homeserver
from identity_server.api.wire import Empty, UserIdField, WireModel
from identity_server.domain.errors import (
    Forbidden,
    HomeserverMisbehaved,
    HomeserverUnreachable,
    InvalidParameter,
    RateLimited,
)
from identity_server.domain.identifiers import UserId

ERASE_PATH = "/_matrix/identity/unstable/org.matrix-identity-server/erase"


class WhomToErase(WireModel):
    """A Matrix ID of the homeserver that asks."""

    mxid: UserIdField


@outcomes(Forbidden, InvalidParameter, RateLimited, HomeserverUnreachable, HomeserverMisbehaved)
async def erase(request: web.Request, body: WhomToErase) -> Empty:
    """Remove everything about a Matrix ID and the addresses that are bound to it, as its homeserver, by a signature.

    The answer doesn't say whether there was anything.
    """
    origin = await signing_homeserver(request)
    await request.app[SERVICES].erasure_requests.erase(
        origin=origin,
        user_id=UserId(body.mxid),
        client_network=network_of(request),
    )
    return {}
