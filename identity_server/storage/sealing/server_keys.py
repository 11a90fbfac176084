"""What the database knows of its keys: fingerprints, so that no other key is ever used on it, and never a key itself.

While one root key takes another's place there are two, and each step is one commit:

    root                    everything is sealed by it
    root, next_root         every process is to know the next one, too, and still seals by the first
    root, former_root       what was next seals now; what the former one has sealed is sealed anew, bit by bit
    root                    nothing hangs on the former one but digests that can't be made anew: `retired_keys`

The rule: no step is taken before every process knows of the one before (key_watch.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from identity_server.domain.ports import Randomness
from identity_server.storage.connection import Connection
from identity_server.storage.schema.tables import key_holdouts, retired_keys, server_keys
from identity_server.storage.sealing.key_ring import DigestKeys, KeyRing
from identity_server.storage.sealing.sealer import Sealer

ROOT, SIGNING = "root", "signing"
NEXT_ROOT, FORMER_ROOT = "next_root", "former_root"
ROOT_NAMES = (ROOT, NEXT_ROOT, FORMER_ROOT)
_KEYS = "retired_keys.sealed_keys"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that the database knows.

    Attributes:
        name: one of the names above.
        salt: of a root key that is derived from a passphrase.
        since_ms: when it was first known.
    """

    name: str
    fingerprint: str
    salt: bytes | None = None
    since_ms: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """A root key that nothing is sealed by any more.

    Attributes:
        id: its key id.
        key_id: of the root key that what was kept of it is sealed by.
    """

    id: str
    key_id: str
    sealed_keys: bytes = field(repr=False)
    retired_at_ms: int = 0

    def open(self, sealer: Sealer) -> DigestKeys:
        """What was kept of it.

        Raises:
            SealBroken: the keys at hand aren't those of this database.
        """
        kept = json.loads(sealer.open(_KEYS, self.id, self.key_id, self.sealed_keys))
        return DigestKeys(self.id, **{name: bytes.fromhex(value) for name, value in kept.items()})


@dataclass(frozen=True, slots=True)
class KeyState:
    """All that the database knows of its keys; empty for a new one.

    Attributes:
        known: by name.
    """

    known: Mapping[str, KnownKey] = field(default_factory=dict)
    retired: tuple[RetiredKey, ...] = ()

    @property
    def roots(self) -> tuple[KnownKey, ...]:
        """The root keys that rows may be sealed by, the one that seals now first."""
        return tuple(self.known[name] for name in ROOT_NAMES if name in self.known)

    def with_retired(self, ring: KeyRing, *, randomness: Randomness) -> KeyRing:
        """A ring of these root keys with what was kept of earlier ones.

        Raises:
            SealBroken: it isn't.
        """
        sealer = Sealer(ring, randomness=randomness)
        return replace(ring, retired=tuple(each.open(sealer) for each in self.retired))

    @property
    def was_rotated(self) -> bool:
        """Whether the root key is another one than the first."""
        return bool(self.retired) or FORMER_ROOT in self.known


@dataclass(frozen=True, slots=True)
class Holdout:
    """A process that goes on without the next root key, because it doesn't have it.

    Attributes:
        holder: the machine, and the process there.
        expected_in: the file in which it looks.
    """

    holder: str
    expected_in: str


async def read_key_state(engine: AsyncEngine, *, has_retired: bool = True) -> KeyState:
    """What the database knows now; without `has_retired`, one whose schema has no place for retired keys yet.

    Raises:
        DBAPIError: it can't be asked.
    """
    async with engine.connect() as connection:
        # Who only looks doesn't queue for SQLite's write lock. What is retired meanwhile is then known in both ways.
        await connection.execution_options(no_begin=True)
        known = await list_known_keys(connection)
        retired = await list_retired_keys(connection) if has_retired else ()
    return KeyState(known, retired)


async def list_known_keys(connection: AsyncConnection | Connection) -> dict[str, KnownKey]:
    """The known keys by name; empty for a new database."""
    rows = await connection.execute(select(server_keys))
    return {row.name: KnownKey(row.name, row.fingerprint, row.salt, row.created_at_ms) for row in rows}


async def list_retired_keys(connection: AsyncConnection | Connection) -> tuple[RetiredKey, ...]:
    """What was kept of root keys that nothing is sealed by any more, the newest first."""
    newest_first = select(retired_keys).order_by(retired_keys.c.retired_at_ms.desc(), retired_keys.c.id)
    return tuple(map(_retired, await connection.execute(newest_first)))


async def add_known_keys(engine: AsyncEngine, keys: list[KnownKey], *, now_ms: int) -> None:
    """Remember keys from now on."""
    async with engine.begin() as connection:
        for key in keys:
            await connection.execute(insert(server_keys).values(_to_row(key, now_ms=now_ms)))


async def put_holdout(engine: AsyncEngine, holdout: Holdout, *, now_ms: int) -> None:
    """Keep the next root key from being used, since a process doesn't have it."""
    async with engine.begin() as connection:
        this = key_holdouts.c.holder == holdout.holder
        await connection.execute(delete(key_holdouts).where(this))
        await connection.execute(
            insert(key_holdouts).values(holder=holdout.holder, expected_in=holdout.expected_in, at_ms=now_ms)
        )


class ServerKeys:
    """The steps from one root key to the next."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def known(self) -> dict[str, KnownKey]:
        """The known keys by name."""
        return await list_known_keys(self._connection)

    async def list_retired(self) -> tuple[RetiredKey, ...]:
        """The keys that nothing is sealed by any more, the newest first."""
        return await list_retired_keys(self._connection)

    async def introduce(self, fingerprint: str, salt: bytes | None, *, now_ms: int) -> None:
        """Have every process learn of the next root key."""
        await self.forget_holdouts()
        key = KnownKey(NEXT_ROOT, fingerprint, salt)
        await self._connection.execute(insert(server_keys).values(_to_row(key, now_ms=now_ms)))

    async def withdraw(self) -> None:
        """Give up the next root key, which nothing is sealed by yet."""
        await self.forget_holdouts()
        await self._connection.execute(delete(server_keys).where(server_keys.c.name == NEXT_ROOT))

    async def list_holdouts(self) -> list[Holdout]:
        """Who was without the next root key since these were last forgotten."""
        rows = await self._connection.execute(select(key_holdouts).order_by(key_holdouts.c.holder))
        return [Holdout(row.holder, row.expected_in) for row in rows]

    async def forget_holdouts(self) -> None:
        """Forget who was without the next root key: who still is will say so again."""
        await self._connection.execute(delete(key_holdouts))

    async def switch(self) -> None:
        """Have the next root key seal from now on, and the former one open what it has sealed."""
        for before, after in ((ROOT, FORMER_ROOT), (NEXT_ROOT, ROOT)):
            this = server_keys.c.name == before
            await self._connection.execute(update(server_keys).where(this).values(name=after))

    async def retire(self, former: DigestKeys, *, now_ms: int) -> None:
        """Let go of the former root key, which nothing is sealed by any more, but for what outlives it."""
        kept = {"digests": former.digests.hex(), "audit": former.audit.hex(), "codes": former.codes.hex()}
        await self._connection.execute(
            insert(retired_keys).values(
                id=former.key_id,
                key_id=self._sealer.key_id,
                sealed_keys=self._sealer.seal(_KEYS, former.key_id, json.dumps(kept)),
                retired_at_ms=now_ms,
            )
        )
        await self._connection.execute(delete(server_keys).where(server_keys.c.name == FORMER_ROOT))


def _to_row(key: KnownKey, *, now_ms: int) -> dict[str, Any]:
    return {"name": key.name, "fingerprint": key.fingerprint, "salt": key.salt, "created_at_ms": now_ms}


def _retired(row: Row[Any]) -> RetiredKey:
    return RetiredKey(row.id, row.key_id, row.sealed_keys, row.retired_at_ms)
