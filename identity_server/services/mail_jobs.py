"""How a mail is written into the outbox and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from identity_server.domain.ports import Mail


def mail_to_payload(mail: Mail) -> dict[str, Any]:
    """The payload of a mail job."""
    return {
        "template": mail.template,
        "to": mail.to,
        "message_id": mail.message_id,
        "language": list(mail.language),
        "brand": mail.brand,
        "variables": dict(mail.variables),
    }


def mail_from_payload(payload: Mapping[str, Any]) -> Mail:
    """The mail of a payload."""
    return Mail(
        template=payload["template"],
        to=payload["to"],
        message_id=payload["message_id"],
        language=tuple(payload["language"]),
        brand=payload["brand"],
        variables=payload["variables"],
    )
