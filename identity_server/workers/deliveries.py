"""What the kinds of jobs do. Each may run more than once for one job."""

from __future__ import annotations

from collections.abc import Mapping

from identity_server.domain.ports import MailTransport
from identity_server.services.bind_notices import BindNotices
from identity_server.services.mail_jobs import mail_from_payload
from identity_server.services.outbox import BIND_NOTICE, MAIL
from identity_server.storage.jobs import Job
from identity_server.workers.runner import JobKind

_MESSAGE_PAUSES_MS = (30_000, 120_000, 300_000, 900_000, 1_800_000)


def job_kinds(*, mail: MailTransport, bind_notices: BindNotices) -> Mapping[str, JobKind]:
    """How every kind of job is carried out."""

    async def send_mail(job: Job) -> None:
        # A repeat carries the same Message-ID, by which mail systems tell it from a second mail.
        await mail.send(mail_from_payload(job.payload))

    return {
        MAIL: JobKind(handler=send_mail, pause_ms=message_pause_ms),
        BIND_NOTICE: JobKind(
            handler=bind_notices.send,
            pause_ms=bind_notices.pause_ms,
            give_up=bind_notices.given_up,
            succeed=bind_notices.delivered,
        ),
    }


def message_pause_ms(attempts: int) -> int:
    """People wait for messages, so the pauses are short at first."""
    return _MESSAGE_PAUSES_MS[min(attempts, len(_MESSAGE_PAUSES_MS) - 1)]
