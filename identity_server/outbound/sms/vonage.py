"""Vonage's Messages API, for text messages.

Of Vonage's two APIs this is the one that speaks in HTTP statuses: 202 is taken, and what is wrong comes as a
problem document (RFC 7807), of which only the names of the parameters at fault are looked at. The encoding is left
to Vonage, which finds out by itself whether a text needs Unicode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from identity_server.domain.ports import TextMessage
from identity_server.outbound.sms.posting import Poster, basic_authorization, require_accepted

NAME = "vonage"

_TAKEN = frozenset({200, 202})
_INVALID_PARAMETERS = frozenset({400, 422})
_PARAMETERS_OF_THE_MESSAGE = frozenset({"to", "text"})


@dataclass(frozen=True, slots=True)
class VonageAccount:
    """An account with Vonage.

    Attributes:
        url: where messages are posted to.
        api_key: of the account.
        sender: the number or name that messages come from.
        api_secret: of the account.
    """

    url: str
    api_key: str
    sender: str
    api_secret: str = field(repr=False)


class Vonage:
    """Sends through Vonage. Implements `SmsTransport`."""

    def __init__(self, *, account: VonageAccount, http: Poster) -> None:
        self._account = account
        self._http = http

    async def send(self, message: TextMessage) -> None:
        """Submit one message; 202 means that it is in Vonage's queue."""
        account = self._account
        request = {
            "message_type": "text",
            "channel": "sms",
            "to": message.to,
            "from": account.sender.removeprefix("+"),
            "text": message.body,
            # Comes back in reports, by which an operator finds a message again; Vonage doesn't compare references.
            "client_ref": message.reference,
        }
        reply = await self._http.post(
            account.url,
            provider=NAME,
            body=orjson.dumps(request),
            content_type="application/json",
            headers={"Authorization": basic_authorization(account.api_key, account.api_secret)},
        )
        about_us = reply.status in _INVALID_PARAMETERS and _only_ours(reply.json())
        require_accepted(NAME, reply, about_us=about_us, accepted=_TAKEN)


def _only_ours(problem: Mapping[str, Any]) -> bool:
    """Whether it names parameters at fault, and none that came with the message."""
    listed = problem.get("invalid_parameters")
    names = {each.get("name") for each in listed if isinstance(each, dict)} if isinstance(listed, list) else set()
    return bool(names) and not names & _PARAMETERS_OF_THE_MESSAGE
