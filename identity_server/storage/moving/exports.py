"""Whole tables, page by page, for whoever takes them elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, tuple_

from identity_server.storage.connection import Connection
from identity_server.storage.moving.imports import NewAccount
from identity_server.storage.schema.tables import accepted_terms, accounts, ephemeral_keys

_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class AcceptedUrl:
    """That an account accepted the document at a URL."""

    user_id: str
    url: str


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A public key of an invite that still counts."""

    public_key: bytes
    created_at_ms: int


class Exports:
    """Pages in the order of their keys; each call goes on after the last row of the page before."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def accounts(self, *, after: NewAccount | None) -> list[NewAccount]:
        """Accounts."""
        query = select(accounts).order_by(accounts.c.user_id).limit(_PAGE)
        if after is not None:
            query = query.where(accounts.c.user_id > after.user_id)
        rows = await self._connection.execute(query)
        return [NewAccount(row.user_id, row.created_at_ms, row.agreed_master_version) for row in rows]

    async def accepted_urls(self, *, after: AcceptedUrl | None) -> list[AcceptedUrl]:
        """What was accepted, each URL once per account."""
        columns = accepted_terms.c.user_id, accepted_terms.c.url
        query = select(*columns).distinct().order_by(*columns).limit(_PAGE)
        if after is not None:
            query = query.where(tuple_(*columns) > (after.user_id, after.url))
        return [AcceptedUrl(row.user_id, row.url) for row in await self._connection.execute(query)]

    async def ephemeral_keys(self, *, after: LiveKey | None, now_ms: int) -> list[LiveKey]:
        """Keys that are neither revoked nor over."""
        query = (
            select(ephemeral_keys)
            .where(ephemeral_keys.c.revoked.is_(False), ephemeral_keys.c.valid_until_ms > now_ms)
            .order_by(ephemeral_keys.c.public_key)
            .limit(_PAGE)
        )
        if after is not None:
            query = query.where(ephemeral_keys.c.public_key > after.public_key)
        return [LiveKey(row.public_key, row.created_at_ms) for row in await self._connection.execute(query)]
