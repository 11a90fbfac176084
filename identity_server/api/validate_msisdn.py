"""Phone number associations (https://spec.matrix.org/v1.20/identity-service-api/#phone-number-associations)."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import StrictStr

from identity_server.api.app_keys import SERVICES
from identity_server.api.errors import json_response
from identity_server.api.pages import brand_of
from identity_server.api.requests import Text, read_json
from identity_server.api.route import account_id
from identity_server.api.validate_parts import RequestTokenBody, SubmitTokenBody, follow_link
from identity_server.domain.identifiers import ClientSecret, Medium, SessionId
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.languages import parse_accept_language
from identity_server.services.phone_validation import PhoneRequest

# Whatever string isn't a number is refused as a number, by `parse_phone_number`: its length and characters too.
_PhoneNumber = StrictStr
_Country = Annotated[str, Text(64, min_length=0)]


class _RequestToken(RequestTokenBody):
    phone_number: _PhoneNumber
    country: _Country


async def request_msisdn_token(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validatemsisdnrequesttoken."""
    body = await read_json(request, _RequestToken)
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
    # The specification knows `sid` alone; Sydent gives the rest, and matrix-js-sdk counts on it.
    return json_response({"sid": sid, "success": True, "msisdn": number.msisdn, "intl_fmt": number.international})


async def submit_msisdn_token(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validatemsisdnsubmittoken."""
    await _submit(request, await read_json(request, SubmitTokenBody))
    return json_response({"success": True})


async def follow_msisdn_link(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2validatemsisdnsubmittoken."""
    return await follow_link(request, _submit, medium=Medium.MSISDN)


async def _submit(request: web.Request, proof: SubmitTokenBody) -> ValidationSession:
    return await request.app[SERVICES].phone_validation.submit_code(
        sid=SessionId(proof.sid), client_secret=ClientSecret(proof.client_secret), code=proof.token
    )
