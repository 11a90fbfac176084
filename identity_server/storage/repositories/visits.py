"""Visits to the privacy page: who has asked for one, for which address, and who has proved to be its owner."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, select, update

from identity_server.domain.identifiers import Medium, Threepid
from identity_server.domain.validation import CODE_TRIES
from identity_server.domain.visit import Visit
from identity_server.storage.bulk import delete_some
from identity_server.storage.connection import Connection
from identity_server.storage.schema.tables import visits
from identity_server.storage.sealing.sealer import Sealer, is_one_of, token_digest
from identity_server.storage.sealing.visited import visited_digest, visited_digests

_ADDRESS = "visits.sealed_address"


class Visits:
    """Visits by their tokens."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def add(self, visit: Visit, token: str) -> None:
        """Store a new visit under its token, which itself isn't kept."""
        digest = token_digest(token)
        await self._connection.execute(
            insert(visits).values(
                token_digest=digest,
                medium=visit.threepid.medium.value,
                address_digest=visited_digest(self._sealer, visit.threepid),
                key_id=self._sealer.key_id,
                sealed_address=self._sealer.seal(_ADDRESS, digest.hex(), visit.threepid.address),
                is_proven=visit.is_proven,
                code_hash=visit.code_hash,
                created_at_ms=visit.created_at_ms,
                expires_at_ms=visit.expires_at_ms,
            )
        )

    async def find(self, token: str) -> Visit | None:
        """The visit of a token, over or not."""
        row = (
            await self._connection.execute(select(visits).where(visits.c.token_digest == token_digest(token)))
        ).first()
        return None if row is None else self._from_row(row)

    async def count_try(self, token: str) -> bool:
        """Count a try of a code before it is compared; False if the tries of the visit are used up.

        It is one statement, so that however many come at once, no more than that are let through.
        """
        counted = await self._connection.execute(
            update(visits)
            .where(visits.c.token_digest == token_digest(token), visits.c.code_tries < CODE_TRIES)
            .values(code_tries=visits.c.code_tries + 1)
        )
        return counted.rowcount > 0

    async def prove(self, token: str, *, code_hash: str) -> bool:
        """From now on the token alone will do; False if this code has done its work already."""
        proven = await self._connection.execute(
            update(visits)
            .where(visits.c.token_digest == token_digest(token), visits.c.code_hash == code_hash)
            .values(is_proven=True, code_hash=None)
        )
        return proven.rowcount > 0

    async def list_of(self, threepid: Threepid, *, now_ms: int) -> list[Visit]:
        """The live visits of an address, the oldest first."""
        rows = await self._connection.execute(
            select(visits)
            .where(self._is_of(threepid), visits.c.expires_at_ms > now_ms)
            .order_by(visits.c.created_at_ms)
        )
        return [self._from_row(row) for row in rows]

    async def remove_of(self, threepid: Threepid) -> int:
        """Remove the visits of an address; returns how many."""
        result = await self._connection.execute(delete(visits).where(self._is_of(threepid)))
        return result.rowcount

    async def cleanup(self, *, now_ms: int, limit: int) -> int:
        """Remove visits that are over, so many at most; returns how many."""
        by = visits.c.expires_at_ms
        return await delete_some(self._connection, visits, by <= now_ms, by=by, limit=limit)

    def _is_of(self, threepid: Threepid) -> ColumnElement[bool]:
        return is_one_of(visits.c.address_digest, visited_digests(self._sealer, threepid))

    def _from_row(self, row: Row[Any]) -> Visit:
        address = self._sealer.open(_ADDRESS, row.token_digest.hex(), row.key_id, row.sealed_address)
        return Visit(
            threepid=Threepid(Medium(row.medium), address),
            is_proven=row.is_proven,
            created_at_ms=row.created_at_ms,
            expires_at_ms=row.expires_at_ms,
            code_hash=row.code_hash,
            code_tries=row.code_tries,
        )
