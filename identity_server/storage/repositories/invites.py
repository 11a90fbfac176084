"""Invites that wait for their address to be bound, sealed but for who sent them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update

from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.domain.invite import Invite
from identity_server.storage.bulk import delete_some
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import invites
from identity_server.storage.sealing.sealer import Sealer, is_among, token_digest

_ADDRESS = "invites.sealed_address"
_DETAILS = "invites.sealed_details"
_EVER = 0

_waiting = (
    is_among(invites.c.address_blind, "blinds"),
    invites.c.taken_at_ms.is_(None),
    invites.c.expires_at_ms > bindparam("now_ms"),
)
_ADD = Prepared(insert(invites))
_FIND_BY_TOKEN = Prepared(
    select(invites).where(
        invites.c.token_digest == bindparam("digest"), invites.c.expires_at_ms > bindparam("now_ms")
    )
)
_LOOKUP = Prepared(select(invites).where(invites.c.id == bindparam("id")))
_LIST_WAITING = Prepared(select(invites).where(*_waiting).order_by(invites.c.created_at_ms, invites.c.id))
_TAKE_WAITING = Prepared(update(invites).where(*_waiting))
_REMOVE = Prepared(delete(invites).where(invites.c.id.in_(bindparam("ids"))))


class Invites:
    """Invites by address and by token."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def add(self, invite: Invite, *, taken_at_ms: int | None = None) -> None:
        """Store a new invite, which waits unless a binding takes it along at once."""
        details = {
            "room_id": invite.room_id,
            "token": invite.token,
            "private_key": invite.private_key,
            "details": dict(invite.details),
            "brand": invite.brand,
            "languages": list(invite.languages),
        }
        row = {
            "id": invite.id,
            "medium": invite.threepid.medium.value,
            "address_blind": self._sealer.blind(invite.threepid),
            "token_digest": token_digest(invite.token),
            "public_key": invite.public_key,
            "sender": invite.sender,
            "key_id": self._sealer.key_id,
            "sealed_address": self._sealer.seal(_ADDRESS, invite.id, invite.threepid.address),
            "sealed_details": self._sealer.seal(_DETAILS, invite.id, json.dumps(details)),
            "created_at_ms": invite.created_at_ms,
            "expires_at_ms": invite.expires_at_ms,
            "taken_at_ms": taken_at_ms,
        }
        await self._connection.execute(_ADD, row)

    async def find_by_token(self, token: str, *, now_ms: int) -> Invite | None:
        """The invite of a token, taken along by a binding or not."""
        which = {"digest": token_digest(token), "now_ms": now_ms}
        row = (await self._connection.execute(_FIND_BY_TOKEN, which)).first()
        return None if row is None else self._from_row(row)

    async def lookup(self, invite_id: int) -> Invite | None:
        """The invite of this id."""
        row = (await self._connection.execute(_LOOKUP, {"id": invite_id})).first()
        return None if row is None else self._from_row(row)

    async def list_all(self, *, now_ms: int, limit: int) -> list[tuple[Invite, bool]]:
        """Live invites, the newest first, and whether a binding has taken each along."""
        rows = await self._connection.execute(
            select(invites)
            .where(invites.c.expires_at_ms > now_ms)
            .order_by(invites.c.created_at_ms.desc())
            .limit(limit)
        )
        return [(self._from_row(row), row.taken_at_ms is not None) for row in rows]

    async def list_of(self, threepid: Threepid, *, now_ms: int) -> list[Invite]:
        """The live invites of an address, taken along by a binding or not; the oldest first."""
        rows = await self._connection.execute(
            select(invites)
            .where(self._sealer.is_blind_of(invites.c.address_blind, threepid), invites.c.expires_at_ms > now_ms)
            .order_by(invites.c.created_at_ms, invites.c.id)
        )
        return [self._from_row(row) for row in rows]

    async def list_stored(self, threepid: Threepid) -> list[Invite]:
        """The invites of an address, those included that a sweep has yet to remove; the oldest first."""
        return await self.list_of(threepid, now_ms=_EVER)

    async def list_sent_by(self, sender: UserId) -> list[Invite]:
        """The invites that a Matrix ID has sent, those included that a sweep has yet to remove; the oldest first."""
        rows = await self._connection.execute(
            select(invites).where(invites.c.sender == sender).order_by(invites.c.created_at_ms, invites.c.id)
        )
        return [self._from_row(row) for row in rows]

    async def among(self, ids: Collection[int]) -> set[int]:
        """Those of these ids that an invite has still."""
        return set((await self._connection.execute(select(invites.c.id).where(invites.c.id.in_(ids)))).scalars())

    async def take(self, threepid: Threepid, *, now_ms: int) -> list[Invite]:
        """The waiting invites of an address, which from now on belong to the binding that takes them."""
        which = {"blinds": self._sealer.blinds(threepid), "now_ms": now_ms}
        rows = (await self._connection.execute(_LIST_WAITING, which)).all()
        if rows:
            await self._connection.execute(_TAKE_WAITING, which | {"taken_at_ms": now_ms})
        return [self._from_row(row) for row in rows]

    async def release(self, ids: Collection[int]) -> None:
        """Let invites wait again: their homeserver was never told."""
        await self._connection.execute(update(invites).where(invites.c.id.in_(list(ids))).values(taken_at_ms=None))

    async def remove(self, ids: Collection[int]) -> int:
        """Remove invites, private keys and all; their public keys live on. Returns how many."""
        if not ids:
            return 0
        result = await self._connection.execute(_REMOVE, {"ids": list(ids)})
        return result.rowcount

    async def cleanup(self, *, now_ms: int, limit: int) -> int:
        """Remove invites that are over, so many at most; returns how many."""
        by = invites.c.expires_at_ms
        return await delete_some(self._connection, invites, by <= now_ms, by=by, limit=limit)

    def _from_row(self, row: Row[Any]) -> Invite:
        address = self._sealer.open(_ADDRESS, row.id, row.key_id, row.sealed_address)
        details = json.loads(self._sealer.open(_DETAILS, row.id, row.key_id, row.sealed_details))
        return Invite(
            id=row.id,
            threepid=Threepid(Medium(row.medium), address),
            room_id=details["room_id"],
            sender=UserId(row.sender),
            token=details["token"],
            private_key=details["private_key"],
            public_key=row.public_key,
            details=details["details"],
            brand=details["brand"],
            languages=tuple(details["languages"]),
            created_at_ms=row.created_at_ms,
            expires_at_ms=row.expires_at_ms,
        )
