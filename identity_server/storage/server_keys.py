"""Fingerprints of the keys that a database was made with, so that no other key is ever used on it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from identity_server.storage.tables import server_keys


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that the database knows.

    Attributes:
        name: "root" or "signing".
        salt: of a root key that is derived from a passphrase.
    """

    name: str
    fingerprint: str
    salt: bytes | None = None


async def list_known_keys(engine: AsyncEngine) -> dict[str, KnownKey]:
    """The known keys by name; empty for a new database."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(server_keys))
        return {row.name: KnownKey(row.name, row.fingerprint, row.salt) for row in rows}


async def add_known_keys(engine: AsyncEngine, keys: list[KnownKey], *, now_ms: int) -> None:
    """Remember keys from now on."""
    async with engine.begin() as connection:
        for key in keys:
            await connection.execute(
                insert(server_keys).values(
                    name=key.name, fingerprint=key.fingerprint, salt=key.salt, created_at_ms=now_ms
                )
            )
