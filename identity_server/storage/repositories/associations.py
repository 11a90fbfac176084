"""Associations, and the feed of their changes that read indexes follow.

The rule: no row changes without an entry in the feed, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, Row, bindparam, delete, func, insert, literal_column, select

from identity_server.domain.association import Association, Visibility
from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.storage.bulk import MANY_PARAMETERS, delete_some, in_parts, insert_many
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import association_changes, associations
from identity_server.storage.sealing.sealer import Sealer, is_among, is_one_of

_ADDRESS = "associations.sealed_address"
_ADDED = "added"
_REMOVED = "removed"
_STORED = [associations.c[name] for name in ("address_blind", "id", "user_id", "ts", "visibility")]

_feed = association_changes.c
_FIND = Prepared(select(associations).where(is_among(associations.c.address_blind, "blinds")))
_ADD = Prepared(insert(associations))
_REMOVE = Prepared(delete(associations).where(associations.c.id == bindparam("id")))
_RECORD = Prepared(insert(association_changes))
_LIST_BY_ID = Prepared(select(associations).where(associations.c.id.in_(bindparam("ids"))))
_LIST_BY_USER = Prepared(
    select(associations)
    .where(associations.c.user_id == bindparam("user_id"))
    .order_by(associations.c.ts, associations.c.id)
)
_FIND_CHANGES = Prepared(select(association_changes).where(_feed.change_seq.in_(bindparam("seqs"))))
_LIST_CHANGES = Prepared(
    select(association_changes)
    .where(_feed.change_seq > bindparam("after_seq"))
    .order_by(_feed.change_seq)
    .limit(bindparam("limit", type_=Integer))
)
# Asked for both at once, SQLite would go through all of it.
_FEED_BOUNDS = Prepared(
    select(
        select(func.min(_feed.change_seq)).scalar_subquery().label("oldest"),
        select(func.max(_feed.change_seq)).scalar_subquery().label("newest"),
    )
)


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the feed."""

    seq: int
    association_id: int
    added: bool


@dataclass(frozen=True, slots=True)
class StoredAssociation:
    """What is stored for an address that is known only by its blind."""

    id: int
    user_id: UserId
    ts: int
    visibility: Visibility


class Associations:
    """The live associations; at most one per address.

    Attributes:
        changed: whether this transaction changed any.
    """

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer
        self.changed = False

    async def find(self, threepid: Threepid) -> Association | None:
        """The live association of an address."""
        row = await self._find_row(threepid)
        return None if row is None else self._from_row(row)

    async def put(self, association_id: int, association: Association) -> Association | None:
        """Store an association under a fresh random id, in place of the address's earlier one; returns that.

        What its owner has decided about the earlier one holds for this one, too.
        """
        before = await self.remove(association.threepid, now_ms=association.ts)
        if before is not None:
            association = association.succeeding(before.user_id, before.visibility)
        await self._add(association_id, association, now_ms=association.ts)
        return before

    async def replace(self, association_id: int, association: Association, *, now_ms: int) -> None:
        """Store what has changed of an address's association, under a fresh random id, by which readers learn of it."""
        await self.remove(association.threepid, now_ms=now_ms)
        await self._add(association_id, association, now_ms=now_ms)

    async def _add(self, association_id: int, association: Association, *, now_ms: int) -> None:
        await self._connection.execute(_ADD, self._to_row(association_id, association))
        await self._record(association_id, _ADDED, now_ms)

    async def remove(self, threepid: Threepid, *, now_ms: int) -> Association | None:
        """Remove the address's association, if there is one; returns it."""
        row = await self._find_row(threepid)
        if row is None:
            return None
        await self._connection.execute(_REMOVE, {"id": row.id})
        await self._record(row.id, _REMOVED, now_ms)
        return self._from_row(row)

    async def put_all(
        self, rows: Sequence[tuple[int, Association]], *, replaced: Sequence[int] = (), now_ms: int
    ) -> None:
        """Store many associations under fresh random ids; `replaced` are the ids of those whose place they take."""
        await self.remove_all(replaced, now_ms=now_ms)
        if rows:
            await insert_many(self._connection, associations, [self._to_row(*row) for row in rows])
            await self._record_all([association_id for association_id, _ in rows], _ADDED, now_ms)

    async def remove_all(self, ids: Sequence[int], *, now_ms: int) -> None:
        """Remove many associations."""
        if ids:
            await self._connection.execute(delete(associations).where(associations.c.id.in_(ids)))
            await self._record_all(ids, _REMOVED, now_ms)

    async def list_blinds(self, first: bytes, last: bytes) -> dict[bytes, StoredAssociation]:
        """What is bound, by blinded address, from one to another; for who compares many addresses in their order.

        It takes rows of one root key to be in one order: where there may be those of two, `list_of` finds them all.
        """
        within = associations.c.address_blind.between(first, last)
        rows = await self._connection.execute(select(*_STORED).where(within))
        return {row.address_blind: _stored(row) for row in rows}

    async def list_of(self, threepids: Collection[Threepid]) -> dict[Threepid, StoredAssociation]:
        """What is bound of many addresses."""
        by_blind = {blind: each for each in threepids for blind in self._sealer.blinds(each)}
        blinds, found = list(by_blind), {}
        for some in in_parts(blinds, MANY_PARAMETERS):
            these = select(*_STORED).where(is_one_of(associations.c.address_blind, some))
            rows = await self._connection.execute(these)
            found.update({by_blind[row.address_blind]: _stored(row) for row in rows})
        return found

    async def list_by_user(self, user_id: UserId) -> list[Association]:
        """What is bound to a Matrix ID; the oldest first."""
        rows = await self._connection.execute(_LIST_BY_USER, {"user_id": user_id})
        return [self._from_row(row) for row in rows]

    async def list_bound_users(self, *, after: UserId | None, limit: int) -> list[UserId]:
        """The next Matrix IDs that addresses are bound to, in the order of the database, each once."""
        query = select(associations.c.user_id).distinct().order_by(associations.c.user_id).limit(limit)
        if after is not None:
            query = query.where(associations.c.user_id > after)
        return [UserId(user_id) for user_id in (await self._connection.execute(query)).scalars()]

    async def list_by_users(self, user_ids: Collection[UserId]) -> list[tuple[int, Association]]:
        """What is bound to any of a few Matrix IDs, with the ids of the associations."""
        rows = await self._connection.execute(select(associations).where(associations.c.user_id.in_(list(user_ids))))
        return [(row.id, self._from_row(row)) for row in rows]

    async def list_expired_phones(self, *, before_ms: int, limit: int) -> list[int]:
        """The ids of associations of phone numbers whose time was over then."""
        rows = await self._connection.execute(
            select(associations.c.id)
            # As it stands in the index that is made for this; a parameter would be no match for it.
            .where(associations.c.medium == literal_column("'msisdn'"), associations.c.not_after <= before_ms)
            .limit(limit)
        )
        return list(rows.scalars())

    async def are_at_most(self, number: int) -> bool:
        """Whether there are no more than so many; without counting them all."""
        one_more = await self._connection.execute(select(associations.c.id).limit(1).offset(number))
        return one_more.first() is None

    async def list_page(self, *, after_id: int, limit: int) -> list[tuple[int, Association]]:
        """The next associations in the order of their ids."""
        rows = await self._connection.execute(
            select(associations).where(associations.c.id > after_id).order_by(associations.c.id).limit(limit)
        )
        return [(row.id, self._from_row(row)) for row in rows]

    async def list_by_id(self, ids: Sequence[int]) -> list[tuple[int, Association]]:
        """Those of these associations that are still there."""
        if not ids:
            return []
        rows = await self._connection.execute(_LIST_BY_ID, {"ids": ids})
        return [(row.id, self._from_row(row)) for row in rows]

    async def list_changes(self, *, after_seq: int, limit: int, missing: Collection[int] = ()) -> list[Change]:
        """The next entries of the feed, and those of the `missing` that have come since."""
        rows: list[Row[*tuple[Any, ...]]] = []
        if missing:
            # No database takes any number of parameters in one statement; what is left out is asked for next time.
            rows += await self._connection.execute(_FIND_CHANGES, {"seqs": sorted(missing)[:limit]})
        rows += await self._connection.execute(_LIST_CHANGES, {"after_seq": after_seq, "limit": limit})
        return [Change(row.change_seq, row.association_id, row.kind == _ADDED) for row in rows]

    async def find_change(self, seq: int) -> Change | None:
        """One entry of the feed, if it hasn't been trimmed."""
        row = (await self._connection.execute(_FIND_CHANGES, {"seqs": [seq]})).first()
        return None if row is None else Change(row.change_seq, row.association_id, row.kind == _ADDED)

    async def settled_seq(self, *, before_ms: int | None) -> int:
        """The highest number in the feed, or of those entries that are older than that; 0 if there is none."""
        query = select(func.max(_feed.change_seq))
        if before_ms is not None:
            query = query.where(_feed.at_ms < before_ms)
        seq: int | None = (await self._connection.execute(query)).scalar_one()
        return seq or 0

    async def feed_bounds(self) -> tuple[int, int]:
        """The oldest and the newest number in the feed; it begins with 0, which is trimmed in time like all others."""
        row = (await self._connection.execute(_FEED_BOUNDS)).one()
        return row[0] or 0, row[1] or 0

    async def first_change_at_ms(self, *, after_seq: int) -> int | None:
        """When the first change after this number was made; None if there is none."""
        query = select(_feed.at_ms).where(_feed.change_seq > after_seq).order_by(_feed.change_seq).limit(1)
        return (await self._connection.execute(query)).scalar_one_or_none()

    async def trim_changes(self, *, before_ms: int, limit: int) -> int:
        """Drop the oldest entries, so many at most; returns how many.

        The newest of the old ones stays. So whoever has seen everything up to there can tell numbers that were never
        used from a gap, and there always is an entry that has settled.
        """
        is_old = _feed.at_ms < before_ms
        newest = select(func.max(_feed.change_seq)).where(is_old).scalar_subquery()
        over = is_old & (_feed.change_seq < newest)
        return await delete_some(self._connection, association_changes, over, by=_feed.change_seq, limit=limit)

    async def _find_row(self, threepid: Threepid) -> Row[Any] | None:
        return (await self._connection.execute(_FIND, {"blinds": self._sealer.blinds(threepid)})).first()

    async def _record(self, association_id: int, kind: str, now_ms: int) -> None:
        self.changed = True
        await self._connection.execute(_RECORD, {"association_id": association_id, "kind": kind, "at_ms": now_ms})

    async def _record_all(self, ids: Sequence[int], kind: str, now_ms: int) -> None:
        self.changed = True
        changes = [{"association_id": each, "kind": kind, "at_ms": now_ms} for each in ids]
        await insert_many(self._connection, association_changes, changes)

    def _to_row(self, association_id: int, association: Association) -> dict[str, Any]:
        return {
            "id": association_id,
            "medium": association.threepid.medium.value,
            "address_blind": self._sealer.blind(association.threepid),
            "key_id": self._sealer.key_id,
            "sealed_address": self._sealer.seal(_ADDRESS, association_id, association.threepid.address),
            "user_id": association.user_id,
            "ts": association.ts,
            "not_before": association.not_before,
            "not_after": association.not_after,
            "visibility": association.visibility.value,
        }

    def _from_row(self, row: Row[Any]) -> Association:
        address = self._sealer.open(_ADDRESS, row.id, row.key_id, row.sealed_address)
        return Association(
            threepid=Threepid(Medium(row.medium), address),
            user_id=row.user_id,
            ts=row.ts,
            not_before=row.not_before,
            not_after=row.not_after,
            visibility=Visibility(row.visibility),
        )


def _stored(row: Row[Any]) -> StoredAssociation:
    return StoredAssociation(row.id, row.user_id, row.ts, Visibility(row.visibility))
