"""What every answer has: CORS headers, a JSON body even for an error, and one line in the log.

Answers that are given below the middleware (unparsable HTTP, oversize headers) are in api/protocol.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from identity_server.api.app_keys import RANDOMNESS
from identity_server.api.errors import error_response, internal_error_response
from identity_server.api.pages import error_page
from identity_server.api.route import ROUTE, Answers
from identity_server.domain import errors
from identity_server.domain.random_values import opaque

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger(__name__)

_REQUEST_ID_BYTES = 9
_NOT_LOGGED = frozenset({"/health", "/ready"})
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"})

SERVER: Final = "matrix-identity-server"

CORS_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    # A `*` would not cover Authorization.
    "Access-Control-Allow-Headers": "Origin, X-Requested-With, Content-Type, Accept, Authorization",
}


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """CORS, and a Server header that doesn't tell versions. A signal rather than a middleware, so that no way out goes past it."""
    response.headers.update(CORS_HEADERS)
    response.headers["Server"] = SERVER


@web.middleware
async def log_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line a request: which row, how it went, how long it took; nothing that the caller wrote."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    request_id = opaque(request.app[RANDOMNESS], _REQUEST_ID_BYTES)
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        response = await handler(request)
        if request.path not in _NOT_LOGGED:
            _log.info(
                "request",
                method=request.method if request.method in _METHODS else "other",
                route=route_of(request),
                status=response.status,
                milliseconds=round(1000 * (loop.time() - started), 1),
            )
    return response


@web.middleware
async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
    """OPTIONS is answered on every path, before anyone asks who is there or what is wanted."""
    if request.method == "OPTIONS":
        return web.Response(status=200)
    return await handler(request)


@web.middleware
async def render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors become answers by the table; what isn't in it is logged and answered without a word."""
    try:
        return await handler(request)
    except errors.IdentityServerError as error:
        if isinstance(error, errors.HomeserverUnreachable | errors.HomeserverMisbehaved):
            _log.warning("homeserver.failed", reason=error.message)
        return error_page(request, error) if _wants_page(request) else error_response(error)
    except web.HTTPNotFound:
        return _not_found(request)
    except web.HTTPMethodNotAllowed as error:
        response = error_response(errors.MethodNotAllowed())
        response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception:  # noqa: BLE001 - nothing may leave without a JSON answer
        _log.exception("request.failed", route=route_of(request))
        return error_page(request, None) if _wants_page(request) else internal_error_response()


def _not_found(request: web.Request) -> web.Response:
    error = errors.UnknownEndpoint()
    return error_page(request, error) if _wants_page(request) else error_response(error)


def _wants_page(request: web.Request) -> bool:
    route = request.get(ROUTE)
    return route is not None and route.answers is Answers.PAGE


def route_of(request: web.Request) -> str:
    """The pattern of the path, which unlike the path holds nothing of the caller's."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
