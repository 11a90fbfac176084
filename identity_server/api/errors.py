"""The one table from errors to the wire: class -> HTTP status and errcode (appendix "Standard error response").

A class that isn't listed takes the row of its nearest listed ancestor; what has none is a fault of ours and
answers 500 without a word about it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NotRequired

import orjson
from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from identity_server.api.headers import JSON_HEADERS
from identity_server.domain import errors

TABLE: dict[type[errors.IdentityServerError], tuple[int, str]] = {
    errors.NotJson: (400, "M_NOT_JSON"),
    errors.BadJson: (400, "M_BAD_JSON"),
    errors.MissingParameters: (400, "M_MISSING_PARAMS"),
    errors.InvalidParameter: (400, "M_INVALID_PARAM"),
    errors.BodyTooLarge: (413, "M_TOO_LARGE"),
    errors.BodyTooSlow: (408, "M_UNKNOWN"),
    errors.BodyIncomplete: (400, "M_NOT_JSON"),
    errors.UnknownEndpoint: (404, "M_UNRECOGNIZED"),
    errors.MethodNotAllowed: (405, "M_UNRECOGNIZED"),
    errors.Unauthenticated: (401, "M_UNAUTHORIZED"),
    errors.TermsNotSigned: (403, "M_TERMS_NOT_SIGNED"),
    errors.Forbidden: (403, "M_FORBIDDEN"),
    errors.HomeserverNotAllowed: (403, "M_UNAUTHORIZED"),
    errors.HomeserverDenied: (403, "M_FORBIDDEN"),
    errors.NotYourMatrixId: (403, "M_UNAUTHORIZED"),
    errors.OpenIdTokenRefused: (401, "M_UNAUTHORIZED"),
    errors.HomeserverFailed: (503, "M_UNKNOWN"),
    errors.HomeserverUnreachable: (503, "M_UNKNOWN"),
    errors.HomeserverMisbehaved: (503, "M_UNKNOWN"),
    errors.RateLimited: (429, "M_LIMIT_EXCEEDED"),
    errors.Unavailable: (503, "M_UNKNOWN"),
    errors.InvalidEmail: (400, "M_INVALID_EMAIL"),
    errors.InvalidAddress: (400, "M_INVALID_ADDRESS"),
    errors.AddressRefused: (403, "M_THREEPID_DENIED"),
    errors.DestinationRejected: (400, "M_DESTINATION_REJECTED"),
    errors.MessageRefused: (400, "M_SEND_ERROR"),
    errors.EmailRefused: (400, "M_EMAIL_SEND_ERROR"),
    errors.NoSuchSession: (404, "M_NO_VALID_SESSION"),
    errors.SessionExpired: (400, "M_SESSION_EXPIRED"),
    errors.SessionNotValidated: (400, "M_SESSION_NOT_VALIDATED"),
    errors.TokenIncorrect: (400, "M_TOKEN_INCORRECT"),
    errors.TokenExpired: (400, "M_SESSION_EXPIRED"),
    errors.NoSuchBinding: (404, "M_NOT_FOUND"),
    errors.UnsupportedMedium: (400, "M_UNRECOGNIZED"),
    errors.ThreepidInUse: (400, "M_THREEPID_IN_USE"),
    errors.InviteBlocked: (403, "M_FORBIDDEN"),
    errors.NoSuchInvite: (404, "M_UNRECOGNIZED"),
    errors.InvalidPepper: (400, "M_INVALID_PEPPER"),
    errors.TooManyAddresses: (400, "M_TOO_LARGE"),
    errors.NoSuchKey: (404, "M_NOT_FOUND"),
}

INTERNAL = (500, "M_UNKNOWN")
INTERNAL_MESSAGE = "Internal server error."
UNREADABLE = "This is not a request that can be read."
_ERRCODES_OF_HTTP = {408: "M_UNKNOWN", 413: "M_TOO_LARGE"}


class Error(TypedDict):
    """What went wrong."""

    errcode: Annotated[str, Field(description="For programs.", examples=["M_UNKNOWN"])]
    error: Annotated[str, Field(description="For people; never anything of the request's.")]
    retry_after_ms: NotRequired[Annotated[int, Field(description="With `M_LIMIT_EXCEEDED`: how long to wait.")]]
    mxid: NotRequired[Annotated[str, Field(description="With `M_THREEPID_IN_USE`: whose the address is.")]]
    algorithm: NotRequired[Annotated[str, Field(description="With `M_INVALID_PEPPER`: the algorithm asked for.")]]
    lookup_pepper: NotRequired[Annotated[str, Field(description="With `M_INVALID_PEPPER`: the pepper to use.")]]


def status_and_errcode(error: errors.IdentityServerError) -> tuple[int, str]:
    """The row of an error's class."""
    return row_of(type(error))


def row_of(kind: type[errors.IdentityServerError]) -> tuple[int, str]:
    """The row of a class of errors, or of its nearest ancestor that has one."""
    return next((TABLE[each] for each in kind.__mro__ if each in TABLE), INTERNAL)


def json_response(body: Any, *, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=orjson.dumps(body), status=status, headers=JSON_HEADERS)


def error_response(error: errors.IdentityServerError) -> web.Response:
    """The wire form of an error, with what some of them carry along."""
    status, errcode = status_and_errcode(error)
    body: Error = {"errcode": errcode, "error": error.message}
    headers: dict[str, str] = {}
    if isinstance(error, errors.RateLimited):
        body["retry_after_ms"] = error.retry_after_ms
        headers["Retry-After"] = str(retry_after_seconds(error))
    if isinstance(error, errors.ThreepidInUse):
        body["mxid"] = error.user_id
    if isinstance(error, errors.InvalidPepper):
        body["algorithm"] = error.algorithm
        body["lookup_pepper"] = error.lookup_pepper
    response = json_response(body, status=status)
    response.headers.update(headers)
    if isinstance(error, errors.BodyTooLarge | errors.BodyTooSlow | errors.BodyIncomplete):
        # The rest of the body is not waited for, so no request can follow on this connection.
        response.force_close()
    return response


def retry_after_seconds(error: errors.RateLimited) -> int:
    """The value of a Retry-After header: whole seconds, rounded up."""
    return math.ceil(error.retry_after_ms / 1000)


def closing_response(status: int) -> web.Response:
    """What is said to whoever can't be understood, so that no request can follow on the connection."""
    ours = status >= INTERNAL[0]
    errcode = INTERNAL[1] if ours else _ERRCODES_OF_HTTP.get(status, "M_UNRECOGNIZED")
    body: Error = {"errcode": errcode, "error": INTERNAL_MESSAGE if ours else UNREADABLE}
    response = json_response(body, status=status)
    response.force_close()
    return response


def internal_error_response() -> web.Response:
    """What a fault of ours looks like from outside."""
    status, errcode = INTERNAL
    body: Error = {"errcode": errcode, "error": INTERNAL_MESSAGE}
    return json_response(body, status=status)
