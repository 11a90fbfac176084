"""Phone number associations (https://spec.matrix.org/v1.20/identity-service-api/#phone-number-associations)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field, StrictStr
from typing_extensions import TypedDict

from identity_server.api.app_keys import SERVICES
from identity_server.api.pages import brand_of
from identity_server.api.route import account_id, outcomes
from identity_server.api.validate_parts import MessageRequest, Success, ValidationProof, followed
from identity_server.api.wire import Text
from identity_server.domain.errors import (
    AddressRefused,
    DestinationRejected,
    InvalidAddress,
    InvalidParameter,
    MessageRefused,
    RateLimited,
    SessionExpired,
    TokenIncorrect,
)
from identity_server.domain.identifiers import ClientSecret, Medium, SessionId
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.languages import parse_accept_language
from identity_server.services.validation.phone import PhoneRequest


class TextRequest(MessageRequest):
    """To which number a code is to go."""

    # Whatever string isn't a number is refused as a number, by `parse_phone_number`: its length and characters too.
    phone_number: Annotated[StrictStr, Field(description="The number.", examples=["07700900001"])]
    country: Annotated[
        str,
        Text(64, min_length=0),
        Field(description="Two letters of ISO 3166-1: as if the number were dialled there.", examples=["GB"]),
    ]


class PhoneSessionCreated(TypedDict):
    """The session that the code was sent for. The specification knows `sid` alone; matrix-js-sdk counts on the rest."""

    sid: Annotated[str, Field(description="Its id.")]
    success: Literal[True]
    msisdn: Annotated[str, Field(description="The number in digits, country code first.")]
    intl_fmt: Annotated[str, Field(description="The number as people write it from abroad.")]


@outcomes(InvalidAddress, DestinationRejected, RateLimited, AddressRefused, MessageRefused)
async def request_msisdn_token(request: web.Request, body: TextRequest) -> PhoneSessionCreated:
    """Send a code to a phone number.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validatemsisdnrequesttoken
    """
    sid, number = await request.app[SERVICES].phone_validation.request_code(
        PhoneRequest(
            number=body.phone_number,
            country=body.country,
            client_secret=ClientSecret(body.client_secret),
            send_attempt=body.send_attempt,
            next_link=body.next_link,
            languages=parse_accept_language(request.headers.get("Accept-Language")),
            brand=brand_of(request),
        ),
        requested_by=account_id(request),
    )
    return {"sid": sid, "success": True, "msisdn": number.msisdn, "intl_fmt": number.international}


@outcomes(InvalidParameter, SessionExpired, TokenIncorrect, RateLimited)
async def submit_msisdn_token(request: web.Request, proof: ValidationProof) -> Success:
    """Show that a code has arrived.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validatemsisdnsubmittoken
    """
    await _submit(request, proof)
    return {"success": True}


@outcomes(InvalidParameter, SessionExpired, TokenIncorrect, RateLimited, redirect=HTTPStatus.FOUND)
async def follow_msisdn_link(request: web.Request, proof: ValidationProof) -> web.Response:
    """Follow the link of a text message; that validates the number.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2validatemsisdnsubmittoken
    """
    return followed(request, await _submit(request, proof), medium=Medium.MSISDN)


async def _submit(request: web.Request, proof: ValidationProof) -> ValidationSession:
    return await request.app[SERVICES].phone_validation.submit_code(
        sid=SessionId(proof.sid), client_secret=ClientSecret(proof.client_secret), code=proof.token
    )
