"""Who may know of one's bindings: an addition to the Identity Service API, below a prefix of its own.

GET  /_matrix/identity/unstable/org.matrix-identity-server/visibility
PUT  the same, {"medium": "email", "address": "alice@example.org", "visibility": "homeserver"}
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES
from identity_server.api.route import ACCOUNT, outcomes
from identity_server.api.threepid import AnyThreepid
from identity_server.api.wire import Empty
from identity_server.domain.association import Visibility
from identity_server.domain.errors import InvalidParameter, NoSuchBinding, RateLimited
from identity_server.domain.identifiers import Medium, parse_threepid

VISIBILITY_PATH = "/_matrix/identity/unstable/org.matrix-identity-server/visibility"


def _visibility(value: object) -> Visibility:
    if isinstance(value, str) and value in set(Visibility):
        return Visibility(value)
    raise ValueError(f"one of {', '.join(Visibility)} is wanted")


VisibilityField = Annotated[
    Visibility,
    BeforeValidator(_visibility),
    Field(description="Who may know: everyone, users of the same homeserver, or nobody."),
]


class VisibilityChange(AnyThreepid):
    """Who may know of a binding from now on."""

    visibility: VisibilityField


class OwnBinding(TypedDict):
    """An address that is bound to one's own Matrix ID."""

    medium: Medium
    address: str
    ts: Annotated[int, Field(description="When it was bound, in milliseconds since 1970.")]
    not_after: Annotated[int, Field(description="The first moment in which it isn't any more.")]
    visibility: Annotated[Visibility, Field(description="Who may know.")]


class OwnBindings(TypedDict):
    """Everything that is bound to one's own Matrix ID."""

    bindings: list[OwnBinding]


async def list_own(request: web.Request) -> OwnBindings:
    """List what is bound to the account's Matrix ID, since when, until when, and who may know."""
    bindings = await request.app[SERVICES].associations.list_of(request[ACCOUNT].user_id)
    return {
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


@outcomes(InvalidParameter, NoSuchBinding, RateLimited)
async def change(request: web.Request, body: VisibilityChange) -> Empty:
    """Say who may know of a binding to the account's own Matrix ID."""
    await request.app[SERVICES].associations.set_visibility(
        threepid=parse_threepid(body.medium, body.address),
        user_id=request[ACCOUNT].user_id,
        visibility=body.visibility,
    )
    return {}
