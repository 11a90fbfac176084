"""OpenMarket's Global SMS API, version 4, JSON: what Sydent sends with, and so what operators have an account for.

The request is the one Sydent makes: Basic authentication, one message, and a sender out of the operator's list,
always the same for a number, so that the messages stand in one conversation on the phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from identity_server.domain.ports import TextMessage
from identity_server.outbound.sms.posting import Poster, basic_authorization, require_accepted

NAME = "openmarket"

_DEFAULT = "default"
# "Type of number" in the API, by the word in the configuration.
_TYPES_OF_NUMBER = {"long": 1, "short": 3, "alpha": 5}


class Sender(Protocol):
    """What a message shows as its sender."""

    @property
    def kind(self) -> str:
        """`long`, `short` or `alpha`."""

    @property
    def text(self) -> str:
        """The number, short code or name."""


@dataclass(frozen=True, slots=True)
class OpenMarketAccount:
    """An account with OpenMarket.

    Attributes:
        url: where messages are posted to.
        username: the account id.
        password: of the account.
        senders: by calling code, with `default` for all others; where there is none, OpenMarket chooses.
    """

    url: str
    username: str
    password: str = field(repr=False)
    senders: Mapping[str, Sequence[Sender]] = field(default_factory=dict)


class OpenMarket:
    """Sends through OpenMarket. Implements `SmsTransport`."""

    def __init__(self, *, account: OpenMarketAccount, http: Poster) -> None:
        self._account = account
        self._http = http

    async def send(self, message: TextMessage) -> None:
        """Submit one message; 202 means that it is in OpenMarket's queue."""
        account = self._account
        reply = await self._http.post(
            account.url,
            provider=NAME,
            body=orjson.dumps({"mobileTerminate": self._request(message)}),
            content_type="application/json",
            headers={"Authorization": basic_authorization(account.username, account.password)},
        )
        require_accepted(NAME, reply, code=_code_of(reply.json()))

    def _request(self, message: TextMessage) -> dict[str, Any]:
        request: dict[str, Any] = {
            "message": {"type": "text", "content": message.body},
            "destination": {"address": message.to},
        }
        senders = self._account.senders.get(message.country_code) or self._account.senders.get(_DEFAULT)
        if senders:
            sender = choose_sender(senders, message.to)
            request["source"] = {"ton": _TYPES_OF_NUMBER[sender.kind], "address": sender.text}
        return request


def choose_sender(senders: Sequence[Sender], to: str) -> Sender:
    """The sender for a number: by the sum of its digits, as Sydent chooses.

    So a number keeps its sender when a server moves here from Sydent.
    """
    return senders[sum(map(int, to)) % len(senders)]


def _code_of(content: Mapping[str, Any]) -> str:
    error = content.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    # Codes are short numbers; anything else could hold a number of another kind.
    return str(code) if isinstance(code, int | str) and str(code).isdigit() and len(str(code)) <= 5 else ""  # noqa: PLR2004
