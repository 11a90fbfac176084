"""Telling the owner of an address, by mail, that it was bound, is no longer bound, or won't be for long."""

from __future__ import annotations

from identity_server.domain.errors import RateLimited
from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.domain.mailboxes import mailbox_of
from identity_server.domain.ports import Clock
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.retention import OWNER_NOTICE_LIFETIME_MS
from identity_server.services.outbox.mails import MailJobs
from identity_server.storage.database import Transaction
from identity_server.storage.repositories.jobs import Job

BOUND = "bound"
UNBOUND = "unbound"
TERMS = "terms"


class OwnerNotices:
    """Writes the notices that are wanted.

    Args:
        templates: the notices that are sent; one whose mail the brand hasn't got is left out, and so are all
            where the operator wants none.
        per_mailbox: how many mails one mailbox takes, whoever causes them; shared with all others.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        mail_jobs: MailJobs,
        templates: frozenset[str],
        per_mailbox: RateLimit,
    ) -> None:
        self._clock = clock
        self._mail_jobs = mail_jobs
        self._templates = templates
        self._per_mailbox = per_mailbox

    async def add(
        self, tx: Transaction, template: str, threepid: Threepid, user_id: UserId, **more: str
    ) -> list[Job]:
        """Write a notice into the transaction of what it is about; returns its claimed job, if there is one.

        `more` is what the template shows beside address and Matrix ID.
        """
        if template not in self._templates or threepid.medium is not Medium.EMAIL:
            return []
        now_ms = self._clock.now_ms()
        try:
            mailbox = mailbox_of(threepid.address)
            await tx.rate_limits.take("mailbox", mailbox, self._per_mailbox, now_ms=now_ms)
        except RateLimited:
            # The mailbox has had enough for now; what it would be told can be seen by a lookup.
            return []
        variables = {"address": threepid.address, "user_id": user_id, **more}
        expires_at_ms = now_ms + OWNER_NOTICE_LIFETIME_MS
        return [
            await self._mail_jobs.add(tx, template, threepid, variables, now_ms=now_ms, expires_at_ms=expires_at_ms)
        ]
