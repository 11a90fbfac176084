"""The privacy page: people see what is held about their address, take it along, and take it away; no API of Matrix.

The rule: a visitor shows the token of the mailed link in every form, and nothing else: no cookie is set, and nothing
changes but by a POST.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

from aiohttp import web
from pydantic import StrictStr

from identity_server.api.app_keys import PAGES, SERVICES, SETTINGS
from identity_server.api.clients import network_of
from identity_server.api.errors import status_and_errcode
from identity_server.api.pages import brand_of, page_response, reader_of
from identity_server.api.route import outcomes
from identity_server.api.visibility import VisibilityField
from identity_server.api.wire import LanguageField, Text, TokenField, WireModel
from identity_server.domain.errors import (
    DestinationRejected,
    Forbidden,
    InvalidAddress,
    InvalidEmail,
    MessageRefused,
    RateLimited,
    TokenExpired,
    TokenIncorrect,
)
from identity_server.domain.holdings import Holdings
from identity_server.domain.identifiers import Medium
from identity_server.domain.visit import Visit
from identity_server.rendering.languages import parse_accept_language
from identity_server.rendering.page import Page, Reader
from identity_server.rendering.privacy_pages import Done, Problem
from identity_server.rendering.templates import PRIVACY_PATH
from identity_server.services.privacy.phone_visits import TextRequest
from identity_server.services.privacy.visits import MailRequest, Visits

PHONE_PATH: Final = f"{PRIVACY_PATH}/phone"
CODE_PATH: Final = f"{PRIVACY_PATH}/code"
OPEN_PATH: Final = f"{PRIVACY_PATH}/open"
SHOW_PATH: Final = f"{PRIVACY_PATH}/show"
REMOVE_PATH: Final = f"{PRIVACY_PATH}/remove"
REFUSE_PATH: Final = f"{PRIVACY_PATH}/refuse"
ALLOW_PATH: Final = f"{PRIVACY_PATH}/allow"
DOWNLOAD_PATH: Final = f"{PRIVACY_PATH}/download"
RETENTION_PATH: Final = f"{PRIVACY_PATH}/retention"

_FILE_NAME = "identity-server-data"


class MailAsked(WireModel):
    """Whose owner is to get a link."""

    # Whatever string isn't an address is refused as an address.
    email: StrictStr = ""
    lang: LanguageField = ""


class TextAsked(WireModel):
    """Whose owner is to get a code."""

    # Nor is whatever string isn't a number.
    number: StrictStr = ""
    lang: LanguageField = ""


class Visited(WireModel):
    """What every form of the page shows: the token of the mailed link."""

    token: TokenField
    lang: LanguageField = ""


class CodeEntered(Visited):
    """The code of a text message."""

    code: Annotated[str, Text(255, min_length=0)] = ""


class VisibilityChosen(Visited):
    """Who may know."""

    visibility: VisibilityField


class DownloadChosen(Visited):
    """What kind of file is wanted."""

    form: Literal["html", "json"]


def visit_link(base_url: str, token: str, *, lang: str | None, brand: str | None) -> str:
    """The link in the mail; it keeps to the language that was chosen on the page, and to its brand."""
    query = {"token": token, **({"lang": lang} if lang else {}), **({"brand": brand} if brand else {})}
    return f"{base_url}{OPEN_PATH}?{urlencode(query)}"


def bad_link(request: web.Request, status: int) -> Page:
    """What is said of a link that is wrong or over, in words that suit this page."""
    return request.app[PAGES].privacy.failed(reader_of(request), status=status)


async def show_ask_page(request: web.Request) -> web.Response:
    """Show the page where every page and mail leads: enter an address."""
    return _ask_page(request, reader_of(request), here="privacy")


def _ask_page(
    request: web.Request, reader: Reader, *, here: str | None = None, problem: Problem | None = None, typed: str = ""
) -> web.Response:
    services = request.app[SERVICES]
    page = request.app[PAGES].privacy.ask(
        reader,
        here=here,
        terms=services.terms.in_force,
        offers_phone=services.phone_visits.is_offered,
        problem=problem,
        typed=typed,
        is_below=request.path != PRIVACY_PATH,
    )
    return page_response(page)


@outcomes(Forbidden, RateLimited)
async def ask(request: web.Request, form: MailAsked) -> web.Response:
    """Enter an address. The answer is the same for each, known here or not."""
    _require_own_page(request)
    reader = reader_of(request, lang=form.lang)
    asked = MailRequest(
        email=form.email,
        client_network=network_of(request),
        lang=reader.lang,
        languages=_languages_of(reader),
        brand=brand_of(request),
    )
    try:
        address = await request.app[SERVICES].visits.ask_by_mail(asked)
    except InvalidEmail:
        return _ask_page(request, reader, problem=Problem.EMAIL, typed=form.email)
    return page_response(request.app[PAGES].privacy.sent(reader, address=address))


@outcomes(Forbidden, RateLimited, MessageRefused)
async def ask_by_phone(request: web.Request, form: TextAsked) -> web.Response:
    """Enter a phone number. Here, too, the answer is the same for each."""
    _require_own_page(request)
    reader = reader_of(request, lang=form.lang)
    asked = TextRequest(
        number=form.number,
        client_network=network_of(request),
        languages=_languages_of(reader),
        brand=brand_of(request),
    )
    try:
        visit = await request.app[SERVICES].phone_visits.ask(asked)
    except InvalidAddress:
        return _ask_page(request, reader, problem=Problem.NUMBER, typed=form.number)
    except DestinationRejected:
        return _ask_page(request, reader, problem=Problem.COUNTRY, typed=form.number)
    return page_response(request.app[PAGES].privacy.code(reader, token=visit.token, number=visit.number))


@outcomes(TokenIncorrect, TokenExpired, RateLimited)
async def enter_code(request: web.Request, form: CodeEntered) -> web.Response:
    """Enter the code of a text message."""
    reader, pages, services = reader_of(request, lang=form.lang), request.app[PAGES].privacy, request.app[SERVICES]
    try:
        await services.phone_visits.prove(form.token, form.code.strip())
    except TokenIncorrect:
        return page_response(pages.code(reader, token=form.token, number=None, is_wrong=True))
    except TokenExpired as error:
        status, _ = status_and_errcode(error)
        return page_response(pages.failed(reader, status=status, medium=Medium.MSISDN))
    return _held(request, form, *await services.visits.look(form.token))


def _languages_of(reader: Reader) -> tuple[str, ...]:
    """Language tags for a message to a reader, best first."""
    browser = parse_accept_language(reader.accept_language)
    return (reader.lang, *browser) if reader.lang else browser


@outcomes(TokenIncorrect, TokenExpired)
async def show_open_page(request: web.Request, query: Visited) -> web.Response:
    """Ask whoever follows the mailed link before anything is shown, as mail scanners follow links."""
    visit = await request.app[SERVICES].visits.find(query.token)
    page = request.app[PAGES].privacy.open(
        reader_of(request),
        here=f"open?{urlencode({'token': query.token})}",
        token=query.token,
        address=visit.threepid.address,
        expires_at_ms=visit.expires_at_ms,
    )
    return page_response(page)


@outcomes(TokenIncorrect, TokenExpired, RateLimited)
async def show(request: web.Request, form: VisibilityChosen) -> web.Response:
    """Say who may know of the binding."""
    seen = await request.app[SERVICES].visits.show(form.token, form.visibility)
    return _held(request, form, *seen, done=Done.SHOWN)


@outcomes(TokenIncorrect, TokenExpired)
async def open_visit(request: web.Request, form: Visited) -> web.Response:
    """Show what is held."""
    return await _press(request, form, Visits.look)


@outcomes(TokenIncorrect, TokenExpired)
async def remove(request: web.Request, form: Visited) -> web.Response:
    """Remove the binding and what else is held."""
    return await _press(request, form, Visits.unbind, done=Done.REMOVED)


@outcomes(TokenIncorrect, TokenExpired)
async def refuse(request: web.Request, form: Visited) -> web.Response:
    """Have the address left alone from now on."""
    return await _press(request, form, Visits.refuse, done=Done.REFUSED)


@outcomes(TokenIncorrect, TokenExpired)
async def allow(request: web.Request, form: Visited) -> web.Response:
    """Let the address be used again."""
    return await _press(request, form, Visits.allow, done=Done.ALLOWED)


async def _press(
    request: web.Request,
    form: Visited,
    act: Callable[[Visits, str], Awaitable[tuple[Visit, Holdings]]],
    *,
    done: Done | None = None,
) -> web.Response:
    """Do what a button is for, and show what is held afterwards."""
    return _held(request, form, *await act(request.app[SERVICES].visits, form.token), done=done)


@outcomes(TokenIncorrect, TokenExpired, media_types=("text/html", "application/json"))
async def download(request: web.Request, form: DownloadChosen) -> web.Response:
    """Take along what is held, as a file."""
    visit, holdings = await request.app[SERVICES].visits.look(form.token)
    pages, terms = request.app[PAGES].privacy, request.app[SERVICES].terms.in_force
    if form.form == "json":
        return _as_file(pages.data(holdings, terms=terms), "json")
    reader = reader_of(request, lang=form.lang)
    return _as_file(pages.document(reader, visit=visit, holdings=holdings, terms=terms), "html")


async def show_retention(request: web.Request) -> web.Response:
    """What is kept about people, why, and for how long, as this server is configured."""
    page = request.app[PAGES].privacy.retention(
        reader_of(request),
        here="retention",
        schedule=request.app[SETTINGS].retention,
        terms=request.app[SERVICES].terms.in_force,
    )
    return page_response(page)


def _held(
    request: web.Request, form: Visited, visit: Visit, holdings: Holdings, done: Done | None = None
) -> web.Response:
    page = request.app[PAGES].privacy.held(
        reader_of(request, lang=form.lang),
        visit=visit,
        holdings=holdings,
        terms=request.app[SERVICES].terms.in_force,
        token=form.token,
        done=done,
    )
    return page_response(page)


def _as_file(page: Page, extension: str) -> web.Response:
    response = page_response(page)
    response.headers["Content-Disposition"] = f'attachment; filename="{_FILE_NAME}.{extension}"'
    return response


def _require_own_page(request: web.Request) -> None:
    """Refuse forms of strangers' sites: their readers' browsers would ask for mails from as many networks.

    Browsers that don't say where a form stands are let pass; what one address and one network get is limited anyway.

    Raises:
        Forbidden: the form stands on another site.
    """
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise Forbidden
