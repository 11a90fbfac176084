"""Validation sessions: requested -> validated -> expired (Identity Service API, "Establishing associations").

All times are milliseconds since the epoch; whoever asks brings the time along.
"""

from __future__ import annotations

from dataclasses import dataclass

from identity_server.domain.errors import SessionExpired, SessionNotValidated
from identity_server.domain.identifiers import SessionId, Threepid, UserId

_HOUR_MS = 3_600_000

SESSION_LIFETIME_MS = 24 * _HOUR_MS
"""A session may be validated for 24 h from its creation, and used for 24 h from its validation."""

SESSION_TOMBSTONE_MS = 24 * _HOUR_MS
"""How much longer an expired session can still say that it is expired; its address is gone by then."""

MAIL_TOKEN_LIFETIME_MS = 24 * _HOUR_MS


@dataclass(frozen=True, slots=True)
class ValidationSession:
    """An attempt to prove that someone can read messages sent to an address.

    Attributes:
        threepid: the address; None once the session is over and the address wiped.
        requested_by: the account that asked; None for the unauthenticated v1 API.
        send_attempt: the highest number seen, by which repeats are told from reminders.
        next_link: where the person wants to go after validation.
    """

    sid: SessionId
    threepid: Threepid | None
    requested_by: UserId | None
    send_attempt: int
    next_link: str | None
    created_at_ms: int
    validated_at_ms: int | None

    @property
    def expires_at_ms(self) -> int:
        """The moment from which the session can't be used any more."""
        started = self.created_at_ms if self.validated_at_ms is None else self.validated_at_ms
        return started + SESSION_LIFETIME_MS

    def live_threepid(self, now_ms: int) -> Threepid:
        """The address of a session that isn't over, validated or not.

        Raises:
            SessionExpired: it is over.
        """
        if self.threepid is None or now_ms >= self.expires_at_ms:
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
