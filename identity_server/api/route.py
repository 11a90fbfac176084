"""What a row of the route table says, and the guard that makes it true.

The rule: a handler runs only after its row's demands are met; no handler asks for a token itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from aiohttp import web

from identity_server.api.app_keys import SERVICES, SETTINGS
from identity_server.domain.account import Account
from identity_server.domain.errors import Forbidden, HomeserverDenied, Unauthenticated
from identity_server.domain.identifiers import UserId

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_TOKEN = 512
_KIB = 1024


class Access(Enum):
    """Who may call."""

    OPEN = auto()
    """Anyone."""
    TOKEN = auto()
    """Whoever shows an access token, even of a homeserver that is no longer served: to give it up."""
    ACCOUNT = auto()
    """Whoever shows an access token, terms accepted or not."""
    ACCOUNT_AND_TERMS = auto()
    """Whoever shows an access token and has accepted the terms in force."""
    INTERNAL = auto()
    """The operator's own systems, on a listener of their own; by a secret where one is set."""


class Reads(Enum):
    """Where parameters are read from."""

    JSON = auto()
    """The JSON object in the body, whatever its Content-Type says."""
    ANYTHING = auto()
    """As v1 has it: a JSON object, else a form, else the query string."""


class Answers(Enum):
    """What the answers are made for; errors too."""

    JSON = auto()
    PAGE = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """One row.

    Attributes:
        max_body: the largest body that is read, in bytes.
        answers_head: for GET, whether HEAD is answered as well; not where asking changes something.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    answers: Answers = Answers.JSON
    reads: Reads = Reads.JSON
    max_body: int = 64 * _KIB
    answers_head: bool = True

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that lead to the handler."""
        return ("GET", "HEAD") if self.method == "GET" and self.answers_head else (self.method,)


ROUTE: web.RequestKey[Route] = web.RequestKey("route", Route)
ACCOUNT: web.RequestKey[Account] = web.RequestKey("account", Account)


def guarded(route: Route) -> Handler:
    """The row's handler behind the row's demands."""

    async def handler(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route
        if route.access is Access.INTERNAL:
            _require_secret(request)
        elif route.access is not Access.OPEN:
            services = request.app[SERVICES]
            token = _access_token(request)
            # Nearly always there is nothing to wait for, and then even a coroutine would cost more than the answer.
            account = services.accounts.recognise(token) or await services.accounts.authenticate(token)
            if not account.is_served and route.access is not Access.TOKEN:
                raise HomeserverDenied
            if route.access is Access.ACCOUNT_AND_TERMS and account.consents_to is not services.terms.in_force:
                await services.terms.require(account)
            request[ACCOUNT] = account
        return await route.handler(request)

    return handler


def account_id(request: web.Request) -> UserId | None:
    """Whose access token was shown; None on the routes of v1, which know no accounts."""
    account = request.get(ACCOUNT)
    return None if account is None else account.user_id


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
