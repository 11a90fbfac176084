"""Binding and unbinding by the operator's own systems, on a listener of their own."""

from __future__ import annotations

from typing import cast

from aiohttp import web

from identity_server.api.app_keys import SERVICES
from identity_server.api.route import outcomes
from identity_server.api.threepid import AnyThreepid, SignedAssociation
from identity_server.api.wire import Empty, UserIdField
from identity_server.domain.errors import AddressRefused, InvalidParameter
from identity_server.domain.identifiers import UserId, parse_threepid


class OperatorBinding(AnyThreepid):
    """An address, and whose it is."""

    mxid: UserIdField


@outcomes(InvalidParameter, AddressRefused)
async def bind(request: web.Request, body: OperatorBinding) -> SignedAssociation:
    """Bind an address that the operator vouches for; answers like POST 3pid/bind."""
    association = await request.app[SERVICES].associations.bind_by_operator(
        threepid=parse_threepid(body.medium, body.address), user_id=UserId(body.mxid)
    )
    return cast("SignedAssociation", association)


@outcomes(InvalidParameter)
async def unbind(request: web.Request, body: OperatorBinding) -> Empty:
    """Remove a binding; what isn't bound to this Matrix ID is left as it is."""
    await request.app[SERVICES].associations.unbind_by_operator(
        threepid=parse_threepid(body.medium, body.address), user_id=UserId(body.mxid)
    )
    return {}
