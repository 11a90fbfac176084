"""Proving that someone reads an address (Identity Service API, "Establishing associations")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from identity_server.domain.durations import DAY_MS
from identity_server.domain.errors import (
    AddressRefused,
    EmailRefused,
    InvalidParameter,
    NoSuchSession,
    RateLimited,
    SessionExpired,
    TokenExpired,
    TokenIncorrect,
)
from identity_server.domain.identifiers import (
    ClientSecret,
    Medium,
    SessionId,
    Threepid,
    UserId,
    canonical_email,
)
from identity_server.domain.ports import Clock, MailTemplates, Randomness
from identity_server.domain.random_values import opaque
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.validation import MAIL_TOKEN_LIFETIME_MS, ValidationSession
from identity_server.services.limits import take_of_mailbox
from identity_server.services.outbox.mails import MailJobs
from identity_server.services.outbox.port import Outbox, Outcome
from identity_server.services.sweeping import in_batches
from identity_server.services.validation.sessions import (
    OPEN_SESSIONS,
    SessionChange,
    SessionRequest,
    find_session,
    mark_validated,
    new_session_id,
    put_session,
    require_room,
    take_back,
)
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job
from identity_server.storage.sealing.sealer import token_digest

_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class ValidationLimits:
    """How many validation mails may be asked for.

    Attributes:
        per_sender: by one account, to whatever addresses.
        per_address_and_sender: to one address, by one account, in 24 h.
        per_address: to one address, by all accounts, in 24 h.
        per_mailbox: to one mailbox under all its addresses (`name+anything@host`); shared with invites and notices.
        share_of_mailbox: what of that one account may use up; shared with its invites.
        open_sessions: sessions of one account that are neither over nor validated.
    """

    per_sender: RateLimit
    per_address_and_sender: int
    per_address: int
    per_mailbox: RateLimit
    share_of_mailbox: RateLimit
    open_sessions: int = OPEN_SESSIONS


@dataclass(frozen=True, slots=True)
class EmailRequest:
    """What a client asks for in requestToken, checked for its grammar alone.

    Attributes:
        send_attempt: a higher number than before asks for another mail.
        next_link: an http(s) URL to go to afterwards.
        languages: language tags wanted for the mail, best first.
        brand: the brand wanted for the mail.
        client_address: where the request came from; some templates of Sydent's show it.
        client_network: what counts against the limits where no account asks (v1).
    """

    email: str = field(repr=False)
    client_secret: ClientSecret = field(repr=False)
    send_attempt: int
    next_link: str | None = field(default=None, repr=False)
    languages: tuple[str, ...] = ()
    brand: str | None = None
    client_address: str = field(default="", repr=False)
    client_network: str = "local"


@dataclass(frozen=True, slots=True)
class _Sending:
    """What a request has written, so that it can be taken back if the mail is refused for good."""

    change: SessionChange
    digest: bytes
    job: Job


class Validation:
    """Opens, completes and reports validation sessions.

    Args:
        mails_repeats: whether a request whose `send_attempt` isn't higher than before is mailed again nevertheless.
        confirm_link: makes the link of our own mails from a token and the brand that was asked for, if any.
        submit_link: makes the link of mails in Sydent's form from a session, its client secret and a token.
        mail_templates: says which of the two a mail shows.
    """

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        mail_jobs: MailJobs,
        limits: ValidationLimits,
        mails_repeats: bool,
        confirm_link: Callable[[str, str | None], str],
        submit_link: Callable[[SessionId, ClientSecret, str], str],
        mail_templates: MailTemplates,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._mail_jobs = mail_jobs
        self._limits = limits
        self._mails_repeats = mails_repeats
        self._confirm_link = confirm_link
        self._submit_link = submit_link
        self._mail_templates = mail_templates

    # --- requestToken ---------------------------------------------------------------------

    async def request_email_token(self, request: EmailRequest, *, requested_by: UserId | None) -> SessionId:
        """Open a session, or find the one of an earlier request, and mail a token if that is due.

        Commits the session, the digest of a fresh token and the mail as a job; then waits a few seconds for
        the first attempt to deliver it. If the relay refuses for good, what this request wrote is taken back.

        Raises:
            InvalidEmail: the address can't be an e-mail address.
            RateLimited: a limit of this account or of the address is used up.
            AddressRefused: its owner wants nothing of this server; to be told so counts like a mail.
            EmailRefused: the relay refused the mail.
        """
        threepid = Threepid(Medium.EMAIL, canonical_email(request.email))
        asked = SessionRequest(
            threepid=threepid,
            client_secret=request.client_secret,
            requested_by=requested_by,
            send_attempt=request.send_attempt,
            next_link=request.next_link,
        )
        new_sid = new_session_id(self._randomness)
        token = opaque(self._randomness, _TOKEN_BYTES)
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> ValidationSession | _Sending | None:
            before = await find_session(tx, asked, now_ms=now_ms)
            if before is not None and asked.repeats(before) and not self._mails_repeats:
                return before
            if not await self._admit(tx, request, threepid, requested_by, now_ms, opens=before is None):
                # Returned, not raised: the call has to be counted, or asking for one address after another is free.
                return None
            change = await put_session(tx, asked, before, new_sid=new_sid, now_ms=now_ms)
            expires_at_ms = now_ms + MAIL_TOKEN_LIFETIME_MS
            digest = token_digest(token)
            sid = change.session.sid
            await tx.validation_sessions.add_token(sid, digest, now_ms=now_ms, expires_at_ms=expires_at_ms)
            job = await self._mail_jobs.add(
                tx,
                "verification",
                threepid,
                self._shown(request, change.session, token, expires_at_ms=expires_at_ms),
                language=request.languages,
                brand=request.brand,
                now_ms=now_ms,
                expires_at_ms=expires_at_ms,
            )
            return _Sending(change=change, digest=digest, job=job)

        result = await self._database.transaction(use_case)
        if result is None:
            raise AddressRefused
        if isinstance(result, ValidationSession):
            return result.sid
        if await self._outbox.attempt(result.job) is Outcome.REFUSED:
            await self._database.transaction(lambda tx: _take_back(tx, result))
            raise EmailRefused
        return result.change.session.sid

    async def _admit(
        self,
        tx: Transaction,
        request: EmailRequest,
        threepid: Threepid,
        requested_by: UserId | None,
        now_ms: int,
        *,
        opens: bool,
    ) -> bool:
        """Use up what the request costs; False if the address is refused, and so costs its mailbox nothing."""
        sessions, limits = tx.validation_sessions, self._limits
        since_ms = now_ms - DAY_MS
        if opens:
            await require_room(tx, requested_by, limit=limits.open_sessions, now_ms=now_ms)
        too_many = await sessions.count_tokens(threepid, since_ms=since_ms) >= limits.per_address
        if requested_by is not None:
            by_sender = await sessions.count_tokens(threepid, since_ms=since_ms, requested_by=requested_by)
            too_many = too_many or by_sender >= limits.per_address_and_sender
        if too_many:
            raise RateLimited(DAY_MS, "Too many mails to this address; try again later.", limit="mails to address")
        sender = requested_by or request.client_network
        await tx.rate_limits.take("validation mail", sender, limits.per_sender, now_ms=now_ms)
        if await tx.refusals.find(threepid) is not None:
            return False
        share, whole = limits.share_of_mailbox, limits.per_mailbox
        await take_of_mailbox(tx, threepid.address, sender=sender, share=share, whole=whole, now_ms=now_ms)
        return True

    def _shown(
        self, request: EmailRequest, session: ValidationSession, token: str, *, expires_at_ms: int
    ) -> dict[str, str]:
        """What the mail shows."""
        assert session.threepid is not None, "a session that has just been asked for has its address"
        return {
            "address": session.threepid.address,
            "user_id": session.requested_by or "",
            "token": token,
            "confirm_url": self._confirm_link(token, request.brand),
            "expires_at_ms": str(expires_at_ms),
            **self._shown_by_sydents_templates(request, session.sid, token),
        }

    def _shown_by_sydents_templates(self, request: EmailRequest, sid: SessionId, token: str) -> dict[str, str]:
        """Further values, only where the brand's template shows them.

        The link is a capability (whoever has it can bind the address), and the address is personal data: a job
        has no business with either unless the operator's template asks for it.
        """
        values = {
            "link": self._submit_link(sid, request.client_secret, token),
            "ipaddress": request.client_address or "an unknown place",
        }
        shows = self._mail_templates.shows
        return {name: value for name, value in values.items() if shows("verification", request.brand, name)}

    # --- submitToken ----------------------------------------------------------------------

    async def submit_token(
        self, *, medium: Medium, sid: SessionId, client_secret: ClientSecret, token: str
    ) -> ValidationSession:
        """Complete a session by the token that was sent for it; doing so again succeeds again.

        Commits the validation.

        Raises:
            InvalidParameter: there is no such session.
            SessionExpired: it is over.
            TokenIncorrect: the token isn't one of this session, or is over.
        """
        now_ms = self._clock.now_ms()

        async def use_case(tx: Transaction) -> ValidationSession:
            session = await tx.validation_sessions.lookup(sid, client_secret)
            if session is None or (session.threepid is not None and session.threepid.medium is not medium):
                raise InvalidParameter("No validation session was found for this sid and client_secret.")
            session.live_threepid(now_ms)
            found = await tx.validation_sessions.find_by_token(token_digest(token), sid=sid)
            if found is None or now_ms >= found[1]:
                raise TokenIncorrect
            return await mark_validated(tx, session, now_ms=now_ms)

        return await self._database.transaction(use_case)

    async def find_by_token(self, token: str) -> ValidationSession:
        """The live session behind a mailed link, for the page that asks for a confirmation.

        Raises:
            TokenIncorrect: the link isn't one of ours, or its session is gone.
            TokenExpired: the link is over.
        """
        return await self._database.read(lambda tx: self._live_by_token(tx, token))

    async def confirm(self, token: str) -> ValidationSession:
        """Complete the session behind a mailed link. Commits the validation.

        Raises:
            TokenIncorrect, TokenExpired: as `find_by_token`.
        """

        async def use_case(tx: Transaction) -> ValidationSession:
            session = await self._live_by_token(tx, token)
            return await mark_validated(tx, session, now_ms=self._clock.now_ms())

        return await self._database.transaction(use_case)

    async def _live_by_token(self, tx: Transaction, token: str) -> ValidationSession:
        now_ms = self._clock.now_ms()
        found = await tx.validation_sessions.find_by_token(token_digest(token))
        if found is None:
            raise TokenIncorrect
        session, token_expires_at_ms = found
        try:
            session.live_threepid(now_ms)
        except SessionExpired:
            raise TokenExpired from None
        # A link that has done its work stays good for as long as its session: mail scanners follow it first.
        if now_ms >= token_expires_at_ms and session.validated_at_ms is None:
            raise TokenExpired
        return session

    # --- getValidated3pid -----------------------------------------------------------------

    async def validated_threepid(self, *, sid: SessionId, client_secret: ClientSecret) -> tuple[Threepid, int]:
        """The proven address of a session, and the time of the proof in milliseconds.

        Raises:
            NoSuchSession, SessionExpired, SessionNotValidated: as they say.
        """
        session = await self._database.read(lambda tx: tx.validation_sessions.lookup(sid, client_secret))
        if session is None:
            raise NoSuchSession
        return session.validated_threepid(self._clock.now_ms())

    async def cleanup(self) -> int:
        """Commit the removal of what is over: tokens, addresses of sessions, sessions; returns how many."""
        now_ms = self._clock.now_ms()
        return await in_batches(
            self._database, lambda tx, limit: tx.validation_sessions.cleanup(now_ms=now_ms, limit=limit)
        )


async def _take_back(tx: Transaction, sending: _Sending) -> None:
    await tx.validation_sessions.remove_token(sending.digest)
    await take_back(tx, sending.change)
