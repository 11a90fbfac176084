"""A webhook of the operator's, signed: for a provider that isn't here, a modem, or a gateway of one's own.

The signature is that of Standard Webhooks (standardwebhooks.com), for which there are libraries in most languages.
docs/sms.md describes the request and the answers for whoever writes the other side.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson

from identity_server.domain.ports import Clock, TextMessage
from identity_server.outbound.sms.posting import Poster, require_accepted

NAME = "webhook"

_TYPE = "sms.send"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where messages are posted to.

    Attributes:
        url: of the operator's endpoint; may be private.
        secret: the key of the signature, at least 24 bytes.
    """

    url: str
    secret: bytes = field(repr=False)


class WebhookTransport:
    """Sends to a webhook. Implements `SmsTransport`."""

    def __init__(self, *, webhook: Webhook, http: Poster, clock: Clock) -> None:
        self._webhook = webhook
        self._http = http
        self._clock = clock

    async def send(self, message: TextMessage) -> None:
        """Post one message; any 2xx means that the other side has it."""
        seconds = self._clock.now_ms() // 1000
        body = _body(message, seconds)
        reply = await self._http.post(
            self._webhook.url,
            provider=NAME,
            body=body,
            content_type="application/json",
            headers={
                "webhook-id": message.reference,
                "webhook-timestamp": str(seconds),
                "webhook-signature": sign(self._webhook.secret, message.reference, seconds, body),
            },
        )
        require_accepted(NAME, reply)


def sign(secret: bytes, message_id: str, seconds: int, body: bytes) -> str:
    """The value of `webhook-signature`: HMAC-SHA256 over id, time and body, joined by dots, in base64."""
    signed = f"{message_id}.{seconds}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def _body(message: TextMessage, seconds: int) -> bytes:
    return orjson.dumps(
        {
            "type": _TYPE,
            "timestamp": datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "data": {
                "to": f"+{message.to}",
                "country_code": message.country_code,
                "text": message.body,
                "reference": message.reference,
            },
        }
    )
