"""What has been used of the budgets for lookups, and what each account has asked for already.

The rule: whom something is counted for is a keyed digest. What was asked is sealed besides: it would show who knows the
same people, and, beside the index file, whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, insert, or_, select, update

from identity_server.domain.budgets import BudgetKind, Holder, Usage
from identity_server.domain.identifiers import UserId
from identity_server.storage.bulk import delete_some, in_parts
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import asked_addresses, bound_users, lookup_budgets
from identity_server.storage.sealing.sealer import Sealer, is_among, is_one_of

_SEALED = "asked_addresses.sealed_keys"

_FIND = Prepared(select(lookup_budgets).where(is_among(lookup_budgets.c.holder_digest, "digests")))
_ADD = Prepared(insert(lookup_budgets))
_SAVE = Prepared(
    update(lookup_budgets).where(
        lookup_budgets.c.holder_digest == bindparam("of_digest"),
        lookup_budgets.c.pepper_id == bindparam("of_pepper_id"),
    )
)
_ADD_ASKED = Prepared(insert(asked_addresses))
_ASKED = select(
    asked_addresses.c.id, asked_addresses.c.holder_digest, asked_addresses.c.key_id, asked_addresses.c.sealed_keys
).where(
    is_among(asked_addresses.c.holder_digest, "digests"),
    asked_addresses.c.pepper_id == bindparam("pepper_id"),
    asked_addresses.c.key_id == bindparam("key_id"),
)
_LIST_ASKED = Prepared(_ASKED)
_LIST_MORE_ASKED = Prepared(_ASKED.where(asked_addresses.c.id.not_in(bindparam("known", expanding=True))))
_COUNT_BOUND = Prepared(
    select(bound_users).where(is_among(bound_users.c.kind, "kinds"), is_among(bound_users.c.name, "names"))
)


class AskedRow(NamedTuple):
    """Some of what an account has asked for.

    Attributes:
        id: random.
        holder: the account, under a pepper.
        keys: of what it has asked for, one after the other.
    """

    id: int
    holder: Holder
    keys: bytes


class Budgets:
    """Usage by holder; what was asked by account and pepper; how many users are bound."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer
        self._digests_of: dict[Holder, list[bytes]] = {}

    # --- usage ----------------------------------------------------------------------------

    async def find(self, holders: Collection[Holder]) -> dict[Holder, Usage]:
        """What these have used; those that have used nothing yet are left out."""
        found = {}
        holder_of = {(digest, each.pepper_id): each for each in holders for digest in self._digests(each)}
        digests = [digest for digest, _ in holder_of]
        for some in in_parts(digests):
            for row in await self._connection.execute(_FIND, {"digests": some}):
                holder = holder_of.get((row.holder_digest, row.pepper_id))
                if holder is not None:
                    found[holder] = Usage(day=row.day, today=row.today, once=row.once)
        return found

    async def add(self, usages: Mapping[Holder, Usage]) -> None:
        """Note what holders have used that have used nothing yet."""
        if usages:
            await self._connection.execute(_ADD, self._to_rows(usages))

    async def save(self, usages: Mapping[Holder, Usage]) -> None:
        """Note what holders have used by now."""
        if not usages:
            return
        rows = self._to_rows(usages)
        # A row may still have the digest of an earlier root key; it is then given the newest's.
        for digests in zip(*map(self._digests, usages), strict=True):
            theirs = [
                {"of_digest": digest, "of_pepper_id": row["pepper_id"], **row}
                for digest, row in zip(digests, rows, strict=True)
            ]
            await self._connection.execute(_SAVE, theirs)

    def _to_rows(self, usages: Mapping[Holder, Usage]) -> list[dict[str, Any]]:
        return [
            {
                "holder_digest": self._digests(holder)[0],
                "pepper_id": holder.pepper_id,
                "day": usage.day,
                "today": usage.today,
                "once": usage.once,
            }
            for holder, usage in usages.items()
        ]

    # --- what was asked -------------------------------------------------------------------

    async def add_asked(self, rows: Collection[AskedRow]) -> None:
        """Store keys of what accounts have asked for."""
        values = [
            {
                "id": row.id,
                "holder_digest": self._digests(row.holder)[0],
                "pepper_id": row.holder.pepper_id,
                "key_id": self._sealer.key_id,
                "sealed_keys": self._sealer.seal_bytes(_SEALED, row.id, row.keys),
            }
            for row in rows
        ]
        if values:
            await self._connection.execute(_ADD_ASKED, values)

    async def list_asked(self, holders: Collection[Holder], *, known: Collection[int] = ()) -> list[AskedRow]:
        """What accounts have asked for, without those rows that are known.

        What was written under another root key is left out: an index of that key is no longer asked. So when a root key has
        taken another's place, each account is charged once more for what it asks for again; never for less.
        """
        found: list[AskedRow] = []
        statement, more = (_LIST_MORE_ASKED, {"known": list(known)}) if known else (_LIST_ASKED, {})
        for pepper_id, theirs in groupby(sorted(holders, key=_pepper_id), key=_pepper_id):
            holder_of = {digest: holder for holder in theirs for digest in self._digests(holder)}
            for some in in_parts(list(holder_of)):
                which = {"digests": some, "pepper_id": pepper_id, "key_id": self._sealer.key_id}
                rows = await self._connection.execute(statement, {**which, **more})
                found += [AskedRow(row.id, holder_of[row.holder_digest], self._opened(row)) for row in rows]
        return found

    def _opened(self, row: Any) -> bytes:
        return self._sealer.open_bytes(_SEALED, row.id, row.key_id, row.sealed_keys)

    async def remove_asked(self, ids: Collection[int]) -> None:
        """Remove rows whose keys stand in another one now."""
        await self._connection.execute(delete(asked_addresses).where(asked_addresses.c.id.in_(ids)))

    async def remove_of(self, user_id: UserId) -> Counter[str]:
        """Remove everything that is kept of an account, under whatever pepper; returns how many rows, by table.

        What it has used of its homeserver's and network's budgets stays: those are nobody's in particular.
        """
        digests = self._digests(Holder(BudgetKind.ACCOUNT, user_id))
        removed: Counter[str] = Counter()
        for table in (lookup_budgets, asked_addresses):
            result = await self._connection.execute(delete(table).where(is_one_of(table.c.holder_digest, digests)))
            removed[table.name] = result.rowcount
        return removed

    async def cleanup_asked(self, *, before_pepper_id: int, limit: int) -> int:
        """Remove what was asked under earlier peppers or another root key, so many rows at most; returns how many."""
        asked = asked_addresses.c
        is_over = (asked.pepper_id < before_pepper_id) | (asked.key_id != self._sealer.key_id)
        return await delete_some(self._connection, asked_addresses, is_over, by=asked.pepper_id, limit=limit)

    async def cleanup(self, *, before_pepper_id: int, before_day: int, limit: int) -> int:
        """Remove what was used under earlier peppers or on earlier days, so many holders' at most; returns how many rows."""
        budgets = lookup_budgets.c
        is_over = or_(
            budgets.pepper_id.between(1, before_pepper_id - 1),
            (budgets.pepper_id == 0) & (budgets.day < before_day),
        )
        some = select(budgets.holder_digest).where(is_over).limit(limit)
        result = await self._connection.execute(
            delete(lookup_budgets).where(is_over, budgets.holder_digest.in_(some))
        )
        return result.rowcount

    # --- how many users are bound -----------------------------------------------------------

    async def count_bound(self, holders: Collection[Holder]) -> dict[Holder, int]:
        """How many users of homeservers and domains an address is bound to; those with few are left out."""
        kinds, names = {holder.kind.value for holder in holders}, {holder.name for holder in holders}
        rows = await self._connection.execute(_COUNT_BOUND, {"kinds": list(kinds), "names": list(names)})
        found = {(row.kind, row.name): row.users for row in rows}
        return {each: found[each.kind, each.name] for each in holders if (each.kind, each.name) in found}

    async def put_bound(self, counts: Mapping[Holder, int]) -> None:
        """Store these counts in place of all earlier ones."""
        await self._connection.execute(delete(bound_users))
        rows: Sequence[dict[str, Any]] = [
            {"kind": holder.kind.value, "name": holder.name, "users": users} for holder, users in counts.items()
        ]
        if rows:
            await self._connection.execute(insert(bound_users), rows)

    def _digests(self, holder: Holder) -> list[bytes]:
        # Not of the pepper: what is kept of an account can be found without knowing under which it has asked.
        digests = self._digests_of.get(holder)
        if digests is None:
            digests = self._digests_of[holder] = self._sealer.digests("lookup budget", holder.kind.value, holder.name)
        return digests


def _pepper_id(holder: Holder) -> int:
    return holder.pepper_id
