"""An association: the public statement that a Matrix ID can be reached at an address."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from identity_server.domain.durations import DAY_MS
from identity_server.domain.identifiers import Threepid, UserId, server_of

ASSOCIATION_LIFETIME_MS = 100 * 365 * DAY_MS
"""How long an association is said to be valid: 100 years, as every client has met so far."""


class Visibility(StrEnum):
    """Who is told, when they ask for an address, whose it is. Whoever it belongs to always is."""

    EVERYONE = "everyone"
    HOMESERVER = "homeserver"
    """Users of the homeserver that the Matrix ID belongs to."""
    NOBODY = "nobody"
    """Invites still get there."""

    def shows(self, user_id: UserId, *, asker: UserId | None) -> bool:
        """Whether somebody may know that the address belongs to a Matrix ID; None asks without an account."""
        if self is Visibility.EVERYONE:
            return True
        if asker is None:
            return False
        return asker == user_id or (self is Visibility.HOMESERVER and server_of(asker) == server_of(user_id))


@dataclass(frozen=True, slots=True)
class Association:
    """A binding of an address to a Matrix ID; at most one lives per address.

    Attributes:
        ts: when it was made, in milliseconds since the epoch.
        not_before: the first moment in which it holds.
        not_after: the first moment in which it doesn't hold any more.
        visibility: who may know of it. It is between its owner and this server: no part of what is signed.
    """

    threepid: Threepid
    user_id: UserId
    ts: int
    not_before: int
    not_after: int
    visibility: Visibility

    @classmethod
    def starting(
        cls,
        now_ms: int,
        *,
        threepid: Threepid,
        user_id: UserId,
        visibility: Visibility = Visibility.EVERYONE,
        not_after: int | None = None,
    ) -> Association:
        """A new association that holds from this very moment, by default for as long as clients are used to."""
        return cls(
            threepid=threepid,
            user_id=user_id,
            ts=now_ms,
            not_before=now_ms,
            not_after=now_ms + ASSOCIATION_LIFETIME_MS if not_after is None else not_after,
            visibility=visibility,
        )

    def holds(self, now_ms: int) -> bool:
        """Whether this is its time."""
        return self.not_before <= now_ms and not self.is_over(now_ms)

    def is_over(self, now_ms: int) -> bool:
        """Whether its time is past."""
        return now_ms >= self.not_after

    def is_shown_to(self, asker: UserId | None) -> bool:
        """Whether somebody may know of it; None asks without an account."""
        return self.visibility.shows(self.user_id, asker=asker)

    def succeeding(self, user_id: UserId, visibility: Visibility) -> Association:
        """The same in the place of an earlier one: who has decided to be hidden stays so, whoever comes after doesn't."""
        return replace(self, visibility=visibility) if user_id == self.user_id else self

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
