"""The parts of the deprecated v1 API that v2 has no handler for: lookups in plain text.

Everything else of v1 is a handler of v2, reached without an account.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, cast

from aiohttp import web
from pydantic import Field, StrictStr
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES
from identity_server.api.clients import network_of
from identity_server.api.route import outcomes
from identity_server.api.threepid import AnyThreepid, SignedAssociation
from identity_server.api.wire import Empty, WireModel
from identity_server.domain.errors import InvalidParameter, RateLimited
from identity_server.domain.identifiers import Threepid, parse_threepid

_MAX_THREEPIDS = 1000
_AT_ONCE = 20


class PlainAddresses(WireModel):
    """Whose Matrix IDs are asked for."""

    threepids: Annotated[
        list[list[StrictStr]], Field(max_length=_MAX_THREEPIDS, description="Pairs of medium and address.")
    ]


class PlainMappings(TypedDict):
    """The addresses that are bound, and may be known to be."""

    threepids: Annotated[list[tuple[str, str, str]], Field(description="Medium, address and Matrix ID of each.")]


@outcomes(InvalidParameter, RateLimited)
async def lookup(request: web.Request, query: AnyThreepid) -> SignedAssociation | Empty:
    """Find the signed association of an address; an empty object if it isn't bound."""
    associations = request.app[SERVICES].associations
    threepid = parse_threepid(query.medium, query.address)
    found = await associations.list_live([threepid], client_network=network_of(request), asked=1)
    return cast("SignedAssociation", associations.sign(found[0])) if found else {}


@outcomes(InvalidParameter, RateLimited)
async def bulk_lookup(request: web.Request, body: PlainAddresses) -> PlainMappings:
    """Find the Matrix IDs of many addresses; those that aren't bound are left out."""
    asked: list[Threepid] = []
    for done, pair in enumerate(body.threepids, start=1):
        threepid = _parse(pair)
        if threepid is not None:
            asked.append(threepid)
        if done % _AT_ONCE == 0:
            # Checking what may be an address takes up to a millisecond, and others wait.
            await asyncio.sleep(0)
    found = await request.app[SERVICES].associations.list_live(
        asked, client_network=network_of(request), asked=len(body.threepids)
    )
    return {"threepids": [(each.threepid.medium, each.threepid.address, each.user_id) for each in found]}


def _parse(pair: list[str]) -> Threepid | None:
    if len(pair) != len(("medium", "address")):
        raise InvalidParameter("threepids holds pairs of medium and address.")
    try:
        return parse_threepid(*pair)
    except InvalidParameter:
        # What can't be an address isn't bound.
        return None
