"""Turns rendered pages into responses, errors included."""

from __future__ import annotations

from aiohttp import web

from identity_server.api.app_keys import PAGES
from identity_server.api.errors import INTERNAL, retry_after_seconds, status_and_errcode
from identity_server.api.route import ROUTE
from identity_server.domain import errors
from identity_server.rendering.page import Page, Reader

_MAX_HINT = 64

_LINK_IS_NO_GOOD = (
    errors.TokenIncorrect,
    errors.TokenExpired,
    errors.SessionExpired,
    errors.NoSuchSession,
    errors.InvalidParameter,
    errors.MissingParameters,
)
"""What a wrong or an old link ends in; the page says so in the same words for each."""


def page_response(page: Page) -> web.Response:
    """A page on the wire."""
    return web.Response(body=page.html.encode(), status=page.status, headers=page.headers)


def redirect(location: str, *, status: int) -> web.Response:
    """Send the reader elsewhere, without telling where they came from."""
    return web.Response(
        status=status, headers={"Location": location, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    )


def reader_of(request: web.Request, *, lang: str | None = None) -> Reader:
    """In what language and dress to show a page."""
    return Reader(
        lang=(lang or request.query.get("lang", ""))[:_MAX_HINT] or None,
        accept_language=request.headers.get("Accept-Language"),
        brand=brand_of(request),
    )


def brand_of(request: web.Request) -> str | None:
    """The brand that a request asks for in its query."""
    return request.query.get("brand", "")[:_MAX_HINT] or None


def error_page(request: web.Request, error: errors.IdentityServerError | None) -> web.Response:
    """The page for an error; None stands for a fault of ours."""
    pages, reader = request.app[PAGES], reader_of(request)
    if error is None:
        return page_response(pages.error(reader, status=INTERNAL[0]))
    status, _ = status_and_errcode(error)
    if isinstance(error, _LINK_IS_NO_GOOD):
        bad_link = request[ROUTE].bad_link
        return page_response(pages.failed(reader, status=status) if bad_link is None else bad_link(request, status))
    retry = retry_after_seconds(error) if isinstance(error, errors.RateLimited) else None
    return page_response(pages.error(reader, status=status, retry_after_seconds=retry))
