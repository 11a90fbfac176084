"""A fault in the middle of something leaves nothing wrong behind, and load on one thing doesn't stop the others."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from identity_server.domain.errors import Unavailable
from identity_server.domain.identifiers import UserId
from identity_server.index.building import IndexBuilder
from identity_server.services.lookup.hashed_lookup import Asker
from identity_server.storage.database import Transaction
from tests.support import make
from tests.support.databases import on_postgresql, open_database
from tests.support.fakes import START_MS
from tests.support.harness import running
from tests.support.indexes import find, new_index

ALICE = UserId("@alice:example.org")
POSTGRESQL_PARAMETERS = 32_767


async def test_unbound_address_is_not_found_after_a_rebuild_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(tmp_path) as database, open_database(tmp_path) as other:
        await database.transaction(lambda tx: tx.peppers.add("first", now_ms=START_MS))
        index = new_index(database, tmp_path)
        await database.transaction(lambda tx: tx.associations.put(1, make.association("alice@example.com")))
        await index.start()
        assert find(index) is not None
        # Behind the index's back: unbound, and the feed trimmed so that only building anew will do.
        await other.transaction(lambda tx: tx.associations.put(2, make.association("bob@example.com")))
        await other.transaction(lambda tx: tx.associations.remove(make.email("alice@example.com"), now_ms=START_MS))
        await other.transaction(lambda tx: tx.associations.put(3, make.association("eve@example.com")))
        await other.transaction(lambda tx: tx.associations.trim_changes(before_ms=START_MS * 2, limit=1_000))

        async def fails(_builder: IndexBuilder) -> Any:
            raise Unavailable
            yield  # makes it a generator, as the real one

        with monkeypatch.context() as patch:
            patch.setattr(IndexBuilder, "_pages", fails)
            with pytest.raises(Unavailable):
                await index.catch_up()
        await index.catch_up()
        assert find(index) is None
        await index.close()


async def test_exhausted_pool_is_a_passing_failure(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:

        async def use_case(_tx: Transaction) -> None:
            raise PoolTimeout("QueuePool limit reached")

        with pytest.raises(Unavailable):
            await database.read(use_case)


async def test_any_number_of_tokens_used_in_a_minute_is_recorded(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        digests = {number.to_bytes(32, "big") for number in range(2 * POSTGRESQL_PARAMETERS)}
        known = (7).to_bytes(32, "big")

        async def use_case(tx: Transaction) -> int:
            driver: Any = (await tx.access_tokens._connection.sqlalchemy.get_raw_connection()).driver_connection
            if not on_postgresql():
                limit = sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER
                await driver._execute(driver._conn.setlimit, limit, POSTGRESQL_PARAMETERS)
            await tx.accounts.add_if_new(ALICE, now_ms=START_MS)
            await tx.access_tokens.add(known, ALICE, now_ms=START_MS)
            await tx.access_tokens.record_use(digests, now_ms=START_MS + 5)
            account = await tx.access_tokens.find(known)
            assert account is not None
            return account.token_last_used_at_ms

        assert await database.transaction(use_case) == START_MS + 5


async def test_large_plain_lookup_lets_others_have_their_turn(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"LOOKUP__ALGORITHMS": "sha256,none"}) as server:
        alice = await server.register()
        pepper = await server.pepper(alice)
        addresses = [f"user{number}@example{number}.com email" for number in range(2_000)]
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count_turns())
        found = server.system.services.lookup.lookup(
            asker=Asker(UserId(alice.user_id), lambda: "local"), algorithm="none", pepper=pepper, queries=addresses
        )
        await found
        counting.cancel()
        assert turns >= 15
