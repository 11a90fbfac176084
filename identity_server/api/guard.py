"""Stands before every handler: makes the demands of its row, reads what it takes, and writes what it gives.

The rule: a handler runs only after its row's demands are met; no handler asks for a token or reads a body itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

from identity_server.api.app_keys import SERVICES, SETTINGS
from identity_server.api.json_answer import JsonAnswer
from identity_server.api.requests import read_form, read_json, read_query
from identity_server.api.route import ACCOUNT, ROUTE, Access, Answers, Route
from identity_server.domain.errors import Forbidden, HomeserverDenied, Unauthenticated

_MAX_TOKEN = 512


def guarded(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The row's handler behind the row's demands."""
    handler, takes, is_page = route.handler, route.takes, route.answers is Answers.PAGE
    needs_token, max_body = route.needs_token, route.max_body
    read_body = read_form if is_page else read_json

    async def handle(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route
        if route.access is Access.INTERNAL:
            _require_secret(request)
        elif needs_token:
            services = request.app[SERVICES]
            token = _access_token(request)
            # Nearly always there is nothing to wait for, and then even a coroutine would cost more than the answer.
            account = services.accounts.recognise(token) or await services.accounts.authenticate(token)
            if not account.is_served and route.access is not Access.TOKEN:
                raise HomeserverDenied
            if route.access is Access.ACCOUNT_AND_TERMS and account.consents_to is not services.terms.in_force:
                await services.terms.require(account)
            request[ACCOUNT] = account
        if takes is None:
            answer = await handler(request)
        elif route.method == "GET":
            answer = await handler(request, read_query(request, takes))
        else:
            answer = await handler(request, await read_body(request, takes, max_body=max_body))
        if not is_page:
            return JsonAnswer(answer)
        assert isinstance(answer, web.StreamResponse), "a page is a response"
        return answer

    return handle


def _require_secret(request: web.Request) -> None:
    secret = request.app[SETTINGS].internal_secret
    if secret is None and "Origin" in request.headers:
        # A page in a browser on this machine reaches loopback, too; programs of the operator's don't say so.
        raise Forbidden("The internal API doesn't answer web pages.")
    if secret is not None and not hmac.compare_digest(_bearer(request).encode(errors="replace"), secret.encode()):
        raise Unauthenticated


def _bearer(request: web.Request) -> str:
    header = request.headers.get("Authorization", "")
    if header.startswith("Bearer "):
        return header[7:].strip()
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _access_token(request: web.Request) -> str:
    found = _bearer(request)
    if not found and request.method == "GET" and request.app[SETTINGS].accept_query_token:
        found = request.query.get("access_token", "")
    if not 0 < len(found) <= _MAX_TOKEN or not found.isascii():
        raise Unauthenticated
    return found
