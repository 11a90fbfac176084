"""Waiting mails that others have caused, and that the owner of their address wants no more."""

from __future__ import annotations

from identity_server.domain.identifiers import Medium, Threepid
from identity_server.domain.ports import Mail
from identity_server.storage.database import Database

_CAUSED_BY_OTHERS = frozenset({"verification", "invite"})


class Refusals:
    """Says which mails are not sent any more."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def forbid(self, mail: Mail) -> bool:
        """Whether the owner of the address has asked, since the mail was written, to be left alone."""
        if mail.template not in _CAUSED_BY_OTHERS:
            return False
        threepid = Threepid(Medium.EMAIL, mail.to)
        return await self._database.read(lambda tx: tx.refusals.find(threepid)) is not None
