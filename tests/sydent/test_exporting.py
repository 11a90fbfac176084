"""What is given back to Sydent, and what isn't because Sydent would tell everyone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from identity_server.domain.association import Visibility
from identity_server.domain.identifiers import Medium, Threepid
from identity_server.storage.sealing.sealer import token_digest
from identity_server.sydent.exporting import Exporter
from identity_server.sydent.report import Skipped
from tests.support import make
from tests.support.databases import open_database
from tests.support.fakes import START_MS, FakeClock, FakeRandomness
from tests.sydent.support import ALICE, BOB, SIGNING_KEY, OldSydent, Target


async def test_bindings_that_not_everyone_may_know_of_are_left_out_and_counted(tmp_path: Path) -> None:
    out = tmp_path / "sydent.db"
    rows = [
        (number, make.association(f"{each}@example.com", visibility=each)) for number, each in enumerate(Visibility)
    ]
    async with open_database(tmp_path) as database:
        await database.transaction(lambda tx: tx.associations.put_all(rows, now_ms=START_MS))
        exporter = Exporter(
            database=database, clock=FakeClock(), randomness=FakeRandomness(), signing_key=SIGNING_KEY
        )
        report = await exporter.run(out)
    assert (report.bindings, report.hidden) == (1, 2)
    with closing(sqlite3.connect(out)) as connection:
        for table in ("local_threepid_associations", "global_threepid_associations"):
            assert connection.execute(f"SELECT address FROM {table}").fetchall() == [("everyone@example.com",)]
    written = out.read_bytes()
    assert b"nobody@" not in written
    assert b"homeserver@" not in written


async def test_whoever_comes_back_once_more_brings_all_that_is_new(
    tmp_path: Path, sydent: OldSydent, target: Target
) -> None:
    """The file that is given back has the rows' numbers from the start again, and the pepper that Sydent had."""
    for number in range(5):
        sydent.bind(f"user{number}@example.com", f"@user{number}:example.org", ts=START_MS - 5 + number)
        sydent.account(f"@user{number}:example.org", token=f"{number}" * 64)
    await target.take(sydent)
    returned = await target.give_back(tmp_path / "back.db")

    returned.unbind("user0@example.com", ts=START_MS + 1)
    returned.bind("new@example.com", BOB, ts=START_MS + 1)
    returned.account(BOB, token="b" * 64)
    returned.add("tokens", token="a" * 64, user_id="@user1:example.org")
    returned.invite("invited@example.com")
    report = await target.take(returned)

    assert await target.bindings() == {
        "new@example.com": BOB,
        **{f"user{number}@example.com": f"@user{number}:example.org" for number in range(1, 5)},
    }
    assert report.table("accounts").moved == 1
    assert report.table("tokens").moved == 2
    assert report.table("invite_tokens").moved == 1
    digests = [token_digest("a" * 64), token_digest("b" * 64)]
    assert await target.database.read(lambda tx: tx.imports.find_tokens(digests)) == set(digests)


async def test_what_was_given_back_and_removed_here_since_does_not_come_again(
    tmp_path: Path, sydent: OldSydent, target: Target
) -> None:
    sydent.bind("alice@example.com")
    sydent.invite("invited@example.com")
    sydent.account(ALICE)
    await target.take(sydent)
    returned = await target.give_back(tmp_path / "back.db")
    threepid = Threepid(Medium.EMAIL, "alice@example.com")
    await target.database.transaction(lambda tx: tx.associations.remove(threepid, now_ms=START_MS))

    report = await target.take(returned)

    assert (await target.bindings(), report.moved) == ({}, 0)
    assert report.table("local_threepid_associations").skipped == {Skipped.BEFORE: 1}
