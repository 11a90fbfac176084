"""Every request, from its id to its line in the log; and what every answer has: CORS headers, and JSON for an error.

The rule: whatever the application does, what leaves here is an answer that any client can read. What doesn't even
get here (unparsable HTTP, oversize headers) is in api/protocol.py.

This stands around the application instead of among its middlewares: aiohttp charges a request more for those than
looking up its account costs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Final

import structlog
from aiohttp import web

from identity_server.api.app_keys import METRICS
from identity_server.api.errors import closing_response, error_response, internal_error_response
from identity_server.api.headers import STANDARD_HEADERS
from identity_server.api.json_answer import JsonAnswer
from identity_server.api.pages import error_page
from identity_server.api.request_ids import ANSWER_HEADER, RequestIds
from identity_server.api.request_log import RequestLog
from identity_server.api.route import ROUTE, Answers
from identity_server.domain import errors
from identity_server.observability import REQUEST_ID

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger(__name__)

_UNKNOWN: Final = "unknown"
_SERVER: Final = "Server"


def answering(app: web.Application, handle: Handler, ids: RequestIds, log: RequestLog) -> Handler:
    """The application's own handler, made to answer whatever comes."""
    matches = _fixed_paths(app)

    async def answer(request: web.Request) -> web.StreamResponse:
        started, request_id, method = monotonic(), ids.of(request), request.method
        REQUEST_ID.set(request_id)
        if method == "OPTIONS":
            # On every path, before anyone asks who is there or what is wanted.
            response: web.StreamResponse = web.Response(headers=STANDARD_HEADERS)
        else:
            match = matches.get((method, request.raw_path))
            try:
                if match is None or "Expect" in request.headers:
                    response = await handle(request)
                else:
                    request._match_info = match  # noqa: SLF001 - as the application does it
                    response = await match.handler(request)
            except Exception as error:  # noqa: BLE001 - nothing may leave without an answer
                response = _error_response(request, error)
        if isinstance(response, JsonAnswer):
            response.request_id = request_id
        else:
            if _SERVER not in response.headers:
                response.headers.update(STANDARD_HEADERS)
            response.headers[ANSWER_HEADER] = request_id
        log.note(request_id, started, method, _route_of(request), response.status, ids.parent_of(request))
        return response

    return answer


def _fixed_paths(app: web.Application) -> Mapping[tuple[str, str], web.UrlMappingMatchInfo]:
    """What the application's router finds for each path that nothing in it varies, by the method and that path.

    Nearly all requests are for one of these, without a query and without `Expect`; to ask the router, which finds all others,
    would cost as much as recognising the account.
    """
    found = {}
    for route in app.router.routes():
        if isinstance(route.resource, web.PlainResource):
            found[route.method, route.resource.canonical] = match = web.UrlMappingMatchInfo({}, route)
            match.add_app(app)
            match.freeze()
    return found


def _error_response(request: web.Request, error: Exception) -> web.StreamResponse:
    """Errors become answers by the table; what isn't in it is logged and answered without a word."""
    if isinstance(error, web.HTTPNotFound):
        error = errors.UnknownEndpoint()
    if isinstance(error, errors.IdentityServerError):
        if isinstance(error, errors.RateLimited):
            request.app[METRICS].count_refusal(error.limit)
        if isinstance(error, errors.HomeserverFailed):
            _log.warning("homeserver.failed", step=error.step, reason=error.detail)
        if isinstance(error, errors.OpenIdTokenRefused | errors.HomeserverNotAllowed):
            _log.info("registration.refused", reason=error.message)
        return error_page(request, error) if _wants_page(request) else error_response(error)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = error_response(errors.MethodNotAllowed())
        response.headers["Allow"] = error.headers["Allow"]
        return response
    if isinstance(error, web.HTTPException):
        # What aiohttp refuses before it looks for a handler: an unknown `Expect`.
        return closing_response(error.status)
    _log.error("request.failed", route=_route_of(request), exc_info=error)
    return error_page(request, None) if _wants_page(request) else internal_error_response()


def _wants_page(request: web.Request) -> bool:
    route = request.get(ROUTE)
    return route is not None and route.answers is Answers.PAGE


def _route_of(request: web.Request) -> str:
    """The pattern of the path, which unlike the path holds nothing of the caller's."""
    route = request.get(ROUTE)
    return _UNKNOWN if route is None else route.path
