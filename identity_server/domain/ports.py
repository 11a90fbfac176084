"""What the program needs from the outside world, as Protocols.

`outbound/` implements them for real; tests implement them in `tests/support/fakes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

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

    async def notify_bind(self, server_name: ServerName, association: Mapping[str, Any]) -> None:
        """Tell a homeserver that an address was bound to one of its users (server-server API, "3PID onbind").

        Raises:
            DeliveryRefused: it will not take this notice, now or later.
            DeliveryPostponed: a passing failure; worth another try.
        """


class OriginKeys(Protocol):
    """The keys that homeservers publish, each for its own signatures (server-server API, "Publishing Keys")."""

    def known(self, origin: ServerName, key_id: str) -> bytes | None:
        """The public key under an id (`ed25519:VERSION`), if that is known without asking the homeserver."""

    async def find(self, origin: ServerName, key_id: str) -> bytes | None:
        """The public key under an id; None if the homeserver publishes no such key.

        Raises:
            HomeserverUnreachable: it could not be asked.
            HomeserverMisbehaved: its answer can't be used.
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


class MailTemplates(Protocol):
    """What the templates of mails say about themselves before anything is written for them."""

    def exists(self, template: str, brand: str | None) -> bool:
        """Whether a brand has this mail: one whose templates are Sydent's has only the mails that Sydent sends."""

    def brand_in_links(self, brand: str | None) -> str | None:
        """The name by which a link asks for a brand; None if there is no such brand, or it is the default."""

    def shows(self, template: str, brand: str | None, name: str) -> bool:
        """Whether a brand's template in Sydent's form may show this variable; False where ours is used."""


@dataclass(frozen=True, slots=True)
class TextMessage:
    """A text message to be sent to a phone.

    Attributes:
        to: the number, E.164 digits without `+`.
        country_code: the calling code that `to` begins with, such as "44".
        body: the whole text.
        reference: the same on every repeat and for no other message, so that a provider that keeps references
            sends the message once; letters, digits, `-` and `_`, at most 64. It tells nothing about the receiver.
    """

    to: str
    country_code: str
    body: str
    reference: str

    def __repr__(self) -> str:
        return f"TextMessage(country_code={self.country_code!r}, reference={self.reference!r}, to=<hidden>)"


class SmsTransport(Protocol):
    """Delivers text messages to whoever sends them on."""

    async def send(self, message: TextMessage) -> None:
        """Hand over one message; returns once it has been taken.

        Raises:
            DeliveryRefused: it was refused for good, and nothing was sent.
            DeliveryPostponed: a passing failure, and nothing was sent; worth another try.
            DeliveryUnknown: it may have been sent, so it must not be tried again.
        """


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """A request that was answered.

    Attributes:
        route: the pattern of its path.
        seconds: how long it took.
        parent: what a trusted proxy has sent as `traceparent`.
    """

    request_id: str
    method: str
    route: str
    status: int
    ended_ms: int
    seconds: float
    parent: str | None


@dataclass(frozen=True, slots=True)
class TracedJob:
    """A try of a job.

    Attributes:
        request_id: of the request that it was tried in, if it was.
    """

    kind: str
    outcome: str
    ended_ms: int
    seconds: float
    request_id: str | None


class Traces(Protocol):
    """Takes note of how long things took, for whoever looks at single ones. Quick, and never fails."""

    def request(self, request: TracedRequest) -> None:
        """A request was answered."""

    def job(self, job: TracedJob) -> None:
        """A job was tried."""


SMS_PROVIDER_GROUP = "identity_server.sms_providers"
"""The entry-point group by which other packages offer an `SmsTransport` (docs/sms.md)."""


class DeliveryError(Exception):
    """A message was not taken. The text names the step and the reply code, never an address or a token."""


class DeliveryRefused(DeliveryError):
    """Refused for good."""


class DeliveryNeedless(DeliveryError):
    """What it tells of isn't so any more, so nobody is to be told."""


class DeliveryPostponed(DeliveryError):
    """Not taken now; try again.

    Attributes:
        retry_after_seconds: how long the other side asked to be left alone, if it said.
    """

    def __init__(self, text: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class DeliveryUnknown(DeliveryError):
    """It may or may not have been taken. Must never be tried again: the owner of the phone would get it twice."""
