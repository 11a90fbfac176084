"""An association: the public statement that a Matrix ID can be reached at an address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from identity_server.domain.identifiers import Threepid, UserId

ASSOCIATION_LIFETIME_MS = 100 * 365 * 24 * 3_600_000
"""How long an association is said to be valid: 100 years, as every client has met so far."""


@dataclass(frozen=True, slots=True)
class Association:
    """A binding of an address to a Matrix ID; at most one lives per address.

    Attributes:
        ts: when it was made, in milliseconds since the epoch.
        not_before: the first moment in which it holds.
        not_after: the first moment in which it doesn't hold any more.
    """

    threepid: Threepid
    user_id: UserId
    ts: int
    not_before: int
    not_after: int

    @classmethod
    def starting(cls, now_ms: int, *, threepid: Threepid, user_id: UserId) -> Association:
        """A new association that holds from this very moment."""
        return cls(
            threepid=threepid,
            user_id=user_id,
            ts=now_ms,
            not_before=now_ms,
            not_after=now_ms + ASSOCIATION_LIFETIME_MS,
        )

    def to_wire(self) -> dict[str, Any]:
        """The object that is signed and sent (POST 3pid/bind)."""
        return {
            "medium": self.threepid.medium.value,
            "address": self.threepid.address,
            "mxid": self.user_id,
            "ts": self.ts,
            "not_before": self.not_before,
            "not_after": self.not_after,
        }
