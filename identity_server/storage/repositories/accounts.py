"""Accounts, their access tokens, and the terms they accepted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select, update

from identity_server.domain.account import Account
from identity_server.domain.account_holdings import TokenTimes
from identity_server.domain.identifiers import UserId
from identity_server.domain.terms import Acceptance
from identity_server.storage.bulk import delete_some, in_parts
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import accepted_terms, access_tokens, accounts

_terms = accepted_terms.c
_FIND_ACCOUNT = Prepared(select(accounts).where(accounts.c.user_id == bindparam("user_id")))
_ADD_ACCOUNT = Prepared(insert(accounts))
_LIST_ACCEPTED = Prepared(
    select(_terms.policy_id, _terms.version, _terms.language, _terms.url).where(
        _terms.user_id == bindparam("user_id")
    )
)
_ADD_TOKEN = Prepared(insert(access_tokens))
_FIND_TOKEN = Prepared(select(access_tokens).where(access_tokens.c.token_digest == bindparam("digest")))
_REMOVE_TOKEN = Prepared(delete(access_tokens).where(access_tokens.c.token_digest == bindparam("digest")))


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """What is stored of an account beside its name."""

    created_at_ms: int
    agreed_master_version: str | None


class Accounts:
    """Accounts and their consent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add_if_new(self, user_id: UserId, *, now_ms: int) -> None:
        """Make sure that the account exists; an existing one keeps everything, its consent above all."""
        if not await self.exists(user_id):
            await self._connection.execute(_ADD_ACCOUNT, {"user_id": user_id, "created_at_ms": now_ms})

    async def exists(self, user_id: UserId) -> bool:
        """Whether there is an account of this Matrix ID."""
        return await self.find(user_id) is not None

    async def list_accepted(self, user_id: UserId) -> frozenset[Acceptance]:
        """Everything that the account ever accepted."""
        rows = await self._connection.execute(_LIST_ACCEPTED, {"user_id": user_id})
        return frozenset(Acceptance(*row) for row in rows)

    async def list_accepted_with_times(self, user_id: UserId) -> list[tuple[Acceptance, int]]:
        """Everything that the account ever accepted, and when; the oldest first."""
        rows = await self._connection.execute(
            select(_terms.policy_id, _terms.version, _terms.language, _terms.url, _terms.accepted_at_ms)
            .where(_terms.user_id == user_id)
            .order_by(_terms.accepted_at_ms, _terms.url)
        )
        return [(Acceptance(*row[:4]), row[4]) for row in rows]

    async def find(self, user_id: UserId) -> StoredAccount | None:
        """The account itself, if there is one."""
        row = (await self._connection.execute(_FIND_ACCOUNT, {"user_id": user_id})).first()
        return None if row is None else StoredAccount(row.created_at_ms, row.agreed_master_version)

    async def find_agreed_master_version(self, user_id: UserId) -> str | None:
        """The version of a Sydent terms file that the account has agreed to, if any."""
        found = await self.find(user_id)
        return None if found is None else found.agreed_master_version

    async def accept(self, user_id: UserId, acceptances: Collection[Acceptance], *, now_ms: int) -> None:
        """Remember acceptances; what was accepted before keeps its first time."""
        known = await self.list_accepted(user_id)
        new = [each for each in dict.fromkeys(acceptances) if each not in known]
        if new:
            await self._connection.execute(
                insert(accepted_terms),
                [
                    {
                        "user_id": user_id,
                        "policy_id": each.policy_id,
                        "version": each.version,
                        "language": each.language,
                        "url": each.url,
                        "accepted_at_ms": now_ms,
                    }
                    for each in new
                ],
            )

    async def agree_to_master_version(self, user_id: UserId, master_version: str) -> None:
        """Remember that the account agreed to this version of a Sydent terms file."""
        await self._connection.execute(
            update(accounts).where(accounts.c.user_id == user_id).values(agreed_master_version=master_version)
        )


class AccessTokens:
    """Access tokens, known here by their digest alone.

    Attributes:
        revoked: whether this transaction ended the life of any before its time.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.revoked = False

    async def add(self, digest: bytes, user_id: UserId, *, now_ms: int) -> None:
        """Store a new token."""
        row = {"token_digest": digest, "user_id": user_id, "created_at_ms": now_ms, "last_used_at_ms": now_ms}
        await self._connection.execute(_ADD_TOKEN, row)

    async def find(self, digest: bytes) -> Account | None:
        """The account that a token stands for, with the token's last recorded use."""
        row = (await self._connection.execute(_FIND_TOKEN, {"digest": digest})).first()
        if row is None:
            return None
        return Account(
            user_id=UserId(row.user_id),
            token_digest=digest,
            token_last_used_at_ms=row.last_used_at_ms,
        )

    async def list_times(self, user_id: UserId) -> list[TokenTimes]:
        """When an account's tokens were given out and last used; the oldest first."""
        columns = access_tokens.c.created_at_ms, access_tokens.c.last_used_at_ms
        theirs = access_tokens.c.user_id == user_id
        return [
            TokenTimes(*row)
            for row in await self._connection.execute(select(*columns).where(theirs).order_by(*columns))
        ]

    async def remove(self, digest: bytes) -> None:
        """Forget a token."""
        self.revoked = True
        await self._connection.execute(_REMOVE_TOKEN, {"digest": digest})

    async def record_use(self, digests: Collection[bytes], *, now_ms: int) -> None:
        """Note that these tokens were used today."""
        for some in in_parts(list(digests)):
            await self._connection.execute(
                update(access_tokens).where(access_tokens.c.token_digest.in_(some)).values(last_used_at_ms=now_ms)
            )

    async def cleanup(self, *, unused_since_ms: int, limit: int) -> int:
        """Remove tokens not used after that moment, so many at most; returns how many."""
        by = access_tokens.c.last_used_at_ms
        return await delete_some(self._connection, access_tokens, by <= unused_since_ms, by=by, limit=limit)
