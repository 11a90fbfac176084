"""Which public keys are ours (Identity Service API, "Key management")."""

from __future__ import annotations

from identity_server.domain.errors import NoSuchKey
from identity_server.domain.ports import Clock
from identity_server.domain.signing import SigningKey, decode_public_key
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database


class PublicKeys:
    """Answers for the long-term key and for the ephemeral keys of invites."""

    def __init__(self, *, database: Database, clock: Clock, signing_key: SigningKey) -> None:
        self._database = database
        self._clock = clock
        self._signing_key = signing_key

    def lookup(self, key_id: str) -> str:
        """The public key of this id, in unpadded base64.

        Raises:
            NoSuchKey: there is none.
        """
        if key_id != self._signing_key.key_id:
            raise NoSuchKey
        return self._signing_key.public_key

    def is_valid(self, public_key: str) -> bool:
        """Whether this is the long-term key, in either base64 alphabet."""
        return self._signing_key.is_public_key(public_key)

    async def is_valid_ephemeral(self, public_key: str) -> bool:
        """Whether this key was given out with an invite, isn't revoked and isn't over."""
        key = decode_public_key(public_key)
        if key is None:
            return False
        now_ms = self._clock.now_ms()
        return await self._database.read(lambda tx: tx.ephemeral_keys.is_valid(key, now_ms=now_ms))

    async def cleanup(self) -> int:
        """Commit the removal of ephemeral keys that are over; returns how many."""
        now_ms = self._clock.now_ms()
        return await in_batches(
            self._database, lambda tx, limit: tx.ephemeral_keys.cleanup(now_ms=now_ms, limit=limit)
        )
