"""How a text message is written into the outbox and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from identity_server.domain.ports import TextMessage


def text_to_payload(message: TextMessage) -> dict[str, Any]:
    """The payload of a text message job."""
    return {
        "to": message.to,
        "country_code": message.country_code,
        "body": message.body,
        "reference": message.reference,
    }


def text_from_payload(payload: Mapping[str, Any]) -> TextMessage:
    """The message of a payload."""
    return TextMessage(
        to=payload["to"],
        country_code=payload["country_code"],
        body=payload["body"],
        reference=payload["reference"],
    )
