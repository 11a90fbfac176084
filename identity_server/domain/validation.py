"""Validation sessions: requested -> validated -> expired (Identity Service API, "Establishing associations").

All times are milliseconds since the epoch; whoever asks brings the time along.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from identity_server.domain.durations import HOUR_MS, MINUTE_MS
from identity_server.domain.errors import SessionExpired, SessionNotValidated
from identity_server.domain.identifiers import SessionId, Threepid, UserId

SESSION_LIFETIME_MS = 24 * HOUR_MS
"""A session may be validated for 24 h from its creation, and used for 24 h from its validation."""

SESSION_TOMBSTONE_MS = 24 * HOUR_MS
"""How much longer an expired session can still say that it is expired; its address is gone by then."""

MAIL_TOKEN_LIFETIME_MS = 24 * HOUR_MS

CODE_LIFETIME_MS = 10 * MINUTE_MS
"""How long the code of a text message is good for."""

CODE_TRIES = 5
"""How many wrong codes end a session, whatever codes were sent for it."""


@dataclass(frozen=True, slots=True)
class SentCode:
    """The code of the newest text message of a session; earlier ones count no more.

    Attributes:
        hashed: as `domain/credentials.py` makes it.
    """

    hashed: str = field(repr=False)
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class ValidationSession:
    """An attempt to prove that someone can read messages sent to an address.

    Attributes:
        threepid: the address; None once the session is over and the address wiped.
        requested_by: the account that asked; None for the unauthenticated v1 API.
        send_attempt: the highest number seen, by which repeats are told from reminders.
        next_link: where the person wants to go after validation.
        code: of a phone session, what was sent last.
        code_tries: how often a code was tried, right ones aside; counted before it is compared.
    """

    sid: SessionId
    threepid: Threepid | None
    requested_by: UserId | None
    send_attempt: int
    next_link: str | None
    created_at_ms: int
    validated_at_ms: int | None
    code: SentCode | None = None
    code_tries: int = 0

    @property
    def expires_at_ms(self) -> int:
        """The moment from which the session can't be used any more."""
        started = self.created_at_ms if self.validated_at_ms is None else self.validated_at_ms
        return started + SESSION_LIFETIME_MS

    def is_over(self, now_ms: int) -> bool:
        """Whether its time is up, or its tries are used up without a right one."""
        used_up = self.validated_at_ms is None and self.code_tries >= CODE_TRIES
        return used_up or now_ms >= self.expires_at_ms

    def live_threepid(self, now_ms: int) -> Threepid:
        """The address of a session that isn't over, validated or not.

        Raises:
            SessionExpired: it is over.
        """
        if self.threepid is None or self.is_over(now_ms):
            raise SessionExpired
        return self.threepid

    def validated_threepid(self, now_ms: int) -> tuple[Threepid, int]:
        """The proven address and the time of the proof.

        Raises:
            SessionExpired: the session is over.
            SessionNotValidated: the address hasn't been proven yet.
        """
        threepid = self.live_threepid(now_ms)
        if self.validated_at_ms is None:
            raise SessionNotValidated
        return threepid, self.validated_at_ms
