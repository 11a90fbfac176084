"""What is held about a Matrix ID: what whoever it belongs to may take along."""

from __future__ import annotations

from dataclasses import dataclass

from identity_server.domain.association import Association
from identity_server.domain.audit import AuditEntry
from identity_server.domain.identifiers import UserId
from identity_server.domain.invite import Invite
from identity_server.domain.terms import Acceptance
from identity_server.domain.validation import ValidationSession


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """What can be told of an access token.

    Attributes:
        created_at_ms: when it was given out.
        last_used_at_ms: its last recorded use, exact to a day.
    """

    created_at_ms: int
    last_used_at_ms: int


@dataclass(frozen=True, slots=True)
class SearchCount:
    """How much an account has searched for under one pepper.

    Attributes:
        since_ms: when that pepper was made.
        addresses: so many at most; with what was set aside for it and not used.
    """

    since_ms: int
    addresses: int


@dataclass(frozen=True, slots=True)
class AccountHoldings:
    """Everything that is stored under one Matrix ID, and nothing that is stored under another.

    Attributes:
        at_ms: when it was read.
        created_at_ms: since when there is an account; None if there is none.
        agreed_master_version: of a Sydent terms file, if any.
        tokens: of the account's apps.
        accepted: what it has agreed to, with the times.
        associations: the addresses that are bound to it.
        sessions: in which it is proving addresses, those included that are over and have lost theirs.
        invites_sent: by it.
        invites_received: by the addresses that are bound to it.
        searches: how much it has searched for, by pepper.
        audit: entries of the journal that are about it, with their numbers; None for one that isn't linked yet.
    """

    user_id: UserId
    at_ms: int
    created_at_ms: int | None
    agreed_master_version: str | None
    tokens: tuple[TokenTimes, ...]
    accepted: tuple[tuple[Acceptance, int], ...]
    associations: tuple[Association, ...]
    sessions: tuple[ValidationSession, ...]
    invites_sent: tuple[Invite, ...]
    invites_received: tuple[Invite, ...]
    searches: tuple[SearchCount, ...]
    audit: tuple[tuple[int | None, AuditEntry], ...]

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is held about it: the journal's entries name no one, and stay when somebody is erased."""
        lists = (self.tokens, self.associations, self.sessions, self.invites_sent)
        return self.created_at_ms is None and not any(lists)
