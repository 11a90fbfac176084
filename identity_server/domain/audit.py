"""The journal of what was done to bindings and by operators: its events, and what an entry says.

The rule: an entry names no one. Whom it is about is kept as keyed digests that differ from entry to entry, so whoever
holds the root key can ask whether an entry is about somebody they name, and nobody can read out of it who that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from identity_server.domain.identifiers import ServerName, Threepid, UserId

Subject = Threepid | UserId | ServerName
"""Whom an entry can be about."""


class AuditEvent(StrEnum):
    """What can be in the journal. A value is part of every entry's hash: it never changes, nor gets another meaning."""

    BOUND = "bound"
    """An address was bound to a Matrix ID."""
    BOUND_BY_OPERATOR = "bound_by_operator"
    """The same without a proof, because the operator's own systems said so."""
    UNBOUND = "unbound"
    """A binding was removed by whoever had proved the address."""
    UNBOUND_BY_HOMESERVER = "unbound_by_homeserver"
    """A binding was removed by the homeserver of its Matrix ID."""
    UNBOUND_BY_OPERATOR = "unbound_by_operator"
    """A binding was removed because the operator's own systems said so."""
    REPLACED = "replaced"
    """A binding ended because its address was bound to another Matrix ID."""
    VISIBILITY_CHANGED = "visibility_changed"
    """Who finds a binding was changed."""
    ADDRESS_REFUSED = "address_refused"
    """The owner of an address asked that it be never bound or invited here."""
    ADDRESS_ALLOWED = "address_allowed"
    """The owner of an address took that back."""
    NOTICE_GIVEN_UP = "notice_given_up"
    """A homeserver was never told of a binding."""

    ACCOUNT_ERASED = "account_erased"
    """Everything about a Matrix ID was removed."""
    ACCOUNT_ERASED_BY_HOMESERVER = "account_erased_by_homeserver"
    """The same, because the homeserver of the Matrix ID wanted it."""
    ASSOCIATION_ERASED = "association_erased"
    """Everything about an address was removed."""
    HOMESERVER_ERASED = "homeserver_erased"
    """Everything about the users of a homeserver was removed."""
    SWEPT = "swept"
    """Bindings or accounts that may no longer be here were removed in bulk."""
    ACCOUNT_EXPORTED = "account_exported"
    """Everything about a Matrix ID was written to a file."""

    PEPPER_ROTATED = "pepper_rotated"
    """Lookups have a new pepper."""
    ROOT_KEY_ROTATED = "root_key_rotated"
    """What is at rest is sealed by a new root key."""
    IMPORTED = "imported"
    """Bindings were taken over from Sydent."""
    EXPORTED_TO_SYDENT = "exported_to_sydent"
    """All bindings were written to a database of Sydent's, readable."""
    INVITE_REVOKED = "invite_revoked"
    """An operator ended an invite."""
    INVITE_RESENT = "invite_resent"
    """An operator had the mail of an invite sent again."""
    JOBS_RETRIED = "jobs_retried"
    """An operator had what waited tried before its time."""
    JOURNAL_RESTARTED = "journal_restarted"
    """An operator had the journal begin anew, after something was wrong with it."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry.

    Attributes:
        salt: random, and of this entry alone; what makes its commitments unlike those of any other.
        event: a value of `AuditEvent`, or one that only another version knows.
        server_name: of the homeserver concerned, where operators need it; never stands for a person.
        count: how many there were, where it was more than one thing.
        key_id: the root key that the commitments are keyed with; empty if there are none.
        commitments: keyed digests: of all of it, and then one for each whom it is about.
    """

    salt: bytes
    at_ms: int
    event: str
    server_name: str | None
    count: int | None
    key_id: str
    commitments: tuple[bytes, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """What every commitment covers."""
        count = "" if self.count is None else str(self.count)
        return self.salt.hex(), str(self.at_ms), self.event, self.server_name or "", count


def subject_parts(subject: Subject) -> tuple[str, str]:
    """How a subject is written into a commitment: its kind, and its name."""
    if isinstance(subject, Threepid):
        return subject.parts
    return ("user" if subject.startswith("@") else "server"), subject
