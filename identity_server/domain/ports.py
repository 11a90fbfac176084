"""What the program needs from the outside world, as Protocols.

`outbound/` implements them for real; tests implement them in `tests/support/fakes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from identity_server.domain.identifiers import ServerName, UserId


class Clock(Protocol):
    """The wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""


class Randomness(Protocol):
    """A cryptographic source of randomness."""

    def token_bytes(self, length: int) -> bytes:
        """`length` random bytes."""


class Homeservers(Protocol):
    """The homeservers of the federation, as an identity server meets them."""

    async def openid_user_id(self, server_name: ServerName, openid_token: str) -> UserId:
        """Ask a homeserver whose OpenID token this is (server-server API, "OpenID").

        The answer's server always equals `server_name`.

        Raises:
            OpenIdTokenRefused: the homeserver doesn't know the token.
            HomeserverUnreachable: it could not be found, reached or trusted within the time limit.
            HomeserverMisbehaved: it answered with something else than the specification says.
        """


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to be rendered and sent.

    Attributes:
        template: which mail, e.g. "verification".
        to: the canonical address it goes to.
        message_id: the full `Message-ID`, the same on every repeat.
        language: wanted language tags, best first (as `Accept-Language` gave them); may be empty.
        brand: the brand asked for, or None for the default.
        variables: what the template shows; values come from users and are not trusted.
    """

    template: str
    to: str
    message_id: str
    language: tuple[str, ...] = ()
    brand: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Mail(template={self.template!r}, to=<hidden>)"


class MailTransport(Protocol):
    """Delivers mail to the relay."""

    async def send(self, mail: Mail) -> None:
        """Render and hand over one mail; returns once the relay has taken it.

        Raises:
            DeliveryRefused: the relay said no for good (5xx).
            DeliveryPostponed: a passing failure (4xx, no connection, time-out); worth another try.
        """


class DeliveryError(Exception):
    """A message was not taken. The text names the step and the reply code, never an address or a token."""


class DeliveryRefused(DeliveryError):
    """Refused for good."""


class DeliveryPostponed(DeliveryError):
    """Not taken now; try again."""
