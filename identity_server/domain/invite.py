"""Invitations of people whose Matrix ID isn't known (Identity Service API, "Invitation storage").

An invite waits until someone proves to own its address; then their homeserver is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from identity_server.domain.durations import DAY_MS
from identity_server.domain.identifiers import Threepid, UserId

INVITE_LIFETIME_MS = 30 * DAY_MS
"""How long an invite waits for its address to be bound."""

EPHEMERAL_KEY_LIFETIME_MS = 365 * DAY_MS
"""How long an invite's public key stays valid: the room event that names it outlives the invite."""

INVITE_TOKEN_LETTERS = 128

_SECRET_DETAILS = frozenset({"guest_access_token"})
_ELLIPSIS = "..."
_SENDER_LETTERS = 20
_ROOM_LETTERS = 30
_ROOM_KEPT = 25
_LONG_PART = 5


@dataclass(frozen=True, slots=True)
class Invite:
    """A stored invite.

    Attributes:
        id: of its row.
        token: what ties the room's event to it.
        private_key: the seed of its ephemeral key, in URL-safe base64; only the mail carries it.
        public_key: the 32 bytes of its public half.
        details: what else the mail shows, as the homeserver sent it; strings by name.
        brand, languages: what the mail was asked to look like.
    """

    id: int
    threepid: Threepid
    room_id: str
    sender: UserId
    token: str
    private_key: str
    public_key: bytes
    details: Mapping[str, str]
    brand: str | None
    languages: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int

    def __repr__(self) -> str:
        return f"Invite(id={self.id})"

    @property
    def shown_details(self) -> dict[str, str]:
        """Those of the details that say something and open nothing: a guest's access token is left out."""
        return {name: value for name, value in self.details.items() if value and name not in _SECRET_DETAILS}

    def for_homeserver(self, user_id: UserId, signed: Mapping[str, Any]) -> dict[str, Any]:
        """How the homeserver of whoever has bound the address hears of it (server-server API, onbind)."""
        return {
            "medium": self.threepid.medium.value,
            "address": self.threepid.address,
            "mxid": user_id,
            "room_id": self.room_id,
            "sender": self.sender,
            "token": self.token,
            "signed": dict(signed),
        }


@dataclass(frozen=True, slots=True)
class Obfuscation:
    """How much of an address the room may see.

    Attributes:
        local_letters: letters kept before the @.
        domain_letters: letters kept behind it.
    """

    local_letters: int
    domain_letters: int

    def display_name(self, email: str) -> str:
        """A hint at the address for those in the room.

        >>> Obfuscation(3, 3).display_name("alice@example.com")
        'ali...@exa...'
        """
        local, _, domain = email.rpartition("@")
        return f"{_hint(local, self.local_letters)}@{_hint(domain, self.domain_letters)}"


def _hint(part: str, letters: int) -> str:
    if len(part) > letters:
        return part[:letters] + _ELLIPSIS
    # Never the whole of a short one.
    if len(part) > _LONG_PART:
        return part[:3] + _ELLIPSIS
    return (part[:1] if len(part) > 1 else "") + _ELLIPSIS


def short_sender_name(name: str) -> str:
    """A display name that doesn't take over the mail: at most 20 letters."""
    return name if len(name) <= _SENDER_LETTERS else name[: _SENDER_LETTERS - 1] + "…"


def short_room_name(name: str) -> str:
    """A room's name, at most 30 letters; longer ones keep 25."""
    return name if len(name) <= _ROOM_LETTERS else name[:_ROOM_KEPT] + "…"


def invite_link(web_client: str, *, room_id: str, sign_url: str, details: Mapping[str, str], email: str) -> str:
    """The link that clients act upon: the room, and how to get a signature for joining it."""
    query = {"email": email, "signurl": sign_url}
    for name, key in (
        ("room_name", "room_name"),
        ("room_avatar_url", "room_avatar_url"),
        ("inviter_name", "sender_display_name"),
        ("guest_access_token", "guest_access_token"),
        ("guest_user_id", "guest_user_id"),
        ("room_type", "room_type"),
    ):
        if details.get(key):
            query[name] = details[key]
    return f"{web_client.rstrip('/')}/#/room/{room_id}?{urlencode(query)}"
