"""The read index equals the associations, whatever happens and in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity_server.domain.hashing import hash_threepid
from identity_server.index import read_index
from identity_server.index.read_index import ReadIndex
from identity_server.storage.database import Database, Transaction
from tests.support import make
from tests.support.databases import ROOT_KEY, open_database
from tests.support.fakes import START_MS

NOW = START_MS + 1


def new_index(database: Database) -> ReadIndex:
    index = ReadIndex(database=database, root_key=ROOT_KEY, offers_plain=True)
    database.follow(index.catch_up)
    return index


@pytest.fixture
async def index(database: Database) -> AsyncIterator[ReadIndex]:
    await database.transaction(lambda tx: tx.peppers.add("first", now_ms=START_MS))
    index = new_index(database)
    await index.start()
    yield index
    await index.close()


def find(index: ReadIndex, address: str = "alice@example.com") -> str | None:
    by_hash = index.find(index.pepper, hash_threepid(make.email(address), index.pepper.value), now_ms=NOW)
    assert index.find_plain(make.email(address), now_ms=NOW) == by_hash
    return by_hash


async def put(database: Database, number: int, address: str = "alice@example.com", user: str = "@alice:a.b") -> None:
    association = make.association(address, user_id=user)
    await database.transaction(lambda tx: tx.associations.put(number, association))


async def remove(database: Database, address: str = "alice@example.com") -> None:
    await database.transaction(lambda tx: tx.associations.remove(make.email(address), now_ms=START_MS))


async def test_reads_its_own_writes(database: Database, index: ReadIndex) -> None:
    await put(database, 1)
    assert find(index) == "@alice:a.b"
    await put(database, 2, user="@bob:a.b")
    assert find(index) == "@bob:a.b"
    await remove(database)
    assert find(index) is None


async def test_sees_the_writes_of_other_processes(database: Database, index: ReadIndex, tmp_path: Path) -> None:
    async with open_database(tmp_path) as other:
        await put(other, 1)
        await index.refresh()
        assert find(index) == "@alice:a.b"
        await remove(other)
        await index.refresh()
        assert find(index) is None


async def test_nothing_changed_costs_no_query(
    database: Database, index: ReadIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    await index.refresh()

    async def no_reading(_use_case: object) -> None:
        raise AssertionError

    monkeypatch.setattr(database, "read", no_reading)
    await index.refresh()


async def test_association_counts_in_its_time_only(database: Database, index: ReadIndex) -> None:
    await put(database, 1)
    digest = hash_threepid(make.email(), index.pepper.value)
    association = make.association()
    assert index.find(index.pepper, digest, now_ms=association.not_before - 1) is None
    assert index.find(index.pepper, digest, now_ms=association.not_before) is not None
    assert index.find(index.pepper, digest, now_ms=association.not_after) is None


async def test_gap_in_the_feed_leads_to_a_rebuild(database: Database, index: ReadIndex, tmp_path: Path) -> None:
    await put(database, 1)
    async with open_database(tmp_path) as other:
        await remove(other)
        await put(other, 2, "bob@example.com", "@bob:a.b")
        await put(other, 3, "carol@example.com", "@carol:a.b")
        trimmed = await other.transaction(lambda tx: tx.associations.trim_changes(before_ms=START_MS + 1))
        assert trimmed > 1
    await index.refresh()
    assert find(index) is None
    assert find(index, "bob@example.com") == "@bob:a.b"
    assert find(index, "carol@example.com") == "@carol:a.b"


async def test_database_put_back_from_a_copy_leads_to_a_rebuild(database: Database, index: ReadIndex) -> None:
    await put(database, 1)
    index._applied_seq += 100
    await put(database, 2, "bob@example.com", "@bob:a.b")
    await index.catch_up()
    assert find(index, "bob@example.com") == "@bob:a.b"


async def test_long_feed_is_followed_page_by_page(
    database: Database, index: ReadIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_index, "_PAGE", 3)
    async with open_database(tmp_path) as other:
        for number in range(10):
            await put(other, number, f"n{number}@example.com", f"@n{number}:a.b")
            await put(other, 100 + number, user=f"@owner{number}:a.b")
    await index.refresh()
    assert find(index) == "@owner9:a.b"
    assert all(find(index, f"n{number}@example.com") == f"@n{number}:a.b" for number in range(10))


async def test_changes_while_a_table_is_built_reach_it(
    database: Database, index: ReadIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        await put(database, number, f"n{number}@example.com", f"@n{number}:a.b")
    monkeypatch.setattr(read_index, "_PAGE", 1)
    reading, go_on = asyncio.Event(), asyncio.Event()
    in_thread = asyncio.to_thread

    async def slow(work: Callable[..., object], *args: object) -> object:
        result = await in_thread(work, *args)
        reading.set()
        await go_on.wait()
        return result

    monkeypatch.setattr(asyncio, "to_thread", slow)
    await database.transaction(lambda tx: tx.peppers.add("second", now_ms=START_MS))
    await reading.wait()
    assert index.pepper.value == "first", "the old one serves while the new table is built"
    await remove(database, "n0@example.com")
    await put(database, 10, "n1@example.com", "@new:a.b")
    await put(database, 11, "late@example.com", "@late:a.b")
    go_on.set()
    await index.settled()
    assert index.pepper.value == "second"
    expected = {"n0": None, "n1": "@new:a.b", "n2": "@n2:a.b", "n5": "@n5:a.b", "late": "@late:a.b"}
    assert {name: find(index, f"{name}@example.com") for name in expected} == expected


async def test_new_pepper_is_not_honoured_before_its_table_stands(database: Database, index: ReadIndex) -> None:
    assert index.find_pepper("second", now_ms=NOW, grace_ms=0) is None
    await database.transaction(lambda tx: tx.peppers.add("second", now_ms=START_MS))
    await index.settled()
    assert index.find_pepper("second", now_ms=NOW, grace_ms=0) is not None
    assert index.find_pepper("first", now_ms=NOW, grace_ms=0) is not None, "not retired yet"


async def test_database_without_a_pepper_is_refused(database: Database) -> None:
    with pytest.raises(RuntimeError, match="pepper"):
        await new_index(database).start()


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "remove", "rotate", "follow"]), st.integers(0, 3), st.integers(0, 3)),
    max_size=12,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(steps=STEPS)
def test_equals_the_associations_after_any_story(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(_play(steps, tmp_path_factory.mktemp("story")))


async def _play(steps: list[tuple[str, int, int]], directory: Path) -> None:
    expected: dict[str, str] = {}
    async with open_database(directory) as database, open_database(directory) as other:
        await database.transaction(lambda tx: tx.peppers.add("p0", now_ms=START_MS))
        index = new_index(database)
        await index.start()
        for number, (step, which, who) in enumerate(steps):
            address, user = f"n{which}@example.com", f"@u{who}:a.b"
            writer = (database, other)[who % 2]
            if step == "put":
                await put(writer, number, address, user)
                expected[address] = user
            elif step == "remove":
                await remove(writer, address)
                expected.pop(address, None)
            elif step == "rotate":
                await _add_pepper(writer, number)
            else:
                await index.refresh()
        await index.refresh()
        await index.settled()
        found = {address: find(index, address) for address in (f"n{which}@example.com" for which in range(4))}
        await index.close()
    assert {address: user for address, user in found.items() if user} == expected


async def _add_pepper(database: Database, number: int) -> None:
    async def use_case(tx: Transaction) -> None:
        await tx.peppers.add(f"pepper{number}", now_ms=START_MS)

    await database.transaction(use_case)
