"""Proving that someone reads the text messages of a number (Identity Service API, "Phone number associations").

A code is short, since people copy it. So it lives for minutes, only the newest of a session counts, tries are
counted before they are compared, and it is compared slowly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from identity_server.domain.durations import DAY_MS
from identity_server.domain.errors import (
    AddressRefused,
    DestinationRejected,
    InvalidParameter,
    MessageRefused,
    SessionExpired,
    TokenIncorrect,
)
from identity_server.domain.identifiers import ClientSecret, Medium, SessionId, UserId
from identity_server.domain.phone import PhoneNumber, parse_phone_number
from identity_server.domain.ports import Clock, Randomness, TextMessage
from identity_server.domain.random_values import decimal_code, opaque, row_id
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.text_messages import code_message
from identity_server.domain.validation import CODE_LIFETIME_MS, SentCode, ValidationSession
from identity_server.rendering.texts import Texts
from identity_server.services.outbox.port import SMS, Outbox, Outcome
from identity_server.services.outbox.texts import text_to_payload
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
from identity_server.services.validation.slow_codes import SlowCodes
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job

_WRONG_CODES_PER_NUMBER_AND_DAY = 15
_REFERENCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class PhoneRules:
    """What the operator decided about text messages.

    Attributes:
        offered: whether there is anything to send them with.
        rejected_calling_codes: country calling codes that are not served.
        per_number: how many messages one number gets.
        per_calling_code: how many the numbers of one country calling code get.
        code_domain: the host that codes are for, as phones are told.
        open_sessions: sessions of one account, e-mail included, that are neither over nor validated.
    """

    offered: bool
    rejected_calling_codes: frozenset[str]
    per_number: RateLimit
    per_calling_code: RateLimit
    code_domain: str
    code_digits: int
    open_sessions: int = OPEN_SESSIONS

    def message(self, number: PhoneNumber, template: str, *, code: str, reference: str) -> TextMessage:
        """The text that brings a code to a number."""
        return TextMessage(
            to=number.msisdn,
            country_code=number.calling_code,
            body=code_message(template, code=code, domain=self.code_domain),
            reference=reference,
        )


@dataclass(frozen=True, slots=True)
class PhoneRequest:
    """What a client asks for in requestToken, checked for its grammar alone.

    Attributes:
        number: as typed.
        country: the ISO 3166-1 code of the country that it is read in.
        send_attempt: a higher number than before asks for another message.
        next_link: an http(s) URL to go to afterwards.
        languages: language tags wanted for the message, best first.
        brand: the brand wanted for the message.
    """

    number: str = field(repr=False)
    country: str
    client_secret: ClientSecret = field(repr=False)
    send_attempt: int
    next_link: str | None = field(default=None, repr=False)
    languages: tuple[str, ...] = ()
    brand: str | None = None


@dataclass(frozen=True, slots=True)
class _Sending:
    """What a request has written, so that it can be taken back if the message is refused for good."""

    change: SessionChange
    code: SentCode
    job: Job


@dataclass(frozen=True, slots=True)
class _Try:
    """A code that has been counted and may now be compared."""

    sid: SessionId
    hashed: str
    place: bytes


class PhoneValidation:
    """Opens and completes validation sessions of phone numbers.

    Args:
        codes: hashes and compares codes.
        texts: what a message says.
    """

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        codes: SlowCodes,
        rules: PhoneRules,
        texts: Texts,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._codes = codes
        self._rules = rules
        self._texts = texts

    # --- requestToken ---------------------------------------------------------------------

    async def request_code(
        self, request: PhoneRequest, *, requested_by: UserId | None
    ) -> tuple[SessionId, PhoneNumber]:
        """Open a session, or find the one of an earlier request, and text a code if that is due.

        Commits first that the limits are used, so that nobody has us hash for nothing; and then the session, the
        hash of a fresh code in place of the earlier one, and the message as a job. Waits a few seconds for the
        first attempt to send it. If it is refused for good, what this request wrote is taken back, limits aside.

        Args:
            request: what the client asks for.
            requested_by: the account; None for the unauthenticated v1 API.

        Raises:
            InvalidAddress: the number can't be a phone number.
            DestinationRejected: numbers of this country aren't served.
            RateLimited: a limit of this account, of the number or of its country is used up.
            AddressRefused: the owner of the number wants nothing of this server; to be told so counts like a text.
            MessageRefused: the message was refused, or there is nothing to send it with.
        """
        number = parse_phone_number(request.number, request.country)
        if not self._rules.offered:
            raise MessageRefused("This server does not send text messages.")
        if number.calling_code in self._rules.rejected_calling_codes:
            raise DestinationRejected
        asked = SessionRequest(
            threepid=number.threepid,
            client_secret=request.client_secret,
            requested_by=requested_by,
            send_attempt=request.send_attempt,
            next_link=request.next_link,
        )
        session, is_refused = await self._database.transaction(lambda tx: self._admit(tx, asked, number))
        if is_refused:
            raise AddressRefused
        if session is not None and asked.repeats(session):
            return session.sid, number
        sid = new_session_id(self._randomness) if session is None else session.sid
        template = self._texts.validation(request.languages, request.brand)
        sent = await self._write_code(asked, number, template, sid=sid)
        if isinstance(sent, ValidationSession):
            return sent.sid, number
        if await self._outbox.attempt(sent.job) is Outcome.REFUSED:
            await self._database.transaction(lambda tx: _take_back(tx, sent))
            raise MessageRefused
        return sent.change.session.sid, number

    async def _admit(
        self, tx: Transaction, asked: SessionRequest, number: PhoneNumber
    ) -> tuple[ValidationSession | None, bool]:
        """The session that there is, and whether the number is refused.

        Uses up limits unless the request only repeats an earlier one.
        """
        now_ms = self._clock.now_ms()
        session = await find_session(tx, asked, now_ms=now_ms)
        if session is not None and asked.repeats(session):
            return session, False
        if session is None:
            await require_room(tx, asked.requested_by, limit=self._rules.open_sessions, now_ms=now_ms)
        limits = tx.rate_limits
        await limits.take("text message", number.msisdn, self._rules.per_number, now_ms=now_ms)
        if await tx.refusals.find(number.threepid) is not None:
            # Returned, not raised: the call has to be counted, or asking for one number after another is free.
            return None, True
        await limits.take("text messages", number.calling_code, self._rules.per_calling_code, now_ms=now_ms)
        return session, False

    async def _write_code(
        self, asked: SessionRequest, number: PhoneNumber, template: str, *, sid: SessionId
    ) -> _Sending | ValidationSession:
        """Write session, code and message; or the session of a request that came first and asked for as much."""
        code = decimal_code(self._randomness, self._rules.code_digits)
        reference = opaque(self._randomness, _REFERENCE_BYTES)
        message = self._rules.message(number, template, code=code, reference=reference)
        while True:
            # A hash is made for one session. Should another request have opened or replaced it in the meantime,
            # a new hash is due; each round means that somebody else got on.
            hashed = await self._codes.hash(sid, code)
            write = partial(self._write, asked=asked, message=message, sid=sid, hashed=hashed)
            written = await self._database.transaction(write)
            if not isinstance(written, ValidationSession) or asked.repeats(written):
                return written
            sid = written.sid

    async def _write(
        self, tx: Transaction, *, asked: SessionRequest, message: TextMessage, sid: SessionId, hashed: str
    ) -> _Sending | ValidationSession:
        now_ms = self._clock.now_ms()
        before = await find_session(tx, asked, now_ms=now_ms)
        if before is not None and (before.sid != sid or asked.repeats(before)):
            return before
        code = SentCode(hashed, expires_at_ms=now_ms + CODE_LIFETIME_MS)
        change = await put_session(tx, asked, before, new_sid=sid, now_ms=now_ms)
        await tx.validation_sessions.put_code(sid, code)
        job = await tx.jobs.add_claimed(
            row_id(self._randomness), SMS, text_to_payload(message), now_ms=now_ms, expires_at_ms=code.expires_at_ms
        )
        return _Sending(change, code, job)

    # --- submitToken ----------------------------------------------------------------------

    async def submit_code(self, *, sid: SessionId, client_secret: ClientSecret, code: str) -> ValidationSession:
        """Complete a session by the code that was texted last; doing so again succeeds again.

        Commits that one of the session's tries is used, then compares, and commits the validation if the code is
        right; a right one costs no try.

        Raises:
            InvalidParameter: there is no such session.
            SessionExpired: it is over, or its tries are used up.
            TokenIncorrect: the code is wrong, is not the newest, or is over; another can be asked for.
            RateLimited: too many wrong codes were tried for this number today, whoever tried them.
        """
        now_ms = self._clock.now_ms()
        counted = await self._database.transaction(lambda tx: self._count_try(tx, sid, client_secret, now_ms))
        if not await self._codes.matches(counted.hashed, sid, code):
            raise TokenIncorrect
        return await self._database.transaction(lambda tx: _accept(tx, counted, now_ms))

    async def _count_try(self, tx: Transaction, sid: SessionId, client_secret: ClientSecret, now_ms: int) -> _Try:
        session = await tx.validation_sessions.lookup(sid, client_secret)
        if session is None or (session.threepid is not None and session.threepid.medium is not Medium.MSISDN):
            raise InvalidParameter("No validation session was found for this sid and client_secret.")
        threepid = session.live_threepid(now_ms)
        # A code that has done its work stays good for as long as its session, so that a repeat succeeds.
        if session.code is None or (session.validated_at_ms is None and now_ms >= session.code.expires_at_ms):
            raise TokenIncorrect("This code is no longer valid; ask for another.")
        if not await tx.validation_sessions.count_try(sid):
            # Only of a session that was validated before: with no try left, others are over.
            raise TokenIncorrect
        place = await tx.rate_limits.take_place(
            "wrong code",
            threepid.address,
            places=_WRONG_CODES_PER_NUMBER_AND_DAY,
            window_ms=DAY_MS,
            now_ms=now_ms,
        )
        return _Try(sid, session.code.hashed, place)


async def _accept(tx: Transaction, right: _Try, now_ms: int) -> ValidationSession:
    session = await tx.validation_sessions.lookup_by_id(right.sid)
    if session is None or session.threepid is None or now_ms >= session.expires_at_ms:
        raise SessionExpired
    if session.code is None or session.code.hashed != right.hashed:
        # Another was sent while this one was compared.
        raise TokenIncorrect
    await tx.validation_sessions.forget_try(right.sid)
    await tx.rate_limits.give_back(right.place)
    return await mark_validated(tx, session, now_ms=now_ms)


async def _take_back(tx: Transaction, sending: _Sending) -> None:
    """Undo a request whose message was refused; a session that stood before has its code again."""
    if await take_back(tx, sending.change) and sending.change.before is not None:
        await tx.validation_sessions.put_code(sending.change.session.sid, sending.change.before.code)
