"""Twilio's Messages API.

A message is taken with 201; what is wrong comes as a 4xx with a code of Twilio's. Twilio asks not to build on the
codes, so the status decides, but for the few codes that come as 400 and yet blame our settings (a sender that
isn't ours, an empty messaging service) or a full queue rather than the number.
The API knows no idempotency key, so the reference isn't sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from identity_server.domain.ports import DeliveryRefused, TextMessage
from identity_server.outbound.sms.posting import Poster, Reply, basic_authorization, require_accepted

NAME = "twilio"

_TAKEN = frozenset({200, 201})
# Not valid, missing, not ours or not able to text (sender); unknown, without senders (messaging service); trial.
_ABOUT_US = frozenset(
    {20003, 20404, 21212, 21603, 21606, 21608, 21609, 21659, 21660, 21661, 21701, 21702, 21703, 21704, 21705, 30002}
)
# Too many requests; the sender's queue is full; too many messages on one day.
_LATER = frozenset({14107, 20429, 21611, 30001, 63038})
_FAILED = frozenset({"failed", "undelivered", "canceled"})


@dataclass(frozen=True, slots=True)
class TwilioAccount:
    """An account with Twilio.

    Attributes:
        url: the API without path, such as `https://api.twilio.com`; regions have others.
        account_sid: the account, `AC...`.
        password: its auth token, or the secret of `api_key`.
        api_key: log in with this key (`SK...`) instead of the account; None for the account.
        messaging_service_sid: the service that chooses the sender, `MG...`; None for `sender`.
        sender: the number or name that messages come from; None for the service's.
    """

    url: str
    account_sid: str
    password: str = field(repr=False)
    api_key: str | None = None
    messaging_service_sid: str | None = None
    sender: str | None = None

    def __post_init__(self) -> None:
        if not self.messaging_service_sid and not self.sender:
            raise ValueError("a messaging service or a sender is needed")


class Twilio:
    """Sends through Twilio. Implements `SmsTransport`."""

    def __init__(self, *, account: TwilioAccount, http: Poster) -> None:
        self._account = account
        self._http = http
        self._url = (
            f"{account.url.rstrip('/')}/2010-04-01/Accounts/{quote(account.account_sid, safe='')}/Messages.json"
        )

    async def send(self, message: TextMessage) -> None:
        """Create one message; 201 means that it is in Twilio's queue."""
        account = self._account
        reply = await self._http.post(
            self._url,
            provider=NAME,
            body=urlencode(self._form(message)).encode(),
            content_type="application/x-www-form-urlencoded",
            headers={"Authorization": basic_authorization(account.api_key or account.account_sid, account.password)},
        )
        _judge(reply)

    def _form(self, message: TextMessage) -> dict[str, str]:
        form = {"To": f"+{message.to}", "Body": message.body}
        if self._account.messaging_service_sid:
            form["MessagingServiceSid"] = self._account.messaging_service_sid
        if self._account.sender:
            # Together with a service this is one of its senders, which is used instead of a chosen one.
            form["From"] = self._account.sender
        return form


def _judge(reply: Reply) -> None:
    content = reply.json()
    number = content.get("code")
    code = number if isinstance(number, int) else 0
    require_accepted(
        NAME,
        reply,
        code=str(code or ""),
        about_us=reply.status == 400 and code in _ABOUT_US,  # noqa: PLR2004 - other statuses speak for themselves
        later=400 <= reply.status < 500 and code in _LATER,  # noqa: PLR2004 - the class of requests at fault
        accepted=_TAKEN,
    )
    if content.get("status") in _FAILED:
        raise DeliveryRefused(f"{NAME}: {reply.status} (failed at once)")
