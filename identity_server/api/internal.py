"""Binding and unbinding by the operator's own systems, on a listener of their own."""

from __future__ import annotations

from aiohttp import web

from identity_server.api.app_keys import SERVICES
from identity_server.api.errors import json_response
from identity_server.api.requests import AddressField, MediumField, UserIdField, WireModel, read_json
from identity_server.api.threepid import canonical_threepid
from identity_server.domain.identifiers import UserId


class _Binding(WireModel):
    medium: MediumField
    address: AddressField
    mxid: UserIdField


async def bind(request: web.Request) -> web.Response:
    """Bind an address that the operator vouches for; answers like POST 3pid/bind."""
    body = await read_json(request, _Binding)
    association = await request.app[SERVICES].associations.bind_by_operator(
        threepid=canonical_threepid(body.medium, body.address), user_id=UserId(body.mxid)
    )
    return json_response(association)


async def unbind(request: web.Request) -> web.Response:
    """Remove a binding; what isn't bound to this Matrix ID is left as it is."""
    body = await read_json(request, _Binding)
    await request.app[SERVICES].associations.unbind_by_operator(
        threepid=canonical_threepid(body.medium, body.address), user_id=UserId(body.mxid)
    )
    return json_response({})
