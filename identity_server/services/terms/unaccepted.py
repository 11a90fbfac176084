"""Erasing whoever doesn't accept the terms in force, after a warning and in good time.

The rule: nobody is erased who wasn't warned of these very terms half of the time before, however long this server was
away in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from identity_server.domain.audit import AuditEvent
from identity_server.domain.identifiers import UserId
from identity_server.domain.ports import Clock
from identity_server.domain.terms import Terms
from identity_server.services.associations.owner_notices import TERMS, OwnerNotices
from identity_server.services.erasure.removal import Erasure
from identity_server.services.erasure.waiting_jobs import WaitingJobs
from identity_server.services.terms.acceptance import TermsOfService
from identity_server.storage.bulk import in_parts
from identity_server.storage.database import Database, Transaction
from identity_server.storage.erasure.rows import People
from identity_server.storage.repositories.consent import Consent

_PAGE = 500
_AT_ONCE = 50
_WARNED_AT_ONCE = 500
"""In one run: a relay has other things to do."""
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Grace:
    """How much time there is.

    Attributes:
        terms: what has to be accepted.
        since_ms: since when.
        whole_ms: how long there is for that; the warning comes after half of it.
    """

    terms: Terms
    since_ms: int
    whole_ms: int

    @property
    def half_ms(self) -> int:
        """The time before the warning, and the least that is left after it."""
        return self.whole_ms // 2

    def is_over(self, consent: Consent, *, now_ms: int) -> bool:
        """Whether an account has had all the time that it gets."""
        if self._is_satisfied(consent) or not self._was_warned(consent):
            return False
        assert consent.warned_at_ms is not None
        return now_ms >= max(self._start_ms(consent) + self.whole_ms, consent.warned_at_ms + self.half_ms)

    def wants_warning(self, consent: Consent, *, now_ms: int) -> bool:
        """Whether it is time to warn an account, and that hasn't been done."""
        if self._is_satisfied(consent) or self._was_warned(consent):
            return False
        return now_ms >= self._start_ms(consent) + self.half_ms

    def _start_ms(self, consent: Consent) -> int:
        return max(self.since_ms, consent.created_at_ms)

    def _was_warned(self, consent: Consent) -> bool:
        return consent.warned_at_ms is not None and consent.warned_at_ms >= self._start_ms(consent)

    def _is_satisfied(self, consent: Consent) -> bool:
        return self.terms.satisfied(accepted=consent.accepted, agreed_master_version=consent.agreed_master_version)


class UnacceptedTerms:
    """Warns and erases.

    Args:
        grace_ms: how long there is to accept new terms; None for ever.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        terms: TermsOfService,
        erasure: Erasure,
        notices: OwnerNotices,
        grace_ms: int | None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._terms = terms
        self._erasure = erasure
        self._notices = notices
        self._grace_ms = grace_ms

    async def sweep(self) -> int:
        """Commit, some at a time, warnings to accounts with half of their time left, and the removal of those with none.

        With an account goes everything that is about it and its addresses. The time of new terms begins when this is
        first done with them. Returns how many accounts were removed.
        """
        terms = self._terms.in_force
        if self._grace_ms is None or not terms.policies:
            return 0
        now_ms, digest = self._clock.now_ms(), bytes.fromhex(terms.fingerprint)
        since_ms = await self._database.transaction(lambda tx: tx.consents.since_ms(digest, now_ms=now_ms))
        grace = Grace(terms, since_ms, self._grace_ms)
        if now_ms < since_ms + grace.half_ms:
            return 0
        jobs, erased, left = await self._erasure.look(), 0, _WARNED_AT_ONCE
        after = ""
        while page := await self._database.read(partial(_read_page, after=after), bulk=True):
            after = list(page)[-1]
            to_warn = [each for each, consent in page.items() if grace.wants_warning(consent, now_ms=now_ms)][:left]
            to_erase = [each for each, consent in page.items() if grace.is_over(consent, now_ms=now_ms)]
            left -= len(to_warn)
            for some in in_parts(to_warn, _AT_ONCE):
                await self._database.transaction(partial(self._warn, user_ids=some, grace=grace), bulk=True)
            for some in in_parts(to_erase, _AT_ONCE):
                use_case = partial(self._erase, user_ids=some, grace=grace, jobs=jobs)
                erased += await self._database.transaction(use_case, bulk=True)
                await asyncio.sleep(_PAUSE_SECONDS)
        return erased

    async def _warn(self, tx: Transaction, *, user_ids: Sequence[UserId], grace: Grace) -> None:
        now_ms = self._clock.now_ms()
        more = {
            "erased_at_ms": str(now_ms + grace.half_ms),
            "terms_url": next(iter(grace.terms.policies[0].translations.values())).url,
        }
        bound = await tx.associations.list_by_users(user_ids)
        for _, association in bound:
            # They aren't started here: the outbox takes them, some at a time.
            await self._notices.add(tx, TERMS, association.threepid, association.user_id, **more)
        await tx.consents.note_warned(user_ids, now_ms=now_ms)

    async def _erase(self, tx: Transaction, *, user_ids: Sequence[UserId], grace: Grace, jobs: WaitingJobs) -> int:
        now_ms = self._clock.now_ms()
        # Somebody may have accepted in between.
        consents = await tx.consents.list_of(user_ids)
        over = [user_id for user_id, consent in consents.items() if grace.is_over(consent, now_ms=now_ms)]
        if over:
            await self._erasure.remove(tx, People(user_ids=frozenset(over)), jobs, spares_limits=True)
            await tx.audit.add(AuditEvent.SWEPT, now_ms=now_ms, about=over, count=len(over))
        return len(over)


async def _read_page(tx: Transaction, *, after: str) -> dict[UserId, Consent]:
    return dict(await tx.consents.list_page(after=after, limit=_PAGE))
