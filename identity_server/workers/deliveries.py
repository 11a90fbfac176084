"""What the kinds of jobs do. Each may run more than once for one job."""

from __future__ import annotations

from collections.abc import Mapping

from identity_server.domain.ports import MailTransport
from identity_server.services.mail_jobs import mail_from_payload
from identity_server.services.outbox import MAIL
from identity_server.storage.jobs import Job
from identity_server.workers.runner import Handler


def delivery_handlers(*, mail: MailTransport) -> Mapping[str, Handler]:
    """A handler for every kind of job."""

    async def send_mail(job: Job) -> None:
        # A repeat carries the same Message-ID, by which mail systems tell it from a second mail.
        await mail.send(mail_from_payload(job.payload))

    return {MAIL: send_mail}
