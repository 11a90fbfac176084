"""Association lookup (https://spec.matrix.org/v1.20/identity-service-api/#association-lookup)."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import StrictStr

from identity_server.api.app_keys import METRICS, SERVICES
from identity_server.api.errors import json_response
from identity_server.api.requests import Text, WireModel, read_json
from identity_server.api.route import ACCOUNT

_Name = Annotated[str, Text(255)]
_Pepper = Annotated[str, Text(255, min_length=0)]


class _Lookup(WireModel):
    algorithm: _Name
    pepper: _Pepper
    # Not constrained one by one: what is badly formed matches nothing, and the body's size bounds them all.
    addresses: list[StrictStr]


async def hash_details(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2hash_details."""
    details = await request.app[SERVICES].lookup.hash_details(asker=request[ACCOUNT].user_id)
    return json_response({"algorithms": details.algorithms, "lookup_pepper": details.pepper})


async def lookup(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2lookup."""
    query = await read_json(request, _Lookup)
    mappings = await request.app[SERVICES].lookup.lookup(
        asker=request[ACCOUNT].user_id,
        algorithm=query.algorithm,
        pepper=query.pepper,
        queries=query.addresses,
    )
    request.app[METRICS].count_lookup(asked=len(query.addresses), found=len(mappings))
    return json_response({"mappings": mappings})
