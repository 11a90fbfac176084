"""Associations, general (https://spec.matrix.org/v1.20/identity-service-api/#establishing-associations)."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from identity_server.api.app_keys import SERVICES, SETTINGS
from identity_server.api.clients import network_of
from identity_server.api.errors import json_response
from identity_server.api.requests import (
    AddressField,
    ClientSecretField,
    MediumField,
    SessionIdField,
    UserIdField,
    WireModel,
    read_json,
    read_json_object,
    read_query,
    validate,
)
from identity_server.api.route import account_id
from identity_server.domain import x_matrix
from identity_server.domain.errors import InvalidEmail, InvalidParameter, MissingParameters
from identity_server.domain.identifiers import (
    ClientSecret,
    Medium,
    ServerName,
    SessionId,
    Threepid,
    UserId,
    canonical_email,
)

_MSISDN = re.compile(r"[0-9]{1,15}")


class _Session(WireModel):
    sid: SessionIdField
    client_secret: ClientSecretField


class _Bind(_Session):
    mxid: UserIdField


class _Threepid(WireModel):
    medium: MediumField
    address: AddressField


class _Unbind(WireModel):
    mxid: UserIdField
    threepid: _Threepid
    sid: SessionIdField | None = None
    client_secret: ClientSecretField | None = None


async def get_validated_threepid(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv23pidgetvalidated3pid."""
    query = read_query(request, _Session)
    threepid, validated_at_ms = await request.app[SERVICES].validation.validated_threepid(
        sid=SessionId(query.sid), client_secret=ClientSecret(query.client_secret)
    )
    return json_response({"medium": threepid.medium, "address": threepid.address, "validated_at": validated_at_ms})


async def bind(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv23pidbind."""
    body = await read_json(request, _Bind)
    association = await request.app[SERVICES].associations.bind(
        sid=SessionId(body.sid),
        client_secret=ClientSecret(body.client_secret),
        user_id=UserId(body.mxid),
        account_id=account_id(request),
        client_network=network_of(request, request.app[SETTINGS].trusted_proxies),
    )
    return json_response(association)


async def unbind(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv23pidunbind."""
    content = await read_json_object(request)
    body = validate(_Unbind, content)
    user_id, threepid = UserId(body.mxid), canonical_threepid(body.threepid.medium, body.threepid.address)
    associations = request.app[SERVICES].associations
    if body.sid is None and body.client_secret is None:
        origin = await _signing_homeserver(request, content)
        await associations.unbind_by_homeserver(origin=origin, user_id=user_id, threepid=threepid)
        return json_response({})
    if body.sid is None or body.client_secret is None:
        raise MissingParameters(["sid" if body.sid is None else "client_secret"])
    await associations.unbind_by_session(
        sid=SessionId(body.sid),
        client_secret=ClientSecret(body.client_secret),
        user_id=user_id,
        threepid=threepid,
    )
    return json_response({})


async def _signing_homeserver(request: web.Request, content: dict[str, Any]) -> ServerName:
    return await request.app[SERVICES].homeserver_requests.authenticate(
        x_matrix.Request(method=request.method, uri=request.raw_path, content=content),
        authorization=request.headers.getall("Authorization", []),
        client_network=network_of(request, request.app[SETTINGS].trusted_proxies),
    )


def canonical_threepid(medium: str, address: str) -> Threepid:
    """A 3PID from the wire in its canonical form.

    Raises:
        InvalidParameter: no such medium, or no address of it.
    """
    if medium == Medium.EMAIL:
        try:
            return Threepid(Medium.EMAIL, canonical_email(address))
        except InvalidEmail:
            raise InvalidParameter("The address is not a valid address of its medium.") from None
    if medium == Medium.MSISDN:
        if not _MSISDN.fullmatch(address):
            raise InvalidParameter("The address must be the digits of a phone number, country code first.")
        return Threepid(Medium.MSISDN, address)
    raise InvalidParameter("The medium must be email or msisdn.")
