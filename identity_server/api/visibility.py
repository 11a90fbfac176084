"""Who may know of one's bindings: an addition to the Identity Service API, below a prefix of its own.

GET  /_matrix/identity/unstable/org.matrix-identity-server/visibility
PUT  the same, {"medium": "email", "address": "alice@example.org", "visibility": "homeserver"}
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import BeforeValidator

from identity_server.api.app_keys import SERVICES
from identity_server.api.errors import json_response
from identity_server.api.requests import AddressField, MediumField, WireModel, read_json
from identity_server.api.route import ACCOUNT
from identity_server.api.threepid import canonical_threepid
from identity_server.domain.association import Visibility

VISIBILITY_PATH = "/_matrix/identity/unstable/org.matrix-identity-server/visibility"


def _visibility(value: object) -> Visibility:
    if isinstance(value, str) and value in set(Visibility):
        return Visibility(value)
    raise ValueError(f"one of {', '.join(Visibility)} is wanted")


VisibilityField = Annotated[Visibility, BeforeValidator(_visibility)]


class _Change(WireModel):
    medium: MediumField
    address: AddressField
    visibility: VisibilityField


async def list_own(request: web.Request) -> web.Response:
    """What is bound to the account's Matrix ID, since when, until when, and who may know."""
    bindings = await request.app[SERVICES].associations.list_of(request[ACCOUNT].user_id)
    return json_response(
        {
            "bindings": [
                {
                    "medium": each.threepid.medium,
                    "address": each.threepid.address,
                    "ts": each.ts,
                    "not_after": each.not_after,
                    "visibility": each.visibility,
                }
                for each in bindings
            ]
        }
    )


async def change(request: web.Request) -> web.Response:
    """Say who may know of a binding to the account's own Matrix ID."""
    body = await read_json(request, _Change)
    await request.app[SERVICES].associations.set_visibility(
        threepid=canonical_threepid(body.medium, body.address),
        user_id=request[ACCOUNT].user_id,
        visibility=body.visibility,
    )
    return json_response({})
