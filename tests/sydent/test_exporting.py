"""What is given back to Sydent, and what isn't because Sydent would tell everyone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from identity_server.domain.association import Visibility
from identity_server.sydent.exporting import Exporter
from tests.support import make
from tests.support.databases import open_database
from tests.support.fakes import START_MS, FakeClock
from tests.sydent.support import SIGNING_KEY


async def test_bindings_that_not_everyone_may_know_of_are_left_out_and_counted(tmp_path: Path) -> None:
    out = tmp_path / "sydent.db"
    rows = [
        (number, make.association(f"{each}@example.com", visibility=each)) for number, each in enumerate(Visibility)
    ]
    async with open_database(tmp_path) as database:
        await database.transaction(lambda tx: tx.associations.put_all(rows, now_ms=START_MS))
        report = await Exporter(database=database, clock=FakeClock(), signing_key=SIGNING_KEY).run(out)
    assert (report.bindings, report.hidden) == (1, 2)
    with closing(sqlite3.connect(out)) as connection:
        for table in ("local_threepid_associations", "global_threepid_associations"):
            assert connection.execute(f"SELECT address FROM {table}").fetchall() == [("everyone@example.com",)]
    written = out.read_bytes()
    assert b"nobody@" not in written
    assert b"homeserver@" not in written
