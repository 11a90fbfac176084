"""Email associations (https://spec.matrix.org/v1.20/identity-service-api/#email-associations), and their pages."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from aiohttp import web
from pydantic import StrictStr

from identity_server.api.app_keys import PAGES, SERVICES, SETTINGS
from identity_server.api.clients import address_of, network_of
from identity_server.api.errors import json_response
from identity_server.api.pages import brand_of, page_response, reader_of
from identity_server.api.requests import Text, TokenField, WireModel, read_form, read_json, read_query
from identity_server.api.route import account_id
from identity_server.api.validate_parts import (
    RequestTokenBody,
    SubmitTokenBody,
    confirmed,
    follow_link,
    may_redirect,
)
from identity_server.domain.identifiers import ClientSecret, Medium, SessionId
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.languages import parse_accept_language
from identity_server.services.validation import EmailRequest

CONFIRM_PATH = "/_matrix/identity/confirm"
_SUBMIT_PATH = "/_matrix/identity/v2/validate/email/submitToken"
_SEE_OTHER = 303

# Whatever string isn't an address is refused as an address, by `canonical_email`: its length and characters too.
_Email = StrictStr
_Language = Annotated[str, Text(64, min_length=0)]


class _RequestToken(RequestTokenBody):
    email: _Email


class _Confirm(WireModel):
    token: TokenField
    lang: _Language = ""


def confirm_link(base_url: str, token: str) -> str:
    """The link in our own mails: one opaque token and nothing else."""
    return f"{base_url}{CONFIRM_PATH}?{urlencode({'token': token})}"


def submit_link(base_url: str, sid: str, client_secret: str, token: str) -> str:
    """The link in mails of an operator's Sydent templates, as the specification has it: following it confirms."""
    return f"{base_url}{_SUBMIT_PATH}?{urlencode({'token': token, 'client_secret': client_secret, 'sid': sid})}"


async def request_email_token(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validateemailrequesttoken."""
    body = await read_json(request, _RequestToken)
    sid = await request.app[SERVICES].validation.request_email_token(
        EmailRequest(
            email=body.email,
            client_secret=ClientSecret(body.client_secret),
            send_attempt=body.send_attempt,
            next_link=body.next_link,
            languages=parse_accept_language(request.headers.get("Accept-Language")),
            brand=brand_of(request),
            client_address=address_of(request, request.app[SETTINGS].trusted_proxies),
            client_network=network_of(request, request.app[SETTINGS].trusted_proxies),
        ),
        requested_by=account_id(request),
    )
    return json_response({"sid": sid})


async def submit_email_token(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#post_matrixidentityv2validateemailsubmittoken."""
    await _submit(request, await read_json(request, SubmitTokenBody))
    return json_response({"success": True})


async def follow_email_link(request: web.Request) -> web.Response:
    """https://spec.matrix.org/v1.20/identity-service-api/#get_matrixidentityv2validateemailsubmittoken."""
    return await follow_link(request, _submit, medium=Medium.EMAIL)


async def show_confirm_page(request: web.Request) -> web.Response:
    """What our mails link to: asks before it changes anything, as mail scanners follow links."""
    query = read_query(request, _Confirm)
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


async def confirm(request: web.Request) -> web.Response:
    """The button of the confirm page."""
    form = await read_form(request, _Confirm)
    session = await request.app[SERVICES].validation.confirm(form.token)
    reader = reader_of(request, lang=form.lang)
    return confirmed(request, session, reader, medium=Medium.EMAIL, redirect_status=_SEE_OTHER)


async def _submit(request: web.Request, proof: SubmitTokenBody) -> ValidationSession:
    return await request.app[SERVICES].validation.submit_token(
        medium=Medium.EMAIL,
        sid=SessionId(proof.sid),
        client_secret=ClientSecret(proof.client_secret),
        token=proof.token,
    )
