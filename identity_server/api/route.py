"""What a row of the route table says: who may ask what, and, in the signature of its handler, with what and for what.

The rule: whatever is to be known about an operation from outside stands in its row or in its handler's signature, so
that api/guard.py can make it true and api/openapi.py can write it down.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any, Final, TypeVar, get_type_hints

from aiohttp import web

from identity_server.api.wire import WireModel
from identity_server.domain.account import Account
from identity_server.domain.errors import IdentityServerError
from identity_server.domain.identifiers import UserId
from identity_server.rendering.page import Page

Handler = Callable[..., Awaitable[Any]]
"""Takes the request and, where its row reads parameters, the model that they are read into. Gives the JSON object of
the answer, as a TypedDict; where people are answered, the response."""

AnyHandler = TypeVar("AnyHandler", bound=Handler)
BadLink = Callable[[web.Request, int], Page]

_KIB = 1024
_ORDINARY_BODY: Final = 64 * _KIB
_STRANGERS_BODY: Final = 16 * _KIB
"""Whoever needs no token for it can have thousands of bodies half sent at a time."""
_HTML: Final = ("text/html",)
_OUTCOMES: Final = "outcomes"


class Access(Enum):
    """Who may call."""

    OPEN = auto()
    """Anyone."""
    HOMESERVER = auto()
    """Whoever proves it in the request: as the owner of an address, by a session, or as a homeserver, by a signature."""
    TOKEN = auto()
    """Whoever shows an access token, even of a homeserver that is no longer served: to give it up."""
    ACCOUNT = auto()
    """Whoever shows an access token, terms accepted or not."""
    ACCOUNT_AND_TERMS = auto()
    """Whoever shows an access token and has accepted the terms in force."""
    INTERNAL = auto()
    """The operator's own systems, on a listener of their own; by a secret where one is set."""


_NEED_NO_TOKEN: Final = frozenset({Access.OPEN, Access.HOMESERVER, Access.INTERNAL})


class Reads(Enum):
    """Where the parameters of a body are read from."""

    JSON = auto()
    """The JSON object in the body, whatever its Content-Type says."""
    ANYTHING = auto()
    """As v1 has it: a JSON object, else a form, else the query string."""


class Answers(Enum):
    """What the answers are made for; errors too."""

    JSON = auto()
    PAGE = auto()


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a handler may end in, beside its answer and what holds for every row.

    Attributes:
        errors: what may be raised.
        redirect: the status of sending a reader elsewhere; None if that never happens.
        media_types: what a page may be.
    """

    errors: tuple[type[IdentityServerError], ...] = ()
    redirect: int | None = None
    media_types: tuple[str, ...] = _HTML


def outcomes(
    *errors: type[IdentityServerError], redirect: int | None = None, media_types: tuple[str, ...] = _HTML
) -> Callable[[AnyHandler], AnyHandler]:
    """Say what a handler may end in; the tests fail if it ends in anything else."""

    def mark(handler: AnyHandler) -> AnyHandler:
        vars(handler)[_OUTCOMES] = Outcomes(errors, redirect, media_types)
        return handler

    return mark


@dataclass(frozen=True, slots=True)
class Route:
    """One row.

    Attributes:
        own_limit: the largest body that is read, in bytes, where the rule isn't good for this row.
        answers_head: for GET, whether HEAD is answered as well; not where asking changes something.
        bad_link: for pages, what is shown to who has followed a link that is wrong or old; by default the page that
            suits links in validation mails.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    answers: Answers = Answers.JSON
    reads: Reads = Reads.JSON
    own_limit: int | None = None
    answers_head: bool = True
    bad_link: BadLink | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that lead to the handler."""
        return ("GET", "HEAD") if self.method == "GET" and self.answers_head else (self.method,)

    @property
    def needs_token(self) -> bool:
        """Whether nothing is read of whoever shows no access token."""
        return self.access not in _NEED_NO_TOKEN

    @property
    def max_body(self) -> int:
        """The largest body that is read, in bytes."""
        return self.own_limit or (_ORDINARY_BODY if self.needs_token else _STRANGERS_BODY)

    @property
    def takes(self) -> type[WireModel] | None:
        """What the handler is given beside the request."""
        return _second_parameter(self.handler)

    @property
    def gives(self) -> Any:
        """The type of the handler's answer."""
        return get_type_hints(self.handler)["return"]

    @property
    def outcomes(self) -> Outcomes:
        """What else the handler may end in."""
        found: Outcomes = vars(self.handler).get(_OUTCOMES, Outcomes())
        return found


@cache
def _second_parameter(handler: Handler) -> type[WireModel] | None:
    """Looked up once for each handler: what is written there has to be evaluated first."""
    names = list(inspect.signature(handler).parameters)[1:]
    if not names:
        return None
    model: type[WireModel] = get_type_hints(handler)[names[0]]
    return model


ROUTE: web.RequestKey[Route] = web.RequestKey("route", Route)
ACCOUNT: web.RequestKey[Account] = web.RequestKey("account", Account)


def account_id(request: web.Request) -> UserId | None:
    """Whose access token was shown; None on the routes of v1, which know no accounts."""
    account = request.get(ACCOUNT)
    return None if account is None else account.user_id
