"""The read index equals the associations, whatever happens and in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from identity_server.domain.association import Visibility
from identity_server.domain.errors import Unavailable
from identity_server.domain.identifiers import UserId
from identity_server.index import building, read_index
from identity_server.index.building import IndexBuilder, Rows
from identity_server.index.read_index import ReadIndex
from identity_server.storage.database import Database, Transaction
from identity_server.storage.schema.tables import association_changes
from tests.support import make
from tests.support.databases import open_database
from tests.support.fakes import START_MS
from tests.support.indexes import NOW, find, find_all, new_index
from tests.support.properties import examples


@pytest.fixture
async def index(database: Database, tmp_path: Path) -> AsyncIterator[ReadIndex]:
    await database.transaction(lambda tx: tx.peppers.add("first", now_ms=START_MS))
    index = new_index(database, tmp_path)
    await index.start()
    yield index
    await index.close()


async def put(
    database: Database,
    number: int,
    address: str = "alice@example.com",
    user: str = "@alice:a.b",
    visibility: Visibility = Visibility.EVERYONE,
) -> None:
    association = make.association(address, user_id=user, visibility=visibility)
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


async def test_sees_all_that_an_import_has_committed(database: Database, index: ReadIndex, tmp_path: Path) -> None:
    rows = [(number, make.association(f"n{number}@example.com")) for number in range(1, 2_200)]
    async with open_database(tmp_path) as other:
        await other.transaction(lambda tx: tx.associations.put_all(rows, now_ms=START_MS), bulk=True)
        await index.refresh()
    addresses = [f"n{number}@example.com" for number, _ in rows]
    assert set(find_all(index, addresses).values()) == {make.association().user_id}


@pytest.mark.sqlite(reason="elsewhere there is no generation to ask for")
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
    association = make.association()
    for _ in ("added since the file was made", "in the file"):
        assert find(index, now_ms=association.not_before - 1) is None
        assert find(index, now_ms=association.not_before) is not None
        assert find(index, now_ms=association.not_after) is None
        await index.save()
        await index.refresh()


async def test_gap_in_the_feed_leads_to_a_rebuild(database: Database, index: ReadIndex, tmp_path: Path) -> None:
    await put(database, 1)
    async with open_database(tmp_path) as other:
        await remove(other)
        await put(other, 2, "bob@example.com", "@bob:a.b")
        await put(other, 3, "carol@example.com", "@carol:a.b")
        trimmed = await other.transaction(
            lambda tx: tx.associations.trim_changes(before_ms=START_MS + 1, limit=1_000)
        )
        assert trimmed > 1
    await index.refresh()
    assert find(index) is None
    assert find(index, "bob@example.com") == "@bob:a.b"
    assert find(index, "carol@example.com") == "@carol:a.b"


@pytest.mark.postgresql(reason="numbers are given out before it is known whether they are used")
async def test_first_numbers_that_were_given_out_in_vain_are_no_gap(database: Database, tmp_path: Path) -> None:
    async def undone(tx: Transaction) -> None:
        await tx.associations.put(9, make.association())
        raise KeyError

    await database.transaction(lambda tx: tx.peppers.add("first", now_ms=START_MS))
    with pytest.raises(KeyError):
        await database.transaction(undone)
    await put(database, 1)
    index = new_index(database, tmp_path, after_hours=0)
    await index.start()
    await put(database, 2, "bob@example.com", "@bob:a.b")
    assert find_all(index, ["alice@example.com", "bob@example.com"]) == {
        "alice@example.com": "@alice:a.b",
        "bob@example.com": "@bob:a.b",
    }
    assert index._current.feed.missing
    assert index._current.feed.highest > index._current.file.seq
    await index.close()


async def test_after_a_quiet_time_the_feed_is_trimmed_and_can_be_followed(database: Database, tmp_path: Path) -> None:
    await database.transaction(lambda tx: tx.peppers.add("first", now_ms=START_MS))
    early = new_index(database, tmp_path)
    await early.start()
    for number in range(3):
        await put(database, number)
    # The number after the last old one was given out in vain.
    await database.transaction(
        lambda tx: tx.associations._connection.execute(
            insert(association_changes).values(
                change_seq=9, association_id=9, kind="removed", at_ms=START_MS + 1_799_000
            )
        )
    )
    trimmed = await database.transaction(lambda tx: tx.associations.trim_changes(before_ms=START_MS + 1, limit=100))
    assert trimmed > 2
    late = new_index(database, tmp_path / "another node", after_hours=0.5)
    await late.start()
    await early.refresh()
    for index in (early, late):
        assert find(index) == "@alice:a.b"
        await index.close()


async def test_database_put_back_from_a_copy_leads_to_a_rebuild(database: Database, index: ReadIndex) -> None:
    await put(database, 1)
    index._current.feed.highest += 100
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
    await index.save()
    reading, go_on = asyncio.Event(), asyncio.Event()
    pages = IndexBuilder._pages

    async def slow(builder: IndexBuilder) -> AsyncIterator[Rows]:
        async for rows in pages(builder):
            reading.set()
            await go_on.wait()
            yield rows

    monkeypatch.setattr(building, "_PAGE", 1)
    monkeypatch.setattr(IndexBuilder, "_pages", slow)
    await database.transaction(lambda tx: tx.peppers.add("second", now_ms=START_MS))
    await reading.wait()
    assert index.newest_pepper.value == "first", "the old one serves while the new table is built"
    await remove(database, "n0@example.com")
    await put(database, 10, "n1@example.com", "@new:a.b")
    await put(database, 11, "late@example.com", "@late:a.b")
    go_on.set()
    await index.settled()
    assert index.newest_pepper.value == "second"
    assert index.pepper.value == "first", "nobody has retired it"
    await database.transaction(lambda tx: tx.peppers.retire_before(2, now_ms=START_MS))
    assert index.pepper.value == "second"
    expected = {"n0": None, "n1": "@new:a.b", "n2": "@n2:a.b", "n5": "@n5:a.b", "late": "@late:a.b"}
    assert {name: find(index, f"{name}@example.com") for name in expected} == expected


async def test_new_pepper_is_not_honoured_before_its_table_stands(database: Database, index: ReadIndex) -> None:
    assert index.find_pepper("second", now_ms=NOW, grace_ms=0) is None
    await database.transaction(lambda tx: tx.peppers.add("second", now_ms=START_MS))
    await index.settled()
    assert index.find_pepper("second", now_ms=NOW, grace_ms=0) is not None
    assert index.find_pepper("first", now_ms=NOW, grace_ms=0) is not None, "not retired yet"


async def test_whoever_has_no_table_for_any_pepper_says_so(
    database: Database, index: ReadIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them ended while the table of the newest was being made."""
    monkeypatch.setattr(index, "_build", asyncio.Event().wait)
    await database.transaction(lambda tx: tx.peppers.add("second", now_ms=START_MS))
    await database.transaction(lambda tx: tx.peppers.retire_before(2, now_ms=START_MS))
    assert index.pepper.value == "first", "which is honoured for a while"
    await database.transaction(lambda tx: tx.peppers.cleanup(retired_before_ms=START_MS))
    with pytest.raises(Unavailable):
        _ = index.pepper


async def test_database_without_a_pepper_is_refused(database: Database, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="pepper"):
        await new_index(database, tmp_path).start()


async def change_visibility(database: Database, number: int, address: str, visibility: Visibility) -> None:
    async def use_case(tx: Transaction) -> None:
        association = await tx.associations.find(make.email(address))
        if association is not None:
            await tx.associations.replace(number, replace(association, visibility=visibility), now_ms=START_MS)

    await database.transaction(use_case)


PEOPLE = {
    "n0@example.com": Visibility.EVERYONE,
    "n1@example.com": Visibility.HOMESERVER,
    "n2@example.com": Visibility.NOBODY,
}


def seen_by(index: ReadIndex, asker: str | None) -> set[str]:
    """Whose addresses somebody finds."""
    return {address[:2] for address, user in find_all(index, list(PEOPLE), asker=asker).items() if user}


async def test_hidden_ones_are_found_by_whom_they_are_shown_to(database: Database, index: ReadIndex) -> None:
    for number, (address, visibility) in enumerate(PEOPLE.items()):
        await put(database, number, address, f"@u{number}:a.b", visibility)
    for _ in ("added since the file was made", "in the file"):
        assert seen_by(index, None) == {"n0"}
        assert seen_by(index, "@stranger:c.d") == {"n0"}
        assert seen_by(index, "@neighbour:a.b") == {"n0", "n1"}
        assert seen_by(index, "@u2:a.b") == {"n0", "n1", "n2"}
        await index.save()
        await index.refresh()
    assert not index.answers.file.all_visible


async def test_changed_visibility_counts_at_once_and_goes_into_the_file(database: Database, index: ReadIndex) -> None:
    for number, address in enumerate(PEOPLE):
        await put(database, number, address, f"@u{number}:a.b")
    await index.save()
    await index.refresh()
    assert index.answers.file.all_visible
    for number, (address, visibility) in enumerate(PEOPLE.items(), start=10):
        await change_visibility(database, number, address, visibility)
        assert find_all(index, [address], asker="@stranger:c.d")[address] == (None if number > 10 else "@u0:a.b")
    assert seen_by(index, "@neighbour:a.b") == {"n0", "n1"}
    await index.save()
    await index.refresh()
    assert not index.answers.file.all_visible
    assert seen_by(index, "@neighbour:a.b") == {"n0", "n1"}
    for number, address in enumerate(PEOPLE, start=20):
        await change_visibility(database, number, address, Visibility.EVERYONE)
    assert seen_by(index, None) == {"n0", "n1", "n2"}
    await index.save()
    await index.refresh()
    assert index.answers.file.all_visible


async def test_what_is_over_is_not_in_the_file(database: Database, index: ReadIndex) -> None:
    """So that the times of the others needn't be looked at."""
    over = replace(make.association("over@example.com"), not_after=START_MS + 2)
    await database.transaction(lambda tx: tx.associations.put(1, over))
    await put(database, 2)
    assert find(index, "over@example.com", now_ms=START_MS + 1) == over.user_id
    assert find(index, "over@example.com", now_ms=START_MS + 2) is None
    await index.save()
    await index.refresh()
    assert index.answers.file.entries.ids.tolist() == [2]
    assert index.answers.file.all_valid(NOW)
    assert find(index) == "@alice:a.b"
    await remove(database, "over@example.com")
    assert find(index) == "@alice:a.b"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "hide", "rotate", "follow", "save"]), st.integers(0, 3), st.integers(0, 3)
    ),
    max_size=12,
)


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(steps=STEPS)
def test_equals_the_associations_after_any_story(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    asyncio.run(_play(steps, tmp_path_factory.mktemp("story")))


ASKERS = (None, "@stranger:c.d", "@u0:a.b")


async def _play(steps: list[tuple[str, int, int]], directory: Path) -> None:
    expected: dict[str, tuple[str, Visibility]] = {}
    async with open_database(directory) as database, open_database(directory) as other:
        await database.transaction(lambda tx: tx.peppers.add("p0", now_ms=START_MS))
        index = new_index(database, directory)
        await index.start()
        for number, (step, which, who) in enumerate(steps):
            address, user = f"n{which}@example.com", f"@u{who}:a.b"
            writer = (database, other)[who % 2]
            if step == "put":
                before, visibility = expected.get(address, ("", Visibility.EVERYONE))
                await put(writer, number, address, user)
                expected[address] = user, visibility if before == user else Visibility.EVERYONE
            elif step == "remove":
                await remove(writer, address)
                expected.pop(address, None)
            elif step == "hide":
                visibility = list(Visibility)[who % 3]
                await change_visibility(writer, number, address, visibility)
                if address in expected:
                    expected[address] = expected[address][0], visibility
            elif step == "rotate":
                await _add_pepper(writer, number)
            elif step == "save":
                await index.save()
            else:
                await index.refresh()
        await index.refresh()
        await index.settled()
        addresses = [f"n{which}@example.com" for which in range(4)]
        found = {asker: find_all(index, addresses, asker=asker) for asker in ASKERS}
        await index.close()
        again = new_index(database, directory)
        await again.start()
        after_a_restart = {asker: find_all(again, addresses, asker=asker) for asker in ASKERS}
        await again.close()
    for asker, answers in found.items():
        shown = {
            address: user
            for address, (user, visibility) in expected.items()
            if visibility.shows(UserId(user), asker=None if asker is None else UserId(asker))
        }
        assert {address: user for address, user in answers.items() if user} == shown
    assert after_a_restart == found


async def _add_pepper(database: Database, number: int) -> None:
    async def use_case(tx: Transaction) -> None:
        await tx.peppers.add(f"pepper{number}", now_ms=START_MS)

    await database.transaction(use_case)


async def test_matrix_ids_of_all_lengths_and_alphabets_are_found(database: Database, index: ReadIndex) -> None:
    owners = ["@a:b", "@" + "l" * 200 + ":example.org", "@zo\u00eb:example.org", "@\U0001f431:example.org"]
    for number, owner in enumerate(owners):
        await put(database, number, f"{number}@example.com", user=owner)
    await index.save()
    await index.catch_up()
    assert index.answers.file.all_plain
    assert list(find_all(index, [f"{number}@example.com" for number in range(4)]).values()) == owners


@pytest.mark.parametrize("odd", ['@a"b:example.org', "@a\\b:example.org"])
async def test_matrix_ids_that_json_has_to_escape_are_found(database: Database, index: ReadIndex, odd: str) -> None:
    await put(database, 1, "odd@example.com", user=odd)
    await put(database, 2, "even@example.com")
    await index.save()
    await index.catch_up()
    assert not index.answers.file.all_plain
    assert find_all(index, ["odd@example.com"]) == {"odd@example.com": odd}


async def test_a_hash_is_answered_once_and_by_what_came_last(database: Database, index: ReadIndex) -> None:
    await put(database, 1, user="@old:a.b")
    await index.save()
    await index.catch_up()
    await put(database, 2, user="@new:a.b")
    # As it is between two pages of a long feed.
    index.answers.gone.clear()
    assert find(index) == "@new:a.b"
