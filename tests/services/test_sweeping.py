"""Sweeps remove thousands of rows in small transactions, and what isn't over stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, Table, insert

from identity_server.domain.association import Visibility
from identity_server.domain.durations import DAY_MS
from identity_server.domain.identifiers import parse_user_id
from identity_server.domain.retention import CHANGES_KEPT_MS, UNPROVEN_PHONE_MS
from identity_server.domain.validation import SESSION_TOMBSTONE_MS
from identity_server.services import Services
from identity_server.services.sweeping import BATCH
from identity_server.storage.database import Transaction
from identity_server.storage.engines.opening import make_engine
from identity_server.storage.schema.tables import metadata
from tests.support.databases import url_for
from tests.support.harness import ALICE, Harness

OVER, LIVE = 3 * BATCH + 7, 5
TOKEN_LIFETIME_MS = 60 * DAY_MS

# What is swept, by table; the column that says when a row is over, and how long after that time it goes.
SWEPT: dict[str, tuple[str, int, Callable[[Services], Awaitable[int]]]] = {
    "validation_sessions": ("expires_at_ms", SESSION_TOMBSTONE_MS, lambda services: services.validation.cleanup()),
    "validation_tokens": ("expires_at_ms", 0, lambda services: services.validation.cleanup()),
    "access_tokens": ("last_used_at_ms", TOKEN_LIFETIME_MS, lambda services: services.accounts.cleanup()),
    "rate_limits": ("whole_again_at_ms", 0, lambda services: services.limits.cleanup()),
    "visits": ("expires_at_ms", 0, lambda services: services.visits.cleanup()),
    "invites": ("expires_at_ms", 0, lambda services: services.invitations.cleanup()),
    "ephemeral_keys": ("valid_until_ms", 0, lambda services: services.public_keys.cleanup()),
    "associations": ("not_after", UNPROVEN_PHONE_MS, lambda services: services.associations.sweep_expired()),
    "association_changes": ("at_ms", CHANGES_KEPT_MS + 1, lambda services: services.associations.cleanup()),
}
SAID = {"medium": "msisdn", "visibility": Visibility.EVERYONE.value, "user_id": ALICE, "sid": "live", "kind": "added"}


def value_for(table: Table, name: str, number: int) -> Any:
    """Something that may stand in a column, and in no other row where that must not be."""
    column = table.c[name]
    if column.primary_key or column.unique or name.endswith(("_blind", "_digest")):
        keys = {LargeBinary: number.to_bytes(8), BigInteger: number, Integer: number}
        return next((key for kind, key in keys.items() if isinstance(column.type, kind)), str(number))
    if name in SAID:
        return SAID[name]
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, BigInteger | Integer):
        return 0
    return b"" if isinstance(column.type, LargeBinary) else ""


def rows_of(table: Table, over: str, *, over_ms: int, live_ms: int) -> list[dict[str, Any]]:
    return [
        {column.name: value_for(table, column.name, number) for column in table.c}
        | {over: over_ms if number <= OVER else live_ms}
        for number in range(1, OVER + LIVE + 1)
    ]


async def fill(server: Harness, name: str, *, over_ms: int, live_ms: int) -> None:
    """Put thousands of rows into a table."""
    engine = make_engine(url_for(server.config.db.file))
    async with engine.begin() as connection:
        if name == "validation_tokens":
            sessions = metadata.tables["validation_sessions"]
            owner = {column.name: value_for(sessions, column.name, 1) for column in sessions.c}
            await connection.execute(insert(sessions).values(owner | {"sid": "live", "expires_at_ms": live_ms}))
        table = metadata.tables[name]
        rows = rows_of(table, SWEPT[name][0], over_ms=over_ms, live_ms=live_ms)
        await connection.execute(insert(table), rows)
    await engine.dispose()


class Watched:
    """Every transaction of a database, with the rows that were removed or changed in it."""

    def __init__(self, server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._run = server.system.database.transaction
        monkeypatch.setattr(server.system.database, "transaction", self._watch)

    async def _watch(self, use_case: Callable[[Transaction], Awaitable[Any]], *, bulk: bool = False) -> Any:
        assert bulk, "a sweep must not hold up the event loop"
        result = await self._run(use_case, bulk=bulk)
        self.sizes.append(result)
        return result


@pytest.mark.parametrize("name", SWEPT)
async def test_thousands_go_in_small_transactions(
    server: Harness, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, later_ms, sweep = SWEPT[name]
    await server.register(ALICE)
    before = server.count(name) if name != "rate_limits" else 1
    now_ms = server.clock.now_ms()
    await fill(server, name, over_ms=now_ms - later_ms, live_ms=now_ms + DAY_MS)
    watched = Watched(server, monkeypatch)
    removed = await sweep(server.system.services)
    # Sessions are wiped first, and removed at the same time if they have been over for so long.
    assert OVER <= removed <= (2 if name == "validation_sessions" else 1) * OVER
    assert server.count(name) == before + LIVE
    assert len(watched.sizes) >= OVER // BATCH
    assert max(watched.sizes) <= (2 if name == "validation_sessions" else 1) * BATCH
    assert await sweep(server.system.services) == 0


async def test_who_writes_a_row_comes_in_between(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = server.clock.now_ms()
    await fill(server, "visits", over_ms=now_ms, live_ms=now_ms + DAY_MS)
    run, left = server.system.database.transaction, []

    async def watched(use_case: Callable[[Transaction], Awaitable[int]], *, bulk: bool) -> int:
        removed = await run(use_case, bulk=bulk)
        left.append(server.count("visits"))
        user_id = parse_user_id(f"@someone{len(left)}:example.org")
        await run(lambda tx: tx.accounts.add_if_new(user_id, now_ms=now_ms))
        return removed

    monkeypatch.setattr(server.system.database, "transaction", watched)
    assert await server.system.services.visits.cleanup() == OVER
    assert left == [OVER + LIVE - BATCH, OVER + LIVE - 2 * BATCH, OVER + LIVE - 3 * BATCH, LIVE]
    assert server.count("accounts") == len(left)


async def test_sessions_that_are_over_lose_their_addresses_and_stay_for_a_day(server: Harness) -> None:
    now_ms = server.clock.now_ms()
    await fill(server, "validation_sessions", over_ms=now_ms, live_ms=now_ms + DAY_MS)
    assert await server.system.services.validation.cleanup() == OVER
    assert server.rows("SELECT count(*), count(sealed_address) FROM validation_sessions") == [(OVER + LIVE, LIVE)]
