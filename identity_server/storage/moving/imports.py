"""Rows that arrive by the thousand from another server's database, and how far such an import has come.

The rule: what is here already stays as it is; whoever adds asks first what is here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, insert, select, update

from identity_server.domain.identifiers import UserId
from identity_server.domain.terms import Acceptance
from identity_server.storage.bulk import MANY_PARAMETERS, in_parts, insert_many
from identity_server.storage.connection import Connection
from identity_server.storage.schema.tables import (
    accepted_terms,
    access_tokens,
    accounts,
    ephemeral_keys,
    imports,
    invites,
)

# A batch of bindings changes pages all over the database. They should fit, and be copied back from the log only
# after several batches, or SQLite reads and writes the same pages over and over.
_CACHE_KIB = 40 * 1024
_LOG_PAGES = 25_000


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account as another server knew it.

    Attributes:
        agreed_master_version: of a Sydent terms file.
    """

    user_id: UserId
    created_at_ms: int
    agreed_master_version: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a table has been imported.

    Attributes:
        last_row: rows up to this one are known.
        at_ms: since when.
    """

    last_row: int
    at_ms: int


class Imports:
    """Many rows at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def expect_many(self) -> None:
        """Prepare this connection for thousands of rows."""
        if self._connection.dialect.name == "sqlite":
            await self._connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KIB}")
            await self._connection.exec_driver_sql(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")

    # --- how far --------------------------------------------------------------------------

    async def marks(self, source: str) -> dict[str, Mark]:
        """How far each table of that source is known here."""
        rows = await self._connection.execute(select(imports).where(imports.c.source == source))
        return {row.table_name: Mark(row.last_row, row.at_ms) for row in rows}

    async def set_mark(self, source: str, table: str, last_row: int, *, now_ms: int) -> None:
        """Remember that everything up to this row is known."""
        await self._connection.execute(
            delete(imports).where(imports.c.source == source, imports.c.table_name == table)
        )
        await self._connection.execute(
            insert(imports).values(source=source, table_name=table, last_row=last_row, at_ms=now_ms)
        )

    # --- accounts -------------------------------------------------------------------------

    async def find_accounts(self, user_ids: Collection[UserId]) -> dict[str, str | None]:
        """Those of these accounts that are here, with the master version that each agreed to."""
        found: dict[str, str | None] = {}
        for some in in_parts(list(user_ids), MANY_PARAMETERS):
            rows = await self._connection.execute(
                select(accounts.c.user_id, accounts.c.agreed_master_version).where(accounts.c.user_id.in_(some))
            )
            found.update({row.user_id: row.agreed_master_version for row in rows})
        return found

    async def add_accounts(self, new: Collection[NewAccount]) -> None:
        """Add accounts that aren't here."""
        await self._insert(
            accounts,
            [
                {
                    "user_id": each.user_id,
                    "created_at_ms": each.created_at_ms,
                    "agreed_master_version": each.agreed_master_version,
                }
                for each in new
            ],
        )

    async def set_master_versions(self, versions: Mapping[UserId, str]) -> None:
        """Remember what accounts have agreed to."""
        for user_id, version in versions.items():
            await self._connection.execute(
                update(accounts).where(accounts.c.user_id == user_id).values(agreed_master_version=version)
            )

    async def find_tokens(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of these access tokens that are here."""
        return await self._find(access_tokens.c.token_digest, digests)

    async def add_tokens(self, new: Mapping[bytes, UserId], *, now_ms: int) -> None:
        """Add access tokens that aren't here; their last use counts from now."""
        await self._insert(
            access_tokens,
            [
                {"token_digest": digest, "user_id": user_id, "created_at_ms": now_ms, "last_used_at_ms": now_ms}
                for digest, user_id in new.items()
            ],
        )

    async def find_accepted_urls(self, user_ids: Collection[UserId]) -> set[tuple[str, str]]:
        """Account and URL of everything that these accounts have accepted."""
        found: set[tuple[str, str]] = set()
        for some in in_parts(list(user_ids), MANY_PARAMETERS):
            rows = await self._connection.execute(
                select(accepted_terms.c.user_id, accepted_terms.c.url).where(accepted_terms.c.user_id.in_(some))
            )
            found.update((row.user_id, row.url) for row in rows)
        return found

    async def add_accepted(self, new: Collection[tuple[UserId, Acceptance]], *, now_ms: int) -> None:
        """Add acceptances that aren't here."""
        await self._insert(
            accepted_terms,
            [
                {
                    "user_id": user_id,
                    "policy_id": each.policy_id,
                    "version": each.version,
                    "language": each.language,
                    "url": each.url,
                    "accepted_at_ms": now_ms,
                }
                for user_id, each in new
            ],
        )

    # --- invites --------------------------------------------------------------------------

    async def find_invites(self, token_digests: Collection[bytes]) -> set[bytes]:
        """Those of these invites that are here."""
        return await self._find(invites.c.token_digest, token_digests)

    async def find_ephemeral_keys(self, public_keys: Collection[bytes]) -> set[bytes]:
        """Those of these keys that are here, revoked ones included."""
        return await self._find(ephemeral_keys.c.public_key, public_keys)

    async def add_ephemeral_keys(self, new: Mapping[bytes, int], *, valid_until_ms: int) -> None:
        """Add keys that aren't here, with the time that each was made."""
        await self._insert(
            ephemeral_keys,
            [
                {"public_key": key, "created_at_ms": made_ms, "valid_until_ms": valid_until_ms, "revoked": False}
                for key, made_ms in new.items()
            ],
        )

    async def _find(self, column: ColumnElement[bytes], values: Collection[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for some in in_parts(list(values), MANY_PARAMETERS):
            found.update((await self._connection.execute(select(column).where(column.in_(some)))).scalars())
        return found

    async def _insert(self, table: Table, rows: list[dict[str, Any]]) -> None:
        for some in in_parts(rows, MANY_PARAMETERS):
            await insert_many(self._connection, table, some)
