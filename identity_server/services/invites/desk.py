"""What an operator can do about invites; a server may be running beside it."""

from __future__ import annotations

from identity_server.domain.audit import AuditEvent
from identity_server.domain.invite import Invite
from identity_server.domain.ports import Clock
from identity_server.services.invites.mails import InviteMails
from identity_server.storage.database import Database, Transaction


class KeyNotKept(Exception):
    """The private key of an invite isn't here, so no mail with it can be made: Sydent kept none."""


class InviteDesk:
    """Lists, resends and revokes invites."""

    def __init__(self, *, database: Database, clock: Clock, mails: InviteMails) -> None:
        self._database = database
        self._clock = clock
        self._mails = mails

    async def list(self, *, limit: int) -> list[tuple[Invite, bool]]:
        """Live invites, the newest first, and whether a binding has taken each along."""
        now_ms = self._clock.now_ms()
        return await self._database.read(lambda tx: tx.invites.list_all(now_ms=now_ms, limit=limit), bulk=True)

    async def resend(self, invite_id: int) -> bool:
        """Commit another mail for an invite, which a running server sends within a minute; False if there is none of this id.

        Raises:
            KeyNotKept: the invite was imported.
        """

        async def use_case(tx: Transaction) -> bool:
            invite = await tx.invites.lookup(invite_id)
            if invite is None:
                return False
            if not invite.private_key:
                raise KeyNotKept
            await self._mails.add(tx, invite)
            await self._note(tx, AuditEvent.INVITE_RESENT, invite)
            return True

        return await self._database.transaction(use_case)

    async def revoke(self, invite_id: int) -> bool:
        """Commit the end of an invite and of its key; False if there is none of this id."""

        async def use_case(tx: Transaction) -> bool:
            invite = await tx.invites.lookup(invite_id)
            if invite is not None:
                await tx.invites.remove([invite.id])
                await tx.ephemeral_keys.revoke(invite.public_key)
                await self._note(tx, AuditEvent.INVITE_REVOKED, invite)
            return invite is not None

        return await self._database.transaction(use_case)

    async def _note(self, tx: Transaction, event: AuditEvent, invite: Invite) -> None:
        about = invite.threepid, invite.sender
        await tx.audit.add(event, now_ms=self._clock.now_ms(), about=about)
