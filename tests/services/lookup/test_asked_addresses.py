"""What accounts have asked for: known to all processes, in bounded memory, and in few rows."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from identity_server.domain.budgets import BudgetKind, Holder, Usage
from identity_server.domain.errors import Unavailable
from identity_server.index.keys import Halves, halves
from identity_server.services.lookup.asked_addresses import AskedAddresses
from identity_server.storage.database import Database
from tests.support.databases import open_database
from tests.support.fakes import FakeClock, FakeRandomness

NUMBERS = itertools.count()
ALICE = Holder(BudgetKind.ACCOUNT, "@alice:example.org", 1)


def keys(first: int, last: int) -> Halves:
    return halves(b"".join(number.to_bytes(8, "little") * 2 for number in range(first, last)))


def has_all(memory: AskedAddresses, first: int, last: int, holder: Holder = ALICE) -> bool:
    """Whether it is known at once that all of these were asked for."""
    missing = memory.missing_here(holder, keys(first, last).tobytes())
    return missing is not None and not len(missing)


def new_memory(database: Database, clock: FakeClock, *, most_bytes: int = 10**9) -> AskedAddresses:
    randomness = FakeRandomness(f"memory {next(NUMBERS)}")
    return AskedAddresses(database=database, clock=clock, randomness=randomness, most_bytes=most_bytes)


async def add_holder(database: Database, holder: Holder = ALICE) -> None:
    """Whoever has asked has been charged."""
    await database.transaction(lambda tx: tx.budgets.add({holder: Usage()}))


async def asked(memory: AskedAddresses, first: int, last: int, holder: Holder = ALICE) -> int:
    """Ask for so many; returns how many of them are new."""
    entry = memory.of(holder)
    await memory.complete([entry])
    new = entry.keys.missing(keys(first, last))
    memory.note(entry, new)
    return len(new)


async def test_others_know_what_was_written_down(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        await add_holder(database)
        one, two = new_memory(database, clock), new_memory(database, clock)
        assert await asked(one, 0, 10) == 10
        assert has_all(one, 3, 7)
        assert not has_all(one, 3, 11)
        assert not has_all(two, 0, 1)
        await one.write_down()
        assert await asked(two, 5, 12) == 2
        await two.write_down()
        # It has looked a moment ago.
        assert await asked(one, 11, 12) == 1
        clock.advance(seconds=1)
        assert await asked(one, 10, 11) == 0


async def test_memory_is_bounded_and_loses_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        memory = new_memory(database, clock, most_bytes=50_000)
        holders = [Holder(BudgetKind.ACCOUNT, f"@user{number}:example.org", 1) for number in range(30)]
        for holder in holders:
            await add_holder(database, holder)
            assert await asked(memory, 0, 100, holder) == 100
        # What isn't written down is kept, whatever it takes.
        assert all(has_all(memory, 0, 100, holder) for holder in holders)
        await memory.write_down()
        assert await asked(memory, 100, 101, holders[0]) == 1
        kept = [holder for holder in holders if has_all(memory, 0, 100, holder)]
        assert 0 < len(kept) <= 50_000 // 3_100
        for holder in holders:
            assert await asked(memory, 0, 100, holder) == 0


async def test_lists_of_many_devices_take_no_more_memory_than_those_of_a_few(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        await add_holder(database)
        memory = new_memory(database, FakeClock())
        assert await asked(memory, 0, 200) == 200
        alone = memory.of(ALICE).size
        for first in range(100):
            assert has_all(memory, first, first + 100)
            assert has_all(memory, first, first + 100)
        # Of four lists, a hundred keys each.
        assert memory.of(ALICE).size - alone == 4 * 100 * 16
        assert not has_all(memory, 150, 201)


async def test_idle_accounts_are_forgotten(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        await add_holder(database)
        memory = new_memory(database, clock)
        await asked(memory, 0, 10)
        clock.advance(hours=2)
        memory.forget_idle()
        assert has_all(memory, 0, 10)
        await memory.write_down()
        memory.forget_idle()
        assert not has_all(memory, 0, 10)
        assert await asked(memory, 0, 10) == 0


async def test_many_rows_become_one(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        await add_holder(database)
        memory, other = new_memory(database, clock), new_memory(database, clock)
        rows = []
        for number in range(40):
            await asked(memory, number, number + 1)
            await memory.write_down()
            rows.append(len(await database.read(lambda tx: tx.budgets.list_asked([ALICE]))))
            if number == 20:
                assert await asked(other, 0, 21) == 0
        assert max(rows) == 32
        assert rows[-1] < 10
        clock.advance(seconds=1)
        assert await asked(other, 0, 40) == 0
        assert await asked(new_memory(database, clock), 0, 41) == 1


async def test_what_could_not_be_written_is_written_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        await add_holder(database)
        memory = new_memory(database, clock)
        await asked(memory, 0, 10)
        with monkeypatch.context() as patch:

            async def away(*_: object, **__: object) -> None:
                raise Unavailable

            patch.setattr(database, "transaction", away)
            with pytest.raises(Unavailable):
                await memory.write_down()
        await asked(memory, 10, 12)
        await memory.write_down()
        assert await asked(new_memory(database, clock), 0, 12) == 0


async def test_nothing_is_written_of_who_is_gone(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        memory = new_memory(database, clock)
        await asked(memory, 0, 10)
        await memory.write_down()
        assert await database.read(lambda tx: tx.budgets.list_asked([ALICE])) == []
