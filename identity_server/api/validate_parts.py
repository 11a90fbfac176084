"""What validating an address has in common for every medium: fields on the wire, and where a reader goes next."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from aiohttp import web
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from identity_server.api.app_keys import PAGES, SETTINGS
from identity_server.api.pages import page_response, reader_of, redirect
from identity_server.api.wire import ClientSecretField, Integer, SessionIdField, Text, TokenField, WireModel
from identity_server.domain.identifiers import Medium
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.page import Page, Reader
from identity_server.rendering.pages import host_of

_Link = Annotated[str, Text(2000, min_length=0)]


def _web_link(value: str) -> str | None:
    """Other schemes are left out rather than refused: apps send links of their own that were never followed."""
    return value if host_of(value) is not None else None


class MessageRequest(WireModel):
    """What requestToken takes for every medium."""

    client_secret: ClientSecretField
    send_attempt: Annotated[
        Integer,
        Field(description="A greater number than before asks for another message; a string of digits will do."),
    ]
    next_link: Annotated[
        _Link | None,
        AfterValidator(lambda value: value and _web_link(value)),
        Field(description="Where whoever follows the link goes next; http or https."),
    ] = None


class ValidationProof(WireModel):
    """What shows that a message has arrived, in a body or in a query."""

    sid: SessionIdField
    client_secret: ClientSecretField
    token: TokenField


class Success(TypedDict):
    """The address is validated."""

    success: Literal[True]


def followed(request: web.Request, session: ValidationSession, *, medium: Medium) -> web.Response:
    """Answer whoever has followed the link of GET submitToken, which has validated the session."""
    reader = reader_of(request)
    if session.next_link is None and (own := request.app[PAGES].followed(reader)) is not None:
        return page_response(own)
    return confirmed(request, session, reader, medium=medium, redirect_status=HTTPStatus.FOUND)


def confirmed(
    request: web.Request, session: ValidationSession, reader: Reader, *, medium: Medium, redirect_status: int
) -> web.Response:
    """Send a reader whose address is confirmed to the next link, or show a page."""
    if session.next_link is not None and may_redirect(request, session):
        return redirect(session.next_link, status=redirect_status)
    return page_response(request.app[PAGES].confirmed(reader, continue_to=session.next_link, medium=medium))


def bad_email_link(request: web.Request, status: int) -> Page:
    """What whoever has followed the link of a mail is shown if it was wrong or old."""
    return _bad_link(request, status, medium=Medium.EMAIL)


def bad_phone_link(request: web.Request, status: int) -> Page:
    """The same for the link of a text message."""
    return _bad_link(request, status, medium=Medium.MSISDN)


def _bad_link(request: web.Request, status: int, *, medium: Medium) -> Page:
    pages, reader = request.app[PAGES], reader_of(request)
    return pages.followed(reader, status=status) or pages.failed(reader, status=status, medium=medium)


def may_redirect(request: web.Request, session: ValidationSession) -> bool:
    """Whether the next link of a session leads to a host that readers are sent to."""
    hosts = request.app[SETTINGS].next_link_hosts
    host = host_of(session.next_link)
    return host is not None and (hosts is None or host in hosts or host.partition(":")[0] in hosts)
