"""Since when terms are in force, and which accounts haven't accepted them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from identity_server.domain.identifiers import UserId
from identity_server.domain.terms import Acceptance
from identity_server.storage.connection import Connection
from identity_server.storage.schema.tables import accepted_terms, accounts, terms_in_force


@dataclass(frozen=True, slots=True)
class Consent:
    """What an account has agreed to.

    Attributes:
        created_at_ms: since when it is there.
        warned_at_ms: when it was last warned that it has to agree; None if it never was.
        agreed_master_version: of a Sydent terms file.
        accepted: everything that it ever accepted.
    """

    created_at_ms: int
    warned_at_ms: int | None
    agreed_master_version: str | None
    accepted: frozenset[Acceptance]


class Consents:
    """Terms by their digests, and accounts page by page."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def since_ms(self, terms_digest: bytes, *, now_ms: int) -> int:
        """Since when these terms are in force: from now if others were the last that were asked about."""
        since: int | None = (
            await self._connection.execute(
                select(terms_in_force.c.since_ms).where(terms_in_force.c.terms_digest == terms_digest)
            )
        ).scalar_one_or_none()
        if since is not None:
            return since
        await self._connection.execute(delete(terms_in_force))
        await self._connection.execute(insert(terms_in_force).values(terms_digest=terms_digest, since_ms=now_ms))
        return now_ms

    async def list_page(self, *, after: str, limit: int) -> Mapping[UserId, Consent]:
        """The next accounts in the order of their Matrix IDs."""
        ids = select(accounts.c.user_id).where(accounts.c.user_id > after).order_by(accounts.c.user_id).limit(limit)
        return await self.list_of((await self._connection.execute(ids)).scalars().all())

    async def list_of(self, user_ids: Collection[str]) -> Mapping[UserId, Consent]:
        """A few accounts, in the order of their Matrix IDs; those that aren't there are left out."""
        terms = accepted_terms.c
        accepted = defaultdict(set)
        for row in await self._connection.execute(
            select(terms.user_id, terms.policy_id, terms.version, terms.language, terms.url).where(
                terms.user_id.in_(list(user_ids))
            )
        ):
            accepted[row.user_id].add(Acceptance(row.policy_id, row.version, row.language, row.url))
        rows = await self._connection.execute(
            select(accounts).where(accounts.c.user_id.in_(list(user_ids))).order_by(accounts.c.user_id)
        )
        return {
            UserId(row.user_id): Consent(
                row.created_at_ms, row.warned_at_ms, row.agreed_master_version, frozenset(accepted[row.user_id])
            )
            for row in rows
        }

    async def note_warned(self, user_ids: Collection[UserId], *, now_ms: int) -> None:
        """Note that a few accounts have been warned."""
        await self._connection.execute(
            update(accounts).where(accounts.c.user_id.in_(list(user_ids))).values(warned_at_ms=now_ms)
        )
