"""Where a person's data is, table by table; and its removal.

The rule: every table has its place here, and a test fails for one that hasn't. So whatever comes to be stored about
people, somebody has said how it goes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, delete, select

from identity_server.domain.identifiers import ServerName, Threepid, UserId
from identity_server.storage.bulk import in_parts
from identity_server.storage.connection import Connection
from identity_server.storage.repositories.accounts import AccessTokens
from identity_server.storage.repositories.associations import Associations
from identity_server.storage.schema.tables import (
    accepted_terms,
    access_tokens,
    accounts,
    asked_addresses,
    association_changes,
    associations,
    audit_chain,
    audit_heads,
    audit_pending,
    bound_users,
    chores,
    ephemeral_keys,
    imports,
    invites,
    jobs,
    key_holdouts,
    lookup_budgets,
    peppers,
    rate_limits,
    refused_addresses,
    retired_keys,
    server_keys,
    terms_in_force,
    validation_sessions,
    validation_tokens,
    visits,
)
from identity_server.storage.sealing.sealer import Sealer
from identity_server.storage.sealing.visited import visited_digests

UserColumn = Column[Any]
"""A column with Matrix IDs."""
Digests = Callable[[Sealer, Threepid], Sequence[bytes]]
"""What a column may hold for an address."""

_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class Place:
    """A table whose rows are about people, each row about those that its columns name.

    Attributes:
        by_user: columns with a Matrix ID.
        by_address: columns that stand for an address, and how.
        followed_by: rows of other tables that go along: their column, and the one of this table that it names.
    """

    table: Table
    by_user: tuple[UserColumn, ...] = ()
    by_address: Mapping[Column[Any], Digests] = field(default_factory=dict)
    followed_by: Mapping[Column[Any], Column[Any]] = field(default_factory=dict)


PLACES = (
    Place(
        validation_sessions,
        by_user=(validation_sessions.c.requested_by,),
        by_address={validation_sessions.c.address_blind: Sealer.blinds},
        followed_by={validation_tokens.c.sid: validation_sessions.c.sid},
    ),
    Place(
        invites,
        by_user=(invites.c.sender,),
        by_address={invites.c.address_blind: Sealer.blinds},
        # Revoked, it would still be known here; of a key that isn't known, homeservers are told the same.
        followed_by={ephemeral_keys.c.public_key: invites.c.public_key},
    ),
    Place(visits, by_address={visits.c.address_digest: visited_digests}),
    Place(
        associations,
        by_user=(associations.c.user_id,),
        by_address={associations.c.address_blind: Sealer.blinds},
    ),
    Place(accepted_terms, by_user=(accepted_terms.c.user_id,)),
    Place(access_tokens, by_user=(access_tokens.c.user_id,)),
    Place(accounts, by_user=(accounts.c.user_id,)),
)
"""In an order that breaks no reference."""

BY_USER = tuple(column for place in PLACES for column in place.by_user)
"""Every column with Matrix IDs."""

OTHERWISE: Mapping[Table, str] = {
    jobs: "sealed as a whole: the use case opens them and says which",
    rate_limits: "keyed digests of a limit and whom it counts: the use case knows the limits",
    lookup_budgets: "keyed digests of whom addresses were counted for: the use case has those of an account removed",
    asked_addresses: "the same",
    refused_addresses: "a keyed digest that its owner wants kept, unless told otherwise",
    validation_tokens: "go with their session",
    ephemeral_keys: "go with their invite; those of invites that have been delivered lead to nobody",
}
"""What is about people, and is erased in a way of its own."""

NOBODY: Mapping[Table, str] = {
    server_keys: "fingerprints of this server's own keys",
    retired_keys: "secrets of this server's own, sealed: nothing of anybody",
    key_holdouts: "processes that lack a key",
    association_changes: "random ids, which lead nowhere once their association is gone",
    peppers: "the same for everybody",
    audit_pending: "names no one; erasing it would be how to hide what was done",
    audit_chain: "the same",
    audit_heads: "the same",
    bound_users: "how many a homeserver has",
    terms_in_force: "the same for everybody",
    imports: "how far an import has come",
    chores: "when something was done last",
}
"""What says nothing about anybody, and why."""


@dataclass(frozen=True, slots=True)
class People:
    """Whose data is meant: by Matrix IDs, and by addresses."""

    user_ids: frozenset[UserId] = frozenset()
    threepids: frozenset[Threepid] = frozenset()

    def __or__(self, others: People) -> People:
        return People(self.user_ids | others.user_ids, self.threepids | others.threepids)


class Erasures:
    """Finds and removes what is about people."""

    def __init__(
        self, connection: Connection, sealer: Sealer, associations: Associations, access_tokens: AccessTokens
    ) -> None:
        self._connection = connection
        self._sealer = sealer
        self._associations = associations
        self._access_tokens = access_tokens

    async def list_user_ids(self, column: UserColumn, *, of: ServerName | None, after: str) -> list[UserId]:
        """The next Matrix IDs in a column of `BY_USER`, in their order: all, or those that may be of this homeserver."""
        query = select(column).distinct().where(column > after).order_by(column).limit(_PAGE)
        if of is not None:
            query = query.where(column.endswith(f":{of}", autoescape=True))
        return [UserId(user_id) for user_id in (await self._connection.execute(query)).scalars()]

    async def remove(self, people: People, *, now_ms: int) -> Counter[str]:
        """Remove every row of `PLACES` that is about any of them; returns how many, by table."""
        removed: Counter[str] = Counter()
        for place in PLACES:
            for condition in self._conditions(place, people):
                removed += await self._remove(place, condition, now_ms=now_ms)
        return removed

    def traces(self, people: People) -> frozenset[bytes]:
        """What a row about any of them can be told by, wherever it may have been left."""
        digests = {digests for place in PLACES for digests in place.by_address.values()}
        blinds = {
            blind for each in digests for threepid in people.threepids for blind in each(self._sealer, threepid)
        }
        return frozenset({user_id.encode() for user_id in people.user_ids} | blinds)

    def _conditions(self, place: Place, people: People) -> Iterator[ColumnElement[bool]]:
        for column in place.by_user:
            yield from (column.in_(some) for some in in_parts(sorted(people.user_ids)))
        for column, digests in place.by_address.items():
            written = [each for threepid in people.threepids for each in digests(self._sealer, threepid)]
            yield from (column.in_(some) for some in in_parts(sorted(written)))

    async def _remove(self, place: Place, condition: ColumnElement[bool], *, now_ms: int) -> Counter[str]:
        removed: Counter[str] = Counter()
        for follower, followed in place.followed_by.items():
            along = delete(follower.table).where(follower.in_(select(followed).where(condition)))
            removed[follower.table.name] = (await self._connection.execute(along)).rowcount
        if place.table is associations:
            # Readers of the change feed have to hear of it.
            ids = (await self._connection.execute(select(associations.c.id).where(condition))).scalars().all()
            for some in in_parts(ids):
                await self._associations.remove_all(some, now_ms=now_ms)
            removed[place.table.name] = len(ids)
            return removed
        gone = await self._connection.execute(delete(place.table).where(condition))
        removed[place.table.name] = gone.rowcount
        if place.table is access_tokens and gone.rowcount:
            self._access_tokens.revoked = True
        return removed
