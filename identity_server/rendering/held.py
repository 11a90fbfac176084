"""What is held, for people: the parts of which pages that show it are made.

Rule: nothing that works as a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from identity_server.domain.association import ASSOCIATION_LIFETIME_MS, Association
from identity_server.domain.identifiers import Medium, Threepid
from identity_server.domain.invite import Invite
from identity_server.domain.terms import Policy, Terms
from identity_server.rendering.languages import Language


@dataclass(frozen=True, slots=True)
class ShownDocument:
    """A policy in force, in the language that suits the reader best."""

    name: str
    version: str
    url: str
    tag: str


@dataclass(frozen=True, slots=True)
class ShownInvite:
    """What a page shows of an invite; never what would work as a token."""

    sender: str
    sender_name: str
    room_id: str
    room_name: str
    details: Sequence[tuple[str, str]]
    created_at_ms: int
    expires_at_ms: int


def comes_to_an_end(association: Association) -> bool:
    """Whether time ends a binding, as it does that of a number that must be proven anew."""
    return association.not_after < association.ts + ASSOCIATION_LIFETIME_MS


def shown_documents(terms: Terms, language: Language) -> list[ShownDocument]:
    """The policies in force, each in the language that suits best."""
    return [_document(policy, language) for policy in terms.policies if policy.translations]


def _document(policy: Policy, language: Language) -> ShownDocument:
    tags = [language.tag, "en", *policy.translations]
    tag = next(tag for tag in tags if tag in policy.translations)
    translation = policy.translations[tag]
    return ShownDocument(name=translation.name, version=policy.version, url=translation.url, tag=tag)


def written(threepid: Threepid) -> str:
    """An address as people write it."""
    return f"+{threepid.address}" if threepid.medium is Medium.MSISDN else threepid.address


def shown_invite(invite: Invite) -> ShownInvite:
    """What a page shows of an invite."""
    return ShownInvite(
        sender=invite.sender,
        sender_name=invite.details.get("sender_display_name", ""),
        room_id=invite.room_id,
        room_name=invite.details.get("room_name", ""),
        details=sorted(invite.shown_details.items()),
        created_at_ms=invite.created_at_ms,
        expires_at_ms=invite.expires_at_ms,
    )
