"""Accounts and the access tokens that stand for them."""

from __future__ import annotations

from dataclasses import dataclass

from identity_server.domain.durations import DAY_MS
from identity_server.domain.identifiers import UserId
from identity_server.domain.terms import Terms

ACCESS_TOKEN_BYTES = 32

TOKEN_USE_RESOLUTION_MS = DAY_MS
"""A token's last use is recorded at most once in this time."""


@dataclass(slots=True)
class Account:
    """The account behind an access token, as an authenticated request sees it.

    Attributes:
        token_digest: the digest of the token that was shown.
        token_last_used_at_ms: its last recorded use, exact to a day.
        is_served: whether users of its homeserver may use this server now.
        consents_to: the terms that it is known to have accepted.
    """

    user_id: UserId
    token_digest: bytes
    token_last_used_at_ms: int
    is_served: bool = False
    consents_to: Terms | None = None

    def token_expired(self, *, now_ms: int, lifetime_ms: int) -> bool:
        """Whether the token has gone unused for too long."""
        return now_ms >= self.token_last_used_at_ms + lifetime_ms

    def token_use_is_news(self, *, now_ms: int) -> bool:
        """Whether this use should be recorded."""
        return now_ms >= self.token_last_used_at_ms + TOKEN_USE_RESOLUTION_MS
