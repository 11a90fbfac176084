"""Addresses whose owners have asked that they be neither bound nor invited here.

The rule: of an address nothing is kept but a keyed digest, which can be compared and leads nowhere.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, delete, insert, select

from identity_server.domain.identifiers import Threepid
from identity_server.storage.bulk import in_parts
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import refused_addresses
from identity_server.storage.sealing.sealer import Sealer, is_among, is_one_of

PURPOSE = "refused address"
"""What the digests of addresses here are for, and no other."""

_FIND = Prepared(
    select(refused_addresses.c.refused_at_ms).where(is_among(refused_addresses.c.address_digest, "digests"))
)


class Refusals:
    """Refused addresses by their digests."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def find(self, threepid: Threepid) -> int | None:
        """Since when an address is refused, in milliseconds; None if it isn't."""
        digests = self._sealer.digests(PURPOSE, *threepid.parts)
        found = await self._connection.execute(_FIND, {"digests": digests})
        since_ms: int | None = found.scalar_one_or_none()
        return since_ms

    async def are_there_any(self) -> bool:
        """Whether any address is refused."""
        return (
            await self._connection.execute(select(refused_addresses.c.address_digest).limit(1))
        ).first() is not None

    async def among(self, threepids: Collection[Threepid]) -> set[Threepid]:
        """Those of many addresses that are refused."""
        by_digest = {digest: each for each in threepids for digest in self._sealer.digests(PURPOSE, *each.parts)}
        digests, refused = list(by_digest), set()
        for some in in_parts(digests):
            rows = await self._connection.execute(
                select(refused_addresses.c.address_digest).where(is_one_of(refused_addresses.c.address_digest, some))
            )
            refused |= {by_digest[row.address_digest] for row in rows}
        return refused

    async def add(self, threepid: Threepid, *, now_ms: int) -> bool:
        """Refuse an address; False if it is refused already."""
        if await self.find(threepid) is not None:
            return False
        digest = self._sealer.digest(PURPOSE, *threepid.parts)
        await self._connection.execute(insert(refused_addresses).values(address_digest=digest, refused_at_ms=now_ms))
        return True

    async def remove(self, threepid: Threepid) -> bool:
        """Refuse an address no longer; False if it wasn't refused."""
        result = await self._connection.execute(delete(refused_addresses).where(self._is_of(threepid)))
        return result.rowcount > 0

    def _is_of(self, threepid: Threepid) -> ColumnElement[bool]:
        return self._sealer.is_digest_of(refused_addresses.c.address_digest, PURPOSE, *threepid.parts)
