"""The privacy page: whoever reads an address's mail sees what is held about it, takes it along, and takes it away.

The rule: until the address is proved, every answer and what it costs is the same, whatever is held about it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from identity_server.domain.association import Visibility
from identity_server.domain.audit import AuditEvent
from identity_server.domain.durations import DAY_MS
from identity_server.domain.errors import RateLimited, TokenIncorrect
from identity_server.domain.holdings import Holdings
from identity_server.domain.identifiers import Medium, Threepid, canonical_email
from identity_server.domain.mailboxes import mailbox_of
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.random_values import opaque
from identity_server.domain.visit import Visit
from identity_server.services.associations.binding import Associations
from identity_server.services.client_limits import ClientLimits
from identity_server.services.outbox.mails import MailJobs
from identity_server.services.outbox.port import Outbox
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job

_VISIT_MAIL = "privacy"
"""The template of the mail with the link."""

_TOKEN_BYTES = 32


class VisitLink(Protocol):
    """Makes the link of a mail."""

    def __call__(self, token: str, *, lang: str | None, brand: str | None) -> str: ...


@dataclass(frozen=True, slots=True)
class VisitLimits:
    """How many mails strangers may cause by asking.

    They aren't counted with the others that a mailbox gets: who has had too many of these must still be able to ask to
    be left alone, and whoever asks here too often locks nobody out elsewhere.

    Attributes:
        per_mailbox_and_day: to one mailbox, whoever asks.
        per_mailbox_network_and_day: to one mailbox, asked for from one network.
    """

    per_mailbox_and_day: int
    per_mailbox_network_and_day: int


@dataclass(frozen=True, slots=True)
class MailRequest:
    """What somebody asks for on the page, before anything is checked.

    Attributes:
        lang: the language that was chosen on the page, if one was; the link keeps to it.
        languages: language tags wanted for the mail, best first.
    """

    email: str = field(repr=False)
    client_network: str
    lang: str | None = None
    languages: tuple[str, ...] = ()
    brand: str | None = None


class Visits:
    """Opens visits, and does what visitors want done.

    Args:
        network_limits: how many visits one client network may ask for.
        link: makes the link of a mail from a token, and from the language and the brand that were chosen.
    """

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        mail_jobs: MailJobs,
        associations: Associations,
        limits: VisitLimits,
        network_limits: ClientLimits,
        link: VisitLink,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._mail_jobs = mail_jobs
        self._associations = associations
        self._limits = limits
        self._network_limits = network_limits
        self._link = link

    # --- asking ---------------------------------------------------------------------------

    async def ask_by_mail(self, request: MailRequest) -> str:
        """Open a visit, and mail its link to the address: whether anything is held about it or not.

        Commits the visit and the mail as a job, which is started and not waited for. Where the address has had
        enough of these mails nothing is sent, and the answer is the same: how many it gets may be telling.

        Returns:
            The address in its canonical form, which is the one that is mailed.

        Raises:
            InvalidEmail: the address can't be an e-mail address.
            RateLimited: this network has asked too often.
        """
        threepid = Threepid(Medium.EMAIL, canonical_email(request.email))
        token = opaque(self._randomness, _TOKEN_BYTES)
        visit = Visit.by_mail(threepid, now_ms=self._clock.now_ms())

        async def use_case(tx: Transaction) -> Job | None:
            try:
                await self._take_limits(tx, threepid, request.client_network, now_ms=visit.created_at_ms)
            except RateLimited:
                return None
            await tx.visits.add(visit, token)
            return await self._add_mail(tx, request, visit, token)

        async with self._network_limits.admit(request.client_network):
            job = await self._database.transaction(use_case)
        if job is not None:
            self._outbox.start(job)
        return threepid.address

    async def _take_limits(self, tx: Transaction, threepid: Threepid, network: str, *, now_ms: int) -> None:
        mailbox, limits = mailbox_of(threepid.address), self._limits
        # The narrowest first: a network that has had its share takes nothing from others.
        await tx.rate_limits.take_place(
            "visit mail",
            mailbox,
            asked_from=network,
            places=limits.per_mailbox_network_and_day,
            window_ms=DAY_MS,
            now_ms=now_ms,
        )
        await tx.rate_limits.take_place(
            "visit mail", mailbox, places=limits.per_mailbox_and_day, window_ms=DAY_MS, now_ms=now_ms
        )

    async def _add_mail(self, tx: Transaction, request: MailRequest, visit: Visit, token: str) -> Job:
        variables = {
            "address": visit.threepid.address,
            "open_url": self._link(token, lang=request.lang, brand=request.brand),
            "expires_at_ms": str(visit.expires_at_ms),
        }
        return await self._mail_jobs.add(
            tx,
            _VISIT_MAIL,
            visit.threepid,
            variables,
            language=request.languages,
            brand=request.brand,
            now_ms=visit.created_at_ms,
            expires_at_ms=visit.expires_at_ms,
        )

    # --- visiting -------------------------------------------------------------------------

    async def find(self, token: str) -> Visit:
        """The live visit behind a mailed link, for the page that asks before it shows anything.

        Raises:
            TokenIncorrect: the link isn't one of ours, or its visit is gone.
            TokenExpired: it is over.
        """
        visit, _ = await self._database.read(lambda tx: self._live(tx, token))
        return visit

    async def look(self, token: str) -> tuple[Visit, Holdings]:
        """What is held about the address of a visit.

        Raises:
            TokenIncorrect, TokenExpired: as `find`.
        """

        async def use_case(tx: Transaction) -> tuple[Visit, Holdings]:
            visit, threepid = await self._live(tx, token)
            return visit, await self._holdings(tx, threepid)

        return await self._database.read(use_case, bulk=True)

    async def unbind(self, token: str) -> tuple[Visit, Holdings]:
        """Commit the removal of the address's binding, if there is one; returns what is held afterwards.

        The owner is told by mail as of any other unbinding, without that being waited for.

        Raises:
            TokenIncorrect, TokenExpired: as `find`.
        """

        async def change(tx: Transaction, threepid: Threepid) -> list[Job]:
            return await self._associations.release(tx, threepid, now_ms=self._clock.now_ms())

        return await self._change(token, change)

    async def show(self, token: str, visibility: Visibility) -> tuple[Visit, Holdings]:
        """Commit who may know of the address's binding, if there is one; returns what is held afterwards.

        Raises:
            TokenIncorrect, TokenExpired: as `find`.
            RateLimited: too many changes for the Matrix ID that the address is bound to.
        """

        async def change(tx: Transaction, threepid: Threepid) -> list[Job]:
            bound = await tx.associations.find(threepid)
            if bound is not None:
                await self._associations.show(tx, bound, visibility, now_ms=self._clock.now_ms())
            return []

        return await self._change(token, change)

    async def refuse(self, token: str) -> tuple[Visit, Holdings]:
        """Commit that the address is neither bound nor invited from now on; returns what is held afterwards.

        Its binding goes, and so do its invites with their keys, and whatever was under way to prove it. Waiting
        mails of that kind are dropped when they are next tried.

        Raises:
            TokenIncorrect, TokenExpired: as `find`.
        """

        async def change(tx: Transaction, threepid: Threepid) -> list[Job]:
            now_ms = self._clock.now_ms()
            if await tx.refusals.add(threepid, now_ms=now_ms):
                await tx.audit.add(AuditEvent.ADDRESS_REFUSED, now_ms=now_ms, about=(threepid,))
            invites = await tx.invites.list_of(threepid, now_ms=now_ms)
            await tx.invites.remove([invite.id for invite in invites])
            for invite in invites:
                await tx.ephemeral_keys.revoke(invite.public_key)
            await tx.validation_sessions.wipe_of(threepid)
            return await self._associations.release(tx, threepid, now_ms=now_ms)

        return await self._change(token, change)

    async def allow(self, token: str) -> tuple[Visit, Holdings]:
        """Commit that the address may be bound and invited again; returns what is held afterwards.

        Raises:
            TokenIncorrect, TokenExpired: as `find`.
        """

        async def change(tx: Transaction, threepid: Threepid) -> list[Job]:
            if await tx.refusals.remove(threepid):
                now_ms = self._clock.now_ms()
                await tx.audit.add(AuditEvent.ADDRESS_ALLOWED, now_ms=now_ms, about=(threepid,))
            return []

        return await self._change(token, change)

    async def cleanup(self) -> int:
        """Commit the removal of visits that are over; returns how many."""
        now_ms = self._clock.now_ms()
        return await in_batches(self._database, lambda tx, limit: tx.visits.cleanup(now_ms=now_ms, limit=limit))

    async def _change(
        self, token: str, change: Callable[[Transaction, Threepid], Awaitable[list[Job]]]
    ) -> tuple[Visit, Holdings]:
        async def use_case(tx: Transaction) -> tuple[Visit, Holdings, list[Job]]:
            visit, threepid = await self._live(tx, token)
            notices = await change(tx, threepid)
            return visit, await self._holdings(tx, threepid), notices

        # Anybody may come with a token that they made up, and isn't let among those who write.
        await self.find(token)
        visit, holdings, notices = await self._database.transaction(use_case, bulk=True)
        for notice in notices:
            self._outbox.start(notice)
        return visit, holdings

    async def _live(self, tx: Transaction, token: str) -> tuple[Visit, Threepid]:
        visit = await tx.visits.find(token)
        if visit is None:
            raise TokenIncorrect
        return visit, visit.proven_threepid(self._clock.now_ms())

    async def _holdings(self, tx: Transaction, threepid: Threepid) -> Holdings:
        now_ms = self._clock.now_ms()
        return Holdings(
            threepid=threepid,
            at_ms=now_ms,
            association=await tx.associations.find(threepid),
            invites=tuple(await tx.invites.list_of(threepid, now_ms=now_ms)),
            sessions=tuple(await tx.validation_sessions.list_of(threepid, now_ms=now_ms)),
            visits=tuple(await tx.visits.list_of(threepid, now_ms=now_ms)),
            refused_since_ms=await tx.refusals.find(threepid),
        )
