"""What hangs on the root key, column by column, and how it comes to hang on another one.

The rule: nothing means anything else afterwards, so nobody is told: no row gets another id, and the change feed has no
entry. Whoever adds a column that hangs on the root key adds it here; a test compares this with the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from sqlalchemy import Column, RowMapping, Table, bindparam, func, select, update

from identity_server.domain.identifiers import Medium, Threepid
from identity_server.storage.bulk import delete_some
from identity_server.storage.connection import Connection
from identity_server.storage.schema.tables import (
    asked_addresses,
    associations,
    invites,
    jobs,
    retired_keys,
    validation_sessions,
    visits,
)
from identity_server.storage.sealing.sealer import SealBroken, Sealer
from identity_server.storage.sealing.visited import visited_digest

_log = structlog.get_logger(__name__)

StandsFor = Callable[[Sealer, Threepid], bytes]


@dataclass(frozen=True, slots=True)
class SealedTable:
    """A table whose rows can be sealed anew, because everything that hangs on the root key can be opened.

    Attributes:
        row: the column that sealed values are tied to.
        sealed: the columns that hold them.
        stands_for: the columns that stand for the row's address, and how each is made from it.
        named: how a row's id is written where its values are tied to it.
    """

    table: Table
    row: str
    sealed: tuple[str, ...]
    stands_for: Mapping[str, StandsFor] = field(default_factory=dict)
    named: Callable[[Any], object] = str

    @property
    def id(self) -> Column[Any]:
        return self.table.c[self.row]


SEALED_TABLES: Final = (
    SealedTable(associations, "id", ("sealed_address",), {"address_blind": Sealer.blind}),
    SealedTable(validation_sessions, "sid", ("sealed_address", "sealed_next_link"), {"address_blind": Sealer.blind}),
    SealedTable(invites, "id", ("sealed_address", "sealed_details"), {"address_blind": Sealer.blind}),
    SealedTable(visits, "token_digest", ("sealed_address",), {"address_digest": visited_digest}, bytes.hex),
    SealedTable(jobs, "id", ("sealed_payload",)),
    SealedTable(retired_keys, "id", ("sealed_keys",)),
)

DROPPED_TABLES: Final = (asked_addresses,)
"""Tables that nothing of a former key is taken over of: what was asked is known by the lookup key, which another root key
replaces. So each account is charged once more for what it asks for again."""

STAYING: Final[Mapping[str, str]] = {
    "validation_sessions.client_secret_digest": "The secret isn't kept; the row is gone in two days.",
    "validation_sessions.code_hash": "The code isn't kept; it names its key, and is over in minutes.",
    "visits.code_hash": "The code isn't kept; it names its key, and is over in minutes.",
    "refused_addresses.address_digest": "The address isn't kept: that is what its owner has asked for.",
    "lookup_budgets.holder_digest": "Whom it counts isn't kept; the row gets a new digest when they come back, or goes.",
    "rate_limits.key_digest": "Who is limited isn't kept; the row gets a new digest when they come back, or goes.",
    "audit_pending.commitments": "Whom an entry is about isn't kept, and an entry never changes.",
    "audit_pending.key_id": "Says which key the commitments need.",
    "audit_chain.commitments": "Whom an entry is about isn't kept, and an entry never changes.",
    "audit_chain.key_id": "Says which key the commitments need.",
}
"""What was made with an earlier root key and stays as it is, with the reason; its digest keys are kept for that."""

INDEPENDENT: Final[Mapping[str, str]] = {
    "server_keys.fingerprint": "Of each key, its own.",
    "server_keys.salt": "Public by nature, like any salt.",
    "terms_in_force.terms_digest": "SHA-256 of what everybody can read.",
    "access_tokens.token_digest": "SHA-256 of 256 random bits.",
    "validation_tokens.token_digest": "SHA-256 of 256 random bits.",
    "visits.token_digest": "SHA-256 of 256 random bits.",
    "invites.token_digest": "SHA-256 of 256 random bits.",
    "invites.public_key": "Public.",
    "ephemeral_keys.public_key": "Public.",
    "audit_pending.salt": "Random, and of this entry alone.",
    "audit_chain.salt": "Random, and of this entry alone.",
    "audit_chain.hash": "SHA-256 of what is in the row.",
}
"""Bytes and digests that have nothing to do with the root key, with the reason."""


@dataclass(frozen=True, slots=True)
class Page:
    """What became of some rows.

    Attributes:
        last: the id of the last one that was looked at; None if there were none.
        sealed: how many are sealed anew.
        broken: how many can't be opened by the key that they name, and so are lost anyhow.
    """

    last: Any
    sealed: int
    broken: int


class Resealing:
    """Seals rows anew, some at a time."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def left(self, key_id: str) -> dict[str, int]:
        """How many rows name that key, of those that are sealed anew or dropped; by table."""
        tables = (*(each.table for each in SEALED_TABLES), *DROPPED_TABLES)
        return {table.name: await self._count(table, key_id) for table in tables}

    async def count(self, sealed: SealedTable, key_id: str) -> int:
        """How many rows of a table name that key."""
        return await self._count(sealed.table, key_id)

    async def _count(self, table: Table, key_id: str) -> int:
        query = select(func.count()).select_from(table).where(table.c.key_id == key_id)
        return int((await self._connection.execute(query)).scalar_one())

    async def drop(self, key_id: str, *, limit: int) -> int:
        """Remove what nothing is taken over of, so many rows of a table at most; returns how many."""
        return sum(
            [
                await delete_some(self._connection, table, table.c.key_id == key_id, by=table.c.id, limit=limit)
                for table in DROPPED_TABLES
            ]
        )

    async def reseal(self, sealed: SealedTable, key_id: str, *, after: Any, limit: int) -> Page:
        """Seal rows by the key that seals now which that one has sealed, in the order of their ids.

        Belongs in `Database.claim`: rows that somebody is about to change are passed over, to be met in a later round,
        and whoever comes to change one of these meanwhile loses the race, and finds it as it is now.
        """
        rows = (
            (
                await self._connection.execute(
                    select(sealed.table)
                    .where(sealed.table.c.key_id == key_id, *([] if after is None else [sealed.id > after]))
                    .order_by(sealed.id)
                    .limit(limit)
                    .with_for_update(skip_locked=True)
                )
            )
            .mappings()
            .all()
        )
        changes = [change for row in rows if (change := self._anew(sealed, row)) is not None]
        if changes:
            columns = (*sealed.sealed, *sealed.stands_for, "key_id")
            this = sealed.id == bindparam("this_row")
            statement = update(sealed.table).where(this).values({name: bindparam(name) for name in columns})
            await self._connection.execute(statement, changes)
        last = rows[-1][sealed.row] if rows else None
        return Page(last, len(changes), len(rows) - len(changes))

    def _anew(self, sealed: SealedTable, row: RowMapping) -> dict[str, Any] | None:
        """The columns that change, and the id of the row; None if it can't be opened."""
        name = sealed.named(row[sealed.row])
        opened: dict[str, str | None] = {}
        try:
            for column in sealed.sealed:
                place, value = f"{sealed.table.name}.{column}", row[column]
                opened[column] = None if value is None else self._sealer.open(place, name, row["key_id"], value)
        except SealBroken:
            _log.exception("reseal.unreadable", table=sealed.table.name)
            return None
        changes: dict[str, Any] = {
            column: None if text is None else self._sealer.seal(f"{sealed.table.name}.{column}", name, text)
            for column, text in opened.items()
        }
        address = opened.get("sealed_address")
        for column, stands_for in sealed.stands_for.items():
            threepid = None if address is None else Threepid(Medium(row["medium"]), address)
            changes[column] = None if threepid is None else stands_for(self._sealer, threepid)
        return {**changes, "key_id": self._sealer.key_id, "this_row": row[sealed.row]}
