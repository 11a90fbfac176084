"""What the kinds of jobs do. Each may run more than once for one job; only texts are sent once at most."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from identity_server.domain.ports import (
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    MailTransport,
    SmsTransport,
)
from identity_server.services.associations.bind_notices import BindNotices
from identity_server.services.outbox.mails import mail_from_payload
from identity_server.services.outbox.port import BIND_NOTICE, MAIL, SMS
from identity_server.services.outbox.texts import text_from_payload
from identity_server.services.privacy.refusals import Refusals
from identity_server.storage.repositories.jobs import Job
from identity_server.workers.runner import JobKind

_log = structlog.get_logger(__name__)

_MESSAGE_PAUSES_MS = (30_000, 120_000, 300_000, 900_000, 1_800_000)


def job_kinds(
    *, mail: MailTransport, sms: SmsTransport | None, bind_notices: BindNotices, refusals: Refusals
) -> Mapping[str, JobKind]:
    """How every kind of job is carried out.

    Args:
        mail: delivers mail.
        sms: delivers text messages; None if nobody does.
        bind_notices: tells homeservers of bindings.
        refusals: knows which mails are wanted no more.
    """

    async def send_mail(job: Job) -> None:
        letter = mail_from_payload(job.payload)
        # Of a fresh one the transaction that wrote it has asked.
        if not job.is_fresh and await refusals.forbid(letter):
            _log.info("mail.no_longer_wanted", job_id=job.id)
            return
        # A repeat carries the same Message-ID, by which mail systems tell it from a second mail.
        await mail.send(letter)

    async def send_text(job: Job) -> None:
        if job.was_interrupted:
            # It may have been sent. Nobody gets a code twice; who got none asks for another.
            _log.warning("text.outcome_unknown", job_id=job.id, reason="an earlier try ended without an outcome")
            return
        if sms is None:
            raise DeliveryRefused("no provider is configured any more")
        try:
            await sms.send(text_from_payload(job.payload))
        except (DeliveryRefused, DeliveryPostponed):
            raise
        except DeliveryUnknown as error:
            _log.warning("text.outcome_unknown", job_id=job.id, reason=str(error))
        except Exception:  # noqa: BLE001 - whatever it was, it may have come after the message had gone
            _log.exception("text.outcome_unknown", job_id=job.id)

    return {
        SMS: JobKind(handler=send_text, pause_ms=message_pause_ms),
        MAIL: JobKind(handler=send_mail, pause_ms=message_pause_ms),
        BIND_NOTICE: JobKind(
            handler=bind_notices.send,
            pause_ms=bind_notices.pause_ms,
            give_up=bind_notices.given_up,
            succeed=bind_notices.delivered,
            lapse=bind_notices.lapsed,
        ),
    }


def message_pause_ms(attempts: int) -> int:
    """People wait for messages, so the pauses are short at first."""
    return _MESSAGE_PAUSES_MS[min(attempts, len(_MESSAGE_PAUSES_MS) - 1)]
