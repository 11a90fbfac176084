"""The index file: whole or refused, and the same whether it was made anew or brought up to date."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from identity_server.domain.association import Visibility
from identity_server.index import building, read_index
from identity_server.index.building import INDEX_FILE, IndexBuilder
from identity_server.index.file import IndexFile, Table, Unusable, open_index_file
from identity_server.index.keys import LookupKeys, halves
from identity_server.storage.database import Database, Transaction
from identity_server.storage.sealing.key_ring import RootKey
from identity_server.storage.stamps import Subject
from tests.support import make
from tests.support.databases import ROOT_KEY
from tests.support.fakes import START_MS, FakeClock
from tests.support.indexes import find, find_all, new_builder, new_index, query

FINGERPRINT = LookupKeys(ROOT_KEY).fingerprint


@pytest.fixture(autouse=True)
async def pepper(database: Database) -> None:
    await database.transaction(lambda tx: tx.peppers.add("first", now_ms=START_MS))


async def put_some(
    database: Database, numbers: range, *, owner: str = "owner", visible_to: Sequence[Visibility] = ()
) -> None:
    async def use_case(tx: Transaction) -> None:
        for number in numbers:
            # Of many lengths, and with an é, which has two bytes.
            user_id = f"@{owner}é{'x' * (number % 7)}{number}:a.b"
            # Scattered as random ids are.
            association_id = (number * 7919 + (owner == "new")) % 1_000_003
            visibility = visible_to[number % len(visible_to)] if visible_to else Visibility.EVERYONE
            association = make.association(f"n{number}@example.com", user_id=user_id, visibility=visibility)
            await tx.associations.put(association_id, association)

    await database.transaction(use_case)


async def remove_some(database: Database, numbers: range) -> None:
    async def use_case(tx: Transaction) -> None:
        for number in numbers:
            await tx.associations.remove(make.email(f"n{number}@example.com"), now_ms=START_MS)

    await database.transaction(use_case)


def opened(folder: Path) -> IndexFile:
    return open_index_file(folder / INDEX_FILE, fingerprint=FINGERPRINT)


def contents(file: IndexFile) -> object:
    entries = file.entries
    rows = zip(
        entries.ids.tolist(),
        entries.not_before.tolist(),
        entries.not_after.tolist(),
        entries.visibility.tolist(),
        entries.user_ids(np.arange(len(entries.ids))),
        strict=True,
    )
    tables = {
        name: (table.first.tolist(), table.second.tolist(), table.entry.tolist())
        for name, table in file.tables.items()
    }
    return [*rows], tables, bytes(entries.users), file.seq, file.last_change, file.always_valid, file.all_visible


async def test_what_has_come_to_an_end_is_left_out_when_the_file_is_brought_up_to_date(
    database: Database, tmp_path: Path
) -> None:
    clock = FakeClock()
    keys = LookupKeys(ROOT_KEY)
    builder = IndexBuilder(database=database, clock=clock, keys=keys, folder=tmp_path, offers_plain=True)
    over = replace(make.association("over@example.com"), not_after=START_MS + 1000)
    await database.transaction(lambda tx: tx.associations.put(5, over))
    await builder.build()
    assert opened(tmp_path).always_valid == (START_MS, START_MS + 1000)
    await database.transaction(lambda tx: tx.associations.put(3, make.association()))
    clock.advance(seconds=1)
    await builder.build()
    assert opened(tmp_path).entries.ids.tolist() == [3]
    assert opened(tmp_path).all_valid(clock.ms)
    assert [len(table.first) for table in opened(tmp_path).tables.values()] == [1, 1]


async def test_brought_up_to_date_it_is_what_it_would_be_made_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = new_builder(database, tmp_path)
    await put_some(database, range(60), visible_to=list(Visibility))
    await builder.build()
    await remove_some(database, range(10, 20))
    await put_some(database, range(50, 80), owner="new", visible_to=list(Visibility)[::-1])

    async def never(_builder: IndexBuilder) -> IndexFile:
        raise AssertionError("it has been made anew")

    with monkeypatch.context() as patch:
        patch.setattr(IndexBuilder, "_made_anew", never)
        # In several pages, as large ones.
        patch.setattr(building, "_PAGE", 7)
        await builder.build()
    merged = contents(opened(tmp_path))

    (tmp_path / INDEX_FILE).unlink()
    await builder.build()

    assert contents(opened(tmp_path)) == merged


async def test_everything_may_be_removed(database: Database, tmp_path: Path) -> None:
    builder = new_builder(database, tmp_path)
    await put_some(database, range(3))
    await builder.build()
    await remove_some(database, range(3))
    await builder.build()

    file = opened(tmp_path)

    assert (len(file.entries.ids), bytes(file.entries.users)) == (0, b"")
    index = new_index(database, tmp_path)
    await index.start()
    assert find(index, "n1@example.com") is None


async def test_file_holds_neither_addresses_nor_what_clients_send(database: Database, tmp_path: Path) -> None:
    await put_some(database, range(3))
    index = new_index(database, tmp_path)
    await index.start()
    content = (tmp_path / INDEX_FILE).read_bytes()
    assert (tmp_path / INDEX_FILE).stat().st_mode & 0o077 == 0
    for number in range(3):
        digest = query(f"n{number}@example.com", index.pepper)
        assert f"n{number}@example.com".encode() not in content
        assert digest.encode() not in content
        raw = base64.urlsafe_b64decode(digest + "=")
        assert raw[:16] not in content
        assert raw[16:] not in content


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "a bit", "the head", "other format", "other key"])
async def test_file_that_cannot_be_trusted_is_made_anew(database: Database, tmp_path: Path, damage: str) -> None:
    await put_some(database, range(10))
    path = tmp_path / INDEX_FILE
    key = RootKey(b"o" * 32) if damage == "other key" else ROOT_KEY
    await new_builder(database, tmp_path, root_key=key).build()
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "a bit":
        content[content.index(b"@owner")] ^= 1
        path.write_bytes(content)
    elif damage == "the head":
        content[40] ^= 0xFF
        path.write_bytes(content)
    elif damage == "other format":
        path.write_bytes(b"x" * len(content))
    with pytest.raises(Unusable):
        opened(tmp_path)

    index = new_index(database, tmp_path)
    await index.start()

    assert find(index, "n3@example.com") == "@owneréxxx3:a.b"
    opened(tmp_path)


async def test_sound_file_is_not_made_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_some(database, range(10))
    await new_builder(database, tmp_path).build()
    await put_some(database, range(5, 15), owner="new")

    async def never(_builder: IndexBuilder) -> None:
        raise AssertionError

    monkeypatch.setattr(IndexBuilder, "build", never)
    index = new_index(database, tmp_path)
    await index.start()

    assert find_all(index, ["n4@example.com", "n5@example.com"]) == {
        "n4@example.com": "@owneréxxxx4:a.b",
        "n5@example.com": "@newéxxxxx5:a.b",
    }


async def test_file_of_a_database_that_went_another_way_is_made_anew(database: Database, tmp_path: Path) -> None:
    """The database was put back from a copy, and has come as far again by other changes."""
    await put_some(database, range(10))
    await new_builder(database, tmp_path).build()
    async with database._engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE association_changes SET association_id = association_id + 1")
        await connection.exec_driver_sql("DELETE FROM associations")

    index = new_index(database, tmp_path)
    await index.start()

    assert find(index, "n3@example.com") is None


async def test_many_changes_lead_to_a_new_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_index, "_MOST_CHANGED", 5)
    index = new_index(database, tmp_path)
    await index.start()
    other = new_index(database, tmp_path)
    await other.start()

    for number in range(8):
        await put_some(database, range(number, number + 1))
    await index.settled()
    await other.refresh()

    for each in (index, other):
        assert each._current.changed <= 5
        assert find(each, "n7@example.com") == "@owneré7:a.b"
    await index.close()
    await other.close()


async def test_builders_of_one_folder_take_turns(database: Database, tmp_path: Path) -> None:
    await put_some(database, range(20))
    stamp = database.stamps.read(Subject.LOOKUPS)

    await asyncio.gather(*(new_builder(database, tmp_path).build() for _ in range(4)))

    assert len(opened(tmp_path).entries.ids) == 20
    assert database.stamps.read(Subject.LOOKUPS) != stamp
    assert not list(tmp_path.glob("*.new"))


def test_keys_whose_first_half_is_the_same_are_told_apart() -> None:
    alike = [bytes(8) + bytes([number] * 8) for number in range(5)]
    others = [random.Random(number).randbytes(16) for number in range(50)]
    table = Table.of(halves(b"".join(alike + others)), np.arange(55))

    assert [table.find(key) for key in alike + others] == [*range(55)]
    missing = [bytes(8) + b"missing!", b"x" * 16]
    assert [table.find(key) for key in missing] == [None, None]
    hits, entries = table.find_many(halves(b"".join([*missing, *reversed(alike), *others])))
    assert hits.tolist() == [*range(2, 57)]
    assert entries.tolist() == [4, 3, 2, 1, 0, *range(5, 55)]
