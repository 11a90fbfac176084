"""What validating an address has in common for every medium: fields on the wire, and where a reader goes next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from aiohttp import web
from pydantic import AfterValidator

from identity_server.api.app_keys import PAGES, SETTINGS
from identity_server.api.errors import status_and_errcode
from identity_server.api.pages import LINK_IS_NO_GOOD, page_response, reader_of, redirect
from identity_server.api.requests import (
    ClientSecretField,
    Integer,
    SessionIdField,
    Text,
    TokenField,
    WireModel,
    read_query,
)
from identity_server.domain.identifiers import Medium
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.page import Reader
from identity_server.rendering.pages import host_of

_FOUND = 302
_Link = Annotated[str, Text(2000, min_length=0)]


def _web_link(value: str) -> str | None:
    """Other schemes are left out rather than refused: apps send links of their own that were never followed."""
    return value if host_of(value) is not None else None


class RequestTokenBody(WireModel):
    """What requestToken takes for every medium."""

    client_secret: ClientSecretField
    send_attempt: Integer
    next_link: Annotated[_Link | None, AfterValidator(lambda value: value and _web_link(value))] = None


class SubmitTokenBody(WireModel):
    """What submitToken takes, in a body or in a query."""

    sid: SessionIdField
    client_secret: ClientSecretField
    token: TokenField


async def follow_link(
    request: web.Request,
    submit: Callable[[web.Request, SubmitTokenBody], Awaitable[ValidationSession]],
    *,
    medium: Medium,
) -> web.Response:
    """Answer GET submitToken: validate at once, and tell a person what came of it."""
    pages, reader = request.app[PAGES], reader_of(request)
    try:
        session = await submit(request, read_query(request, SubmitTokenBody))
    except LINK_IS_NO_GOOD as error:
        status, _ = status_and_errcode(error)
        own = pages.followed(reader, status=status)
        return page_response(own or pages.failed(reader, status=status, medium=medium))
    if session.next_link is None and (own := pages.followed(reader)) is not None:
        return page_response(own)
    return confirmed(request, session, reader, medium=medium, redirect_status=_FOUND)


def confirmed(
    request: web.Request, session: ValidationSession, reader: Reader, *, medium: Medium, redirect_status: int
) -> web.Response:
    """Send a reader whose address is confirmed to the next link, or show a page."""
    if session.next_link is not None and may_redirect(request, session):
        return redirect(session.next_link, status=redirect_status)
    return page_response(request.app[PAGES].confirmed(reader, continue_to=session.next_link, medium=medium))


def may_redirect(request: web.Request, session: ValidationSession) -> bool:
    """Whether the next link of a session leads to a host that readers are sent to."""
    hosts = request.app[SETTINGS].next_link_hosts
    host = host_of(session.next_link)
    return host is not None and (hosts is None or host in hosts or host.partition(":")[0] in hosts)
