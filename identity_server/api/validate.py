"""Email associations (https://spec.matrix.org/v1.20/identity-service-api/#email-associations), and their pages."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from aiohttp import web
from pydantic import Field, StrictStr
from typing_extensions import TypedDict

from identity_server.api.app_keys import PAGES, SERVICES
from identity_server.api.clients import address_of, network_of
from identity_server.api.pages import brand_of, page_response, reader_of
from identity_server.api.route import account_id, outcomes
from identity_server.api.validate_parts import (
    MessageRequest,
    Success,
    ValidationProof,
    confirmed,
    followed,
    may_redirect,
)
from identity_server.api.wire import LanguageField, TokenField, WireModel
from identity_server.domain.errors import (
    AddressRefused,
    EmailRefused,
    InvalidEmail,
    InvalidParameter,
    RateLimited,
    SessionExpired,
    TokenExpired,
    TokenIncorrect,
)
from identity_server.domain.identifiers import ClientSecret, Medium, SessionId
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.languages import parse_accept_language
from identity_server.services.validation.email import EmailRequest

CONFIRM_PATH = "/_matrix/identity/confirm"
_SUBMIT_PATH = "/_matrix/identity/v2/validate/email/submitToken"


class MailRequest(MessageRequest):
    """To which address a validation mail is to go."""

    # Whatever string isn't an address is refused as an address, by `canonical_email`: its length and characters too.
    email: Annotated[StrictStr, Field(description="The address.", examples=["alice@example.org"])]


class SessionCreated(TypedDict):
    """The session that the message was sent for."""

    sid: Annotated[str, Field(description="Its id.")]


class Confirmation(WireModel):
    """The token of a mailed link."""

    token: TokenField
    lang: LanguageField = ""


def confirm_link(base_url: str, token: str, *, brand: str | None) -> str:
    """The link in our own mails: one opaque token, and the mail's brand if that isn't the default."""
    query = {"token": token, **({"brand": brand} if brand else {})}
    return f"{base_url}{CONFIRM_PATH}?{urlencode(query)}"


def submit_link(base_url: str, sid: str, client_secret: str, token: str) -> str:
    """The link in mails of an operator's Sydent templates, as the specification has it: following it confirms."""
    return f"{base_url}{_SUBMIT_PATH}?{urlencode({'token': token, 'client_secret': client_secret, 'sid': sid})}"


@outcomes(InvalidEmail, RateLimited, AddressRefused, EmailRefused)
async def request_email_token(request: web.Request, body: MailRequest) -> SessionCreated:
    """Send a validation mail to an address.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validateemailrequesttoken
    """
    sid = await request.app[SERVICES].validation.request_email_token(
        EmailRequest(
            email=body.email,
            client_secret=ClientSecret(body.client_secret),
            send_attempt=body.send_attempt,
            next_link=body.next_link,
            languages=parse_accept_language(request.headers.get("Accept-Language")),
            brand=brand_of(request),
            client_address=address_of(request),
            client_network=network_of(request),
        ),
        requested_by=account_id(request),
    )
    return {"sid": sid}


@outcomes(InvalidParameter, SessionExpired, TokenIncorrect)
async def submit_email_token(request: web.Request, proof: ValidationProof) -> Success:
    """Show that a validation mail has arrived, by its token.

    https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validateemailsubmittoken
    """
    await _submit(request, proof)
    return {"success": True}


@outcomes(InvalidParameter, SessionExpired, TokenIncorrect, redirect=HTTPStatus.FOUND)
async def follow_email_link(request: web.Request, proof: ValidationProof) -> web.Response:
    """Follow the link of a validation mail; that validates the address.

    https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2validateemailsubmittoken
    """
    return followed(request, await _submit(request, proof), medium=Medium.EMAIL)


@outcomes(TokenIncorrect, TokenExpired)
async def show_confirm_page(request: web.Request, query: Confirmation) -> web.Response:
    """Ask whoever follows our own mails' link, before anything changes, as mail scanners follow links."""
    session = await request.app[SERVICES].validation.find_by_token(query.token)
    assert session.threepid is not None, "a live session has its address"
    page = request.app[PAGES].confirm(
        reader_of(request),
        here=f"confirm?{urlencode({'token': query.token})}",
        action="confirm",
        token=query.token,
        address=session.threepid.address,
        user_id=session.requested_by,
        next_link=session.next_link if may_redirect(request, session) else None,
        expires_at_ms=session.expires_at_ms,
    )
    return page_response(page)


@outcomes(TokenIncorrect, TokenExpired, redirect=HTTPStatus.SEE_OTHER)
async def confirm(request: web.Request, form: Confirmation) -> web.Response:
    """Validate the address, by the button of the confirm page."""
    session = await request.app[SERVICES].validation.confirm(form.token)
    reader = reader_of(request, lang=form.lang)
    return confirmed(request, session, reader, medium=Medium.EMAIL, redirect_status=HTTPStatus.SEE_OTHER)


async def _submit(request: web.Request, proof: ValidationProof) -> ValidationSession:
    return await request.app[SERVICES].validation.submit_token(
        medium=Medium.EMAIL,
        sid=SessionId(proof.sid),
        client_secret=ClientSecret(proof.client_secret),
        token=proof.token,
    )
