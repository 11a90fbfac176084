"""How a mail is written into the outbox and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from identity_server.domain.identifiers import Threepid
from identity_server.domain.ports import Mail, Randomness
from identity_server.domain.random_values import message_id, row_id
from identity_server.services.outbox.port import MAIL
from identity_server.storage.database import Transaction
from identity_server.storage.repositories.jobs import Job


class MailJobs:
    """Writes mails into the outbox.

    Args:
        message_id_domain: what stands behind the @ of a Message-ID.
    """

    def __init__(self, *, randomness: Randomness, message_id_domain: str) -> None:
        self._randomness = randomness
        self._message_id_domain = message_id_domain

    async def add(
        self,
        tx: Transaction,
        template: str,
        to: Threepid,
        variables: Mapping[str, str],
        *,
        language: tuple[str, ...] = (),
        brand: str | None = None,
        now_ms: int,
        expires_at_ms: int,
    ) -> Job:
        """Write a mail to an e-mail address, as a step of a use case; returns its claimed job.

        Args:
            tx: the transaction that it is a part of.
            template: which mail.
            to: the address.
            variables: what the template shows.
            language: wanted language tags, best first.
            brand: the brand asked for, or None for the default.
            now_ms: the time.
            expires_at_ms: when it is given up.
        """
        mail = Mail(
            template=template,
            to=to.address,
            message_id=message_id(self._randomness, self._message_id_domain),
            language=language,
            brand=brand,
            variables=variables,
        )
        job_id = row_id(self._randomness)
        return await tx.jobs.add_claimed(job_id, MAIL, _to_payload(mail), now_ms=now_ms, expires_at_ms=expires_at_ms)


def _to_payload(mail: Mail) -> dict[str, Any]:
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
