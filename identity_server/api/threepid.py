"""Associations, general (https://spec.matrix.org/v1.20/identity-service-api/#establishing-associations)."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, cast

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES
from identity_server.api.clients import network_of
from identity_server.api.requests import CONTENT
from identity_server.api.route import account_id, outcomes
from identity_server.api.wire import (
    AddressField,
    ClientSecretField,
    Empty,
    MediumField,
    Milliseconds,
    SessionIdField,
    UserIdField,
    WireModel,
)
from identity_server.domain import x_matrix
from identity_server.domain.errors import (
    AddressRefused,
    Forbidden,
    HomeserverDenied,
    HomeserverMisbehaved,
    HomeserverUnreachable,
    InvalidParameter,
    MissingParameters,
    NoSuchSession,
    NotYourMatrixId,
    RateLimited,
    SessionExpired,
    SessionNotValidated,
)
from identity_server.domain.identifiers import (
    ClientSecret,
    Medium,
    ServerName,
    SessionId,
    UserId,
    parse_threepid,
)


class SessionProof(WireModel):
    """What shows that a session is one's own."""

    sid: SessionIdField
    client_secret: ClientSecretField


class Binding(SessionProof):
    """To whom the address of a session is to be bound."""

    mxid: UserIdField


class AnyThreepid(WireModel):
    """An address of somebody's."""

    medium: MediumField
    address: AddressField


class Unbinding(WireModel):
    """Which address is to be bound no longer. With `sid` and `client_secret`, or signed by a homeserver."""

    mxid: UserIdField
    threepid: AnyThreepid
    sid: SessionIdField | None = None
    client_secret: ClientSecretField | None = None


class ValidatedThreepid(TypedDict):
    """An address that has been shown to be somebody's."""

    medium: Medium
    address: str
    validated_at: Milliseconds


class SignedAssociation(TypedDict):
    """The statement that a Matrix ID can be reached at an address."""

    medium: Medium
    address: str
    mxid: str
    ts: Annotated[int, Field(description="When it was made, in milliseconds since 1970.")]
    not_before: Annotated[int, Field(description="The first moment in which it holds.")]
    not_after: Annotated[int, Field(description="The first moment in which it doesn't hold any more.")]
    signatures: Annotated[dict[str, dict[str, str]], Field(description="By server name and key id.")]
    invites: NotRequired[
        Annotated[
            list[dict[str, Any]], Field(description="Those that waited for this address, each with its `signed`.")
        ]
    ]


@outcomes(NoSuchSession, SessionExpired, SessionNotValidated)
async def get_validated_threepid(request: web.Request, query: SessionProof) -> ValidatedThreepid:
    """Say which address a session has validated.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv23pidgetvalidated3pid
    """
    threepid, validated_at_ms = await request.app[SERVICES].validation.validated_threepid(
        sid=SessionId(query.sid), client_secret=ClientSecret(query.client_secret)
    )
    return {"medium": threepid.medium, "address": threepid.address, "validated_at": validated_at_ms}


@outcomes(
    NotYourMatrixId, HomeserverDenied, NoSuchSession, SessionExpired, SessionNotValidated, AddressRefused, RateLimited
)
async def bind(request: web.Request, body: Binding) -> SignedAssociation:
    """Bind the address of a session to one's Matrix ID.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv23pidbind
    """
    association = await request.app[SERVICES].associations.bind(
        sid=SessionId(body.sid),
        client_secret=ClientSecret(body.client_secret),
        user_id=UserId(body.mxid),
        account_id=account_id(request),
        client_network=network_of(request),
    )
    return cast("SignedAssociation", association)


@outcomes(
    Forbidden,
    SessionExpired,
    SessionNotValidated,
    MissingParameters,
    InvalidParameter,
    RateLimited,
    HomeserverUnreachable,
    HomeserverMisbehaved,
)
async def unbind(request: web.Request, body: Unbinding) -> Empty:
    """Remove a binding: as the owner of the address, by a session, or as the homeserver, by a signature.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv23pidunbind
    """
    user_id, threepid = UserId(body.mxid), parse_threepid(body.threepid.medium, body.threepid.address)
    associations = request.app[SERVICES].associations
    if body.sid is None and body.client_secret is None:
        origin = await signing_homeserver(request)
        await associations.unbind_by_homeserver(origin=origin, user_id=user_id, threepid=threepid)
        return {}
    if body.sid is None or body.client_secret is None:
        raise MissingParameters(["sid" if body.sid is None else "client_secret"])
    await associations.unbind_by_session(
        sid=SessionId(body.sid),
        client_secret=ClientSecret(body.client_secret),
        user_id=user_id,
        threepid=threepid,
    )
    return {}


async def signing_homeserver(request: web.Request) -> ServerName:
    """The homeserver that has signed the request.

    Raises:
        Forbidden, InvalidParameter, RateLimited, HomeserverUnreachable, HomeserverMisbehaved: as
            `HomeserverRequests.authenticate`.
    """
    content = request[CONTENT]
    return await request.app[SERVICES].homeserver_requests.authenticate(
        x_matrix.Request(method=request.method, uri=request.raw_path, content=content),
        authorization=request.headers.getall("Authorization", []),
        client_network=network_of(request),
    )
