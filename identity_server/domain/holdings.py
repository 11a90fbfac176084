"""What is held about an address: what its owner is shown, and may take along."""

from __future__ import annotations

from dataclasses import dataclass

from identity_server.domain.association import Association
from identity_server.domain.identifiers import Threepid
from identity_server.domain.invite import Invite
from identity_server.domain.validation import ValidationSession
from identity_server.domain.visit import Visit


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything that is kept under one address; nothing of the account that it is bound to.

    Whoever reads a mailbox need not be who owns the account, nor the other way round.

    Attributes:
        at_ms: when it was read.
        association: the binding, if there is one.
        invites: to rooms, waiting or on their way to the homeserver.
        sessions: in which somebody is proving the address.
        visits: to the page that shows this, itself included.
        refused_since_ms: since when the address is neither bound nor invited here; None if it may be.
    """

    threepid: Threepid
    at_ms: int
    association: Association | None
    invites: tuple[Invite, ...]
    sessions: tuple[ValidationSession, ...]
    visits: tuple[Visit, ...]
    refused_since_ms: int | None
