"""The parts of the deprecated v1 API that v2 has no handler for: lookups in plain text.

Everything else of v1 is a handler of v2, reached without an account.
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field, StrictStr

from identity_server.api.app_keys import SERVICES, SETTINGS
from identity_server.api.clients import network_of
from identity_server.api.errors import json_response
from identity_server.api.requests import AddressField, MediumField, WireModel, read_json, read_query
from identity_server.api.threepid import canonical_threepid
from identity_server.domain.errors import InvalidParameter
from identity_server.domain.identifiers import Threepid

_MAX_THREEPIDS = 1000


class _Lookup(WireModel):
    medium: MediumField
    address: AddressField


class _BulkLookup(WireModel):
    threepids: Annotated[list[list[StrictStr]], Field(max_length=_MAX_THREEPIDS)]


async def lookup(request: web.Request) -> web.Response:
    """The signed association of an address; an empty object if it isn't bound."""
    query = read_query(request, _Lookup)
    associations = request.app[SERVICES].associations
    threepid = canonical_threepid(query.medium, query.address)
    found = await associations.list_live([threepid], client_network=_network(request))
    return json_response(associations.sign(found[0]) if found else {})


async def bulk_lookup(request: web.Request) -> web.Response:
    """The Matrix IDs of many addresses; those that aren't bound are left out."""
    body = await read_json(request, _BulkLookup)
    asked = [threepid for pair in body.threepids if (threepid := _parse(pair)) is not None]
    associations = request.app[SERVICES].associations
    found = await associations.list_live(asked, client_network=_network(request))
    rows = [[each.threepid.medium, each.threepid.address, each.user_id] for each in found]
    return json_response({"threepids": rows})


def _network(request: web.Request) -> str:
    return network_of(request, request.app[SETTINGS].trusted_proxies)


def _parse(pair: list[str]) -> Threepid | None:
    if len(pair) != len(("medium", "address")):
        raise InvalidParameter("threepids holds pairs of medium and address.")
    try:
        return canonical_threepid(*pair)
    except InvalidParameter:
        # What can't be an address isn't bound.
        return None
