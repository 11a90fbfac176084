"""How visits to the privacy page begin for phone numbers: a code goes to the number, the token stays in the browser.

The rules of services/privacy/visits.py hold here, too. A text costs its sender money and anybody may ask for one, so there
are few of them, whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from identity_server.domain.durations import DAY_MS, HOUR_MS
from identity_server.domain.errors import (
    DestinationRejected,
    MessageRefused,
    RateLimited,
    TokenExpired,
    TokenIncorrect,
)
from identity_server.domain.phone import PhoneNumber, parse_phone_number
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.random_values import decimal_code, opaque, row_id
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.validation import CODE_LIFETIME_MS
from identity_server.domain.visit import Visit
from identity_server.rendering.texts import Texts
from identity_server.services.client_limits import ClientLimits
from identity_server.services.outbox.port import SMS, Outbox
from identity_server.services.outbox.texts import text_to_payload
from identity_server.services.validation.phone import PhoneRules
from identity_server.services.validation.slow_codes import SlowCodes
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job
from identity_server.storage.sealing.sealer import token_digest

_TOKEN_BYTES = 32
_REFERENCE_BYTES = 16
_WRONG_CODES_PER_NUMBER_AND_DAY = 15
_PER_NETWORK = RateLimit(burst=3, interval_ms=HOUR_MS)


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What somebody asks for on the page, before anything is checked.

    Attributes:
        number: as typed; with its country code.
        languages: language tags wanted for the message, best first.
    """

    number: str = field(repr=False)
    client_network: str
    languages: tuple[str, ...] = ()
    brand: str | None = None


@dataclass(frozen=True, slots=True)
class TextedVisit:
    """A visit that waits for its code.

    Attributes:
        token: of the visit; it opens nothing before the code has been entered.
        number: as people write it.
    """

    token: str = field(repr=False)
    number: str = field(repr=False)


class PhoneVisits:
    """Opens visits by texting a code.

    Args:
        rules: of all text messages; these may use up half of what a number and a country get at once.
        per_day: how many texts of this kind are sent in a day, to whomever; None for none at all.
        network_limits: how many visits one client network may ask for; shared with those by mail.
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
        rules: PhoneRules,
        per_day: RateLimit | None,
        network_limits: ClientLimits,
        codes: SlowCodes,
        texts: Texts,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._rules = rules
        self._per_day = per_day if rules.offered else None
        self._network_limits = network_limits
        self._codes = codes
        self._texts = texts

    @property
    def is_offered(self) -> bool:
        """Whether numbers can be entered at all."""
        return self._per_day is not None

    async def ask(self, request: TextRequest) -> TextedVisit:
        """Open a visit, and text its code to the number: whether anything is held about it or not.

        Commits that the limits are used; then the visit and the text as a job, which is started and not waited for.
        Where a limit of the number, its country or the day is used up, nothing is sent, and the answer is the same: to
        this, and to whatever code is entered.

        Raises:
            InvalidAddress: the number can't be a phone number, or lacks its country code.
            DestinationRejected: numbers of this country aren't served.
            MessageRefused: no number is.
            RateLimited: this network has asked too often.
        """
        number = parse_phone_number(request.number)
        if self._per_day is None:
            raise MessageRefused
        if number.calling_code in self._rules.rejected_calling_codes:
            raise DestinationRejected
        token, per_day = opaque(self._randomness, _TOKEN_BYTES), self._per_day
        async with self._network_limits.admit(request.client_network):
            may_send = await self._database.transaction(
                lambda tx: self._admit(tx, number, request.client_network, per_day)
            )
        job = await self._write(request, number, token, is_sent=may_send)
        if job is not None:
            self._outbox.start(job)
        return TextedVisit(token=token, number=number.international)

    async def _admit(self, tx: Transaction, number: PhoneNumber, network: str, per_day: RateLimit) -> bool:
        limits, rules, now_ms = tx.rate_limits, self._rules, self._clock.now_ms()
        await limits.take("visit text", network, _PER_NETWORK, now_ms=now_ms)
        try:
            await limits.take("text message", number.msisdn, _half_of(rules.per_number), now_ms=now_ms)
            await limits.take("text messages", number.calling_code, _half_of(rules.per_calling_code), now_ms=now_ms)
            await limits.take("visit texts", "all", per_day, now_ms=now_ms)
        except RateLimited:
            return False
        return True

    async def _write(self, request: TextRequest, number: PhoneNumber, token: str, *, is_sent: bool) -> Job | None:
        code = decimal_code(self._randomness, self._rules.code_digits)
        code_hash = await self._codes.hash(_owner(token), code)
        template = self._texts.visit(request.languages, request.brand)
        reference = opaque(self._randomness, _REFERENCE_BYTES)
        message = self._rules.message(number, template, code=code, reference=reference)
        now_ms = self._clock.now_ms()
        visit = Visit.by_text(number.threepid, code_hash=code_hash, now_ms=now_ms)

        async def use_case(tx: Transaction) -> Job | None:
            await tx.visits.add(visit, token)
            if not is_sent:
                return None
            return await tx.jobs.add_claimed(
                row_id(self._randomness),
                SMS,
                text_to_payload(message),
                now_ms=now_ms,
                expires_at_ms=now_ms + CODE_LIFETIME_MS,
            )

        return await self._database.transaction(use_case)

    async def prove(self, token: str, code: str) -> None:
        """Commit that whoever shows this token reads what is texted to the number; doing so again succeeds again.

        Commits first that a try is used, and compares then; a right one costs the number no try.

        Raises:
            TokenIncorrect: the code is wrong; another try may be left.
            TokenExpired: there is no such visit, or it, its code or its tries are over.
            RateLimited: too many wrong codes were tried for this number today, whoever tried them.
        """
        counted = await self._database.transaction(lambda tx: self._count_try(tx, token))
        if counted is None:
            return
        code_hash, place = counted
        if not await self._codes.matches(code_hash, _owner(token), code):
            raise TokenIncorrect

        async def use_case(tx: Transaction) -> None:
            await tx.visits.prove(token, code_hash=code_hash)
            await tx.rate_limits.give_back(place)

        await self._database.transaction(use_case)

    async def _count_try(self, tx: Transaction, token: str) -> tuple[str, bytes] | None:
        """The hash to compare with, and the place that the try has taken; None if there is nothing left to prove."""
        now_ms = self._clock.now_ms()
        visit = await tx.visits.find(token)
        if visit is None or now_ms >= visit.expires_at_ms:
            raise TokenExpired
        if visit.is_proven:
            return None
        code_hash = visit.sent_code(now_ms)
        if not await tx.visits.count_try(token):
            raise TokenExpired
        place = await tx.rate_limits.take_place(
            "wrong visit code",
            visit.threepid.address,
            places=_WRONG_CODES_PER_NUMBER_AND_DAY,
            window_ms=DAY_MS,
            now_ms=now_ms,
        )
        return code_hash, place


def _owner(token: str) -> str:
    """What a code's hash is bound to: not the token itself, which only its holder has."""
    return token_digest(token).hex()


def _half_of(limit: RateLimit) -> RateLimit:
    """Counted with all others, and less than all: whoever asks here too often locks nobody out elsewhere."""
    return replace(limit, burst=max(limit.burst // 2, 1))
