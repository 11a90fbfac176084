"""The mail of an invite: what it shows, and how it gets into the outbox."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from identity_server.domain.invite import Invite, invite_link, short_room_name, short_sender_name
from identity_server.domain.ports import Clock
from identity_server.rendering.pages import host_of
from identity_server.services.outbox.mails import MailJobs
from identity_server.storage.database import Transaction
from identity_server.storage.repositories.jobs import Job

WEB_CLIENT = "org.matrix.web_client_location"
"""The string of the request that says where the link is to lead."""

# What mails show; the homeserver leaves out what it doesn't know.
_SHOWN = ("room_alias", "room_avatar_url", "room_join_rules", "room_type", "sender_avatar_url")


@dataclass(frozen=True, slots=True)
class InviteStyle:
    """How the mails of invites look.

    Attributes:
        web_client: where the link leads when the request doesn't say.
        subject, subject_space: in Sydent's `%(name)s` form.
        subject_is_set: whether the operator chose them; our own templates have subjects of their own.
    """

    web_client: str
    subject: str
    subject_space: str
    subject_is_set: bool


class InviteMails:
    """Writes the mails of invites.

    Args:
        sign_link: makes the link that signs for an invite, from its token and private key.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        mail_jobs: MailJobs,
        style: InviteStyle,
        sign_link: Callable[[str, str], str],
    ) -> None:
        self._clock = clock
        self._mail_jobs = mail_jobs
        self._style = style
        self._sign_link = sign_link

    async def add(self, tx: Transaction, invite: Invite) -> Job:
        """Write the mail of an invite into the outbox; returns its claimed job."""
        return await self._mail_jobs.add(
            tx,
            "invite",
            invite.threepid,
            self._variables(invite),
            language=invite.languages,
            brand=invite.brand,
            now_ms=self._clock.now_ms(),
            expires_at_ms=invite.expires_at_ms,
        )

    def _variables(self, invite: Invite) -> dict[str, str]:
        details = dict(invite.details)
        for name in _SHOWN:
            details.setdefault(name, "")
        details["sender_display_name"] = short_sender_name(details.get("sender_display_name", ""))
        details["room_name"] = short_room_name(details.get("room_name", ""))
        web_client = details.get(WEB_CLIENT, "")
        if host_of(web_client) is None:
            web_client = self._style.web_client
        sign_url = self._sign_link(invite.token, invite.private_key)
        return {
            **details,
            "medium": invite.threepid.medium.value,
            "address": invite.threepid.address,
            "room_id": invite.room_id,
            "sender": invite.sender,
            "token": invite.token,
            "ephemeral_private_key": invite.private_key,
            "subject_header_value": self._subject(details, invite),
            "subject_is_set": "yes" if self._style.subject_is_set else "",
            "web_client_location": web_client,
            "invite_url": invite_link(
                web_client,
                room_id=invite.room_id,
                sign_url=sign_url,
                details=details,
                email=invite.threepid.address,
            ),
        }

    def _subject(self, details: Mapping[str, str], invite: Invite) -> str:
        """The configured subject, `%(name)s` for any string of the request."""
        pattern = self._style.subject_space if details.get("room_type") == "m.space" else self._style.subject
        values = defaultdict(str, {**details, "sender": invite.sender, "room_id": invite.room_id})
        values["sender_display_name"] = values["sender_display_name"] or invite.sender
        try:
            return pattern % values
        except (ValueError, TypeError, KeyError):
            return pattern
