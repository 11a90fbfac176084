"""Public halves of the ephemeral keys of invites, which live on in room events."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, select, update

from identity_server.storage.bulk import delete_some
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import ephemeral_keys

_ADD = Prepared(insert(ephemeral_keys))
_IS_VALID = Prepared(
    select(ephemeral_keys.c.public_key).where(
        ephemeral_keys.c.public_key == bindparam("key"),
        ephemeral_keys.c.revoked.is_(False),
        ephemeral_keys.c.valid_until_ms > bindparam("now_ms"),
    )
)


class EphemeralKeys:
    """Ephemeral public keys by their bytes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, public_key: bytes, *, now_ms: int, valid_until_ms: int) -> None:
        """Give out a key."""
        row = {"created_at_ms": now_ms, "valid_until_ms": valid_until_ms, "revoked": False}
        await self._connection.execute(_ADD, {"public_key": public_key} | row)

    async def remove(self, public_key: bytes) -> None:
        """Take back a key that nobody has seen."""
        await self._connection.execute(delete(ephemeral_keys).where(ephemeral_keys.c.public_key == public_key))

    async def revoke(self, public_key: bytes) -> None:
        """From now on the key isn't valid any more."""
        await self._connection.execute(
            update(ephemeral_keys).where(ephemeral_keys.c.public_key == public_key).values(revoked=True)
        )

    async def is_valid(self, public_key: bytes, *, now_ms: int) -> bool:
        """Whether this key was given out here, isn't revoked and isn't over."""
        found = await self._connection.execute(_IS_VALID, {"key": public_key, "now_ms": now_ms})
        return found.first() is not None

    async def cleanup(self, *, now_ms: int, limit: int) -> int:
        """Remove keys that are over, so many at most; returns how many."""
        by = ephemeral_keys.c.valid_until_ms
        return await delete_some(self._connection, ephemeral_keys, by <= now_ms, by=by, limit=limit)
