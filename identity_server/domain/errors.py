"""Everything that can go wrong, named by meaning.

No HTTP status and no `M_` code stands here: `api/errors.py` is the one table from these to the wire.
A message is safe to show to the caller and to write to a log: it never holds an address, a token or a secret.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class IdentityServerError(Exception):
    """Base of every error that a caller of a service can meet."""

    default_message: ClassVar[str] = "The request could not be carried out."

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default_message)

    @property
    def message(self) -> str:
        """Text for the caller."""
        return str(self.args[0])


# --- the request itself -------------------------------------------------------------------


class NotJson(IdentityServerError):
    """The body is not JSON in UTF-8."""

    default_message = "The body is not valid JSON."


class BadJson(IdentityServerError):
    """The body is JSON, but not an object."""

    default_message = "The body must be a JSON object."


class MissingParameters(IdentityServerError):
    """Required parameters are absent."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"Missing parameters: {', '.join(names)}")


class InvalidParameter(IdentityServerError):
    """A parameter is of the wrong type, out of its range or outside its grammar."""


class BodyTooLarge(IdentityServerError):
    """The body is over the limit of its endpoint."""

    default_message = "The body is too large."


class BodyTooSlow(IdentityServerError):
    """The body did not arrive in time."""

    default_message = "The body did not arrive in time."


class BodyIncomplete(IdentityServerError):
    """The body broke off, or lost its framing on the way."""

    default_message = "The body did not arrive whole."


class UnknownEndpoint(IdentityServerError):
    """No such path."""

    default_message = "Unrecognized request: there is no such path here."


class MethodNotAllowed(IdentityServerError):
    """The path exists, but not for this method."""

    default_message = "Unrecognized request: this path does not take this method."


# --- who is asking ------------------------------------------------------------------------


class Unauthenticated(IdentityServerError):
    """The access token is missing, unknown, expired or logged out."""

    default_message = "The access token is missing or unknown."


class TermsNotSigned(IdentityServerError):
    """The account has not accepted the terms in force."""

    default_message = "The terms of service of this server have not been accepted yet."


class Forbidden(IdentityServerError):
    """The caller is known, and may not do this."""

    default_message = "This is not allowed."


class HomeserverNotAllowed(Forbidden):
    """The homeserver is not one that this server takes accounts from."""

    default_message = "This identity server does not accept accounts of that homeserver."


class HomeserverDenied(Forbidden):
    """Users of the homeserver may not use this server, or not for this."""

    default_message = "Users of your homeserver may not use this identity server any more."


class NotYourMatrixId(IdentityServerError):
    """The Matrix ID of the request isn't the one that the access token belongs to."""

    default_message = "This Matrix ID does not belong to the access token."


class OpenIdTokenRefused(IdentityServerError):
    """The homeserver says that it doesn't know the OpenID token."""

    default_message = "The homeserver does not know this OpenID token; it may have expired."


class HomeserverStep(StrEnum):
    """How far a call to a homeserver had come when it failed. Operators see the value in the log."""

    FIND = "find"
    """Its name led nowhere: .well-known, DNS."""
    CONNECT = "connect"
    """There was no connection to where its name leads."""
    CERTIFICATE = "certificate"
    """It could not show that it is who it should be."""
    ANSWER = "answer"
    """There was no whole answer, or not one in HTTP."""
    STATUS = "status"
    """It answered with a status other than that of success."""
    CONTENT = "content"
    """What it answered isn't what the specification says."""
    USER = "user"
    """It vouched for a user of another homeserver."""


class HomeserverFailed(IdentityServerError):
    """A homeserver could not be asked, or not with success.

    Attributes:
        step: which has failed; None if that isn't known.
    """

    default_message = "The homeserver could not be asked."

    def __init__(
        self, message: str | None = None, *, step: HomeserverStep | None = None, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.step = step
        self._detail = detail

    @property
    def detail(self) -> str:
        """What the operator may know of it, for the log; a caller perhaps knows less."""
        return self._detail or self.message


class HomeserverUnreachable(HomeserverFailed):
    """The homeserver could not be found, reached or trusted."""

    default_message = "The homeserver could not be reached."


class HomeserverMisbehaved(HomeserverFailed):
    """The homeserver answered, but not as the specification says."""

    default_message = "The homeserver gave an answer that cannot be used."


class RateLimited(IdentityServerError):
    """A limit is used up for now.

    Attributes:
        retry_after_ms: milliseconds until the same call can succeed.
        limit: which one, for the operator; one of `metrics.table.LIMITS`.
    """

    default_message = "Too many requests; try again later."

    def __init__(self, retry_after_ms: int, message: str | None = None, *, limit: str) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.limit = limit


class Unavailable(IdentityServerError):
    """The server itself cannot serve for the moment (starting, stopping, database gone)."""

    default_message = "The server cannot answer at the moment; try again."


# --- addresses and sessions ---------------------------------------------------------------


class InvalidEmail(IdentityServerError):
    """Not an e-mail address that mail can be sent to."""

    default_message = "This is not a valid e-mail address."


class InvalidAddress(IdentityServerError):
    """Not a valid address of its medium."""

    default_message = "This is not a valid address."


class AddressRefused(IdentityServerError):
    """The owner of the address has asked that it be neither bound nor invited here."""

    default_message = "The owner of this address does not want it to be used here."


class DestinationRejected(IdentityServerError):
    """The operator doesn't serve addresses of that place."""

    default_message = "This server does not send messages to numbers of this country."


class MessageRefused(IdentityServerError):
    """The message was refused for good by the system that would deliver it, or there is no such system."""

    default_message = "The validation message could not be sent to this address."


class EmailRefused(MessageRefused):
    """The relay refused the mail for good."""

    default_message = "The validation mail could not be sent to this address."


class NoSuchSession(IdentityServerError):
    """No validation session has this id and client secret."""

    default_message = "No validation session was found for this session id and client secret."


class SessionExpired(IdentityServerError):
    """The validation session existed, and is over."""

    default_message = "This validation session has expired; start again."


class SessionNotValidated(IdentityServerError):
    """The address of the session has not been validated yet."""

    default_message = "This validation session has not been completed: follow the link first."


class TokenIncorrect(IdentityServerError):
    """The validation token is wrong."""

    default_message = "This validation token is not correct."


class TokenExpired(IdentityServerError):
    """The validation token was right once, and is over."""

    default_message = "This validation link has expired; start again."


class NoSuchBinding(IdentityServerError):
    """The address isn't bound to this Matrix ID."""

    default_message = "This address is not bound to your Matrix ID."


# --- invites ------------------------------------------------------------------------------


class UnsupportedMedium(IdentityServerError):
    """An invitation to an address that isn't an e-mail address."""

    default_message = "Only e-mail addresses can be invited."


class ThreepidInUse(IdentityServerError):
    """The address is bound already.

    Attributes:
        user_id: to whom.
    """

    default_message = "This address belongs to a Matrix user already: invite them by their Matrix ID."

    def __init__(self, user_id: str) -> None:
        super().__init__()
        self.user_id = user_id


class InviteBlocked(Forbidden):
    """The operator doesn't let this homeserver, room or wording send invites."""

    default_message = "This invitation is not allowed here."


class NoSuchInvite(IdentityServerError):
    """No invite has this token."""

    default_message = "No invitation with this token was found."


# --- lookup and keys ----------------------------------------------------------------------


class InvalidPepper(IdentityServerError):
    """The pepper is not one that is honoured now.

    Attributes:
        algorithm: the algorithm that was asked for.
        lookup_pepper: the pepper to use instead.
    """

    default_message = "This pepper is unknown or no longer valid."

    def __init__(self, *, algorithm: str, lookup_pepper: str) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.lookup_pepper = lookup_pepper


class TooManyAddresses(IdentityServerError):
    """More addresses in one lookup than are allowed."""

    default_message = "Too many addresses in one lookup."


class NoSuchKey(IdentityServerError):
    """No public key has this id."""

    default_message = "No public key with this id was found."
