"""Sydent's file is read as it is, whatever state it is in, and never written to."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from identity_server.sydent.reading import SydentFileProblem, Unreadable, open_sydent
from tests.sydent.support import OldSydent


def _addresses(path: Path) -> list[str]:
    with open_sydent(path) as file:
        return [row.address for page in file.local_bindings() for row in page if not isinstance(row, Unreadable)]


@pytest.mark.parametrize("version", range(6))
def test_every_schema_can_be_read(tmp_path: Path, version: int) -> None:
    sydent = OldSydent(tmp_path / "old.db", version=version)
    sydent.bind("alice@example.com")

    with open_sydent(sydent.path) as file:
        assert file.version == version
        assert file.pepper() == ("Ab3dE" if version >= 3 else None)
        assert file.count_copies("id.example.org") == 1
        assert list(file.global_bindings(server_name="id.example.org")) == []
        assert file.count_copies("id.elsewhere.org") == 0
        assert len(list(file.global_bindings(server_name="id.elsewhere.org"))) == 1
        assert list(file.accounts()) == []
        assert file.count("tokens") == 0
    assert _addresses(sydent.path) == ["alice@example.com"]


def test_file_and_folder_stay_as_they_are(sydent: OldSydent) -> None:
    sydent.bind("alice@example.com")
    sydent.connection.close()
    before = sydent.path.read_bytes(), sorted(sydent.path.parent.iterdir())

    assert _addresses(sydent.path) == ["alice@example.com"]

    assert (sydent.path.read_bytes(), sorted(sydent.path.parent.iterdir())) == before


def test_sydent_may_be_running(sydent: OldSydent) -> None:
    """Reading holds no lock between pages, and a writer that has not committed holds nobody up."""
    sydent.bind("alice@example.com")
    with open_sydent(sydent.path) as file:
        pages = file.local_bindings()
        next(pages)
        sydent.bind("bob@example.com")
        sydent.connection.execute("BEGIN IMMEDIATE")
        sydent.bind("carol@example.com")
        assert file.count("local_threepid_associations") == 2
        sydent.connection.execute("ROLLBACK")


def test_what_a_crash_left_is_undone_in_a_copy(sydent: OldSydent, tmp_path: Path) -> None:
    """A rollback journal beside the file: the transaction that it undoes never happened."""
    sydent.bind("alice@example.com")
    crashed = tmp_path / "crashed.db"
    sydent.connection.execute("PRAGMA cache_size = 1")
    sydent.connection.execute("BEGIN")
    for number in range(2000):
        sydent.bind(f"user{number}@example.com")
    shutil.copy(sydent.path, crashed)
    shutil.copy(f"{sydent.path}-journal", f"{crashed}-journal")
    sydent.connection.execute("ROLLBACK")
    before = crashed.read_bytes()

    assert _addresses(crashed) == ["alice@example.com"]

    assert crashed.read_bytes() == before


def test_write_ahead_log_is_read_too(sydent: OldSydent) -> None:
    sydent.connection.execute("PRAGMA journal_mode = WAL")
    sydent.bind("alice@example.com")
    assert Path(f"{sydent.path}-wal").stat().st_size > 0

    assert _addresses(sydent.path) == ["alice@example.com"]


def test_values_of_the_wrong_kind_spoil_their_row_only(sydent: OldSydent) -> None:
    sydent.bind("alice@example.com")
    sydent.bind("number@example.com", mxid=5)
    sydent.bind("bytes@example.com", mxid=b"@alice:example.org")
    sydent.bind("time@example.com", ts="yesterday")
    sydent.connection.execute(
        "INSERT INTO local_threepid_associations (medium, address, mxid, ts) VALUES ('email', CAST(X'ff40' AS TEXT), 'x', 1)"
    )
    sydent.add("local_threepid_associations", medium="email", address="nul\0@example.com", mxid="x", ts=1)

    with open_sydent(sydent.path) as file:
        rows = [row for page in file.local_bindings() for row in page]
    # SQLite itself makes text of the number.
    assert [isinstance(row, Unreadable) for row in rows] == [False, False, True, True, True, True]


@pytest.mark.parametrize("content", [b"", b"not a database at all, though long enough to be taken for one" * 20])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.db"
    file.write_bytes(content)
    with pytest.raises(SydentFileProblem), open_sydent(file):
        pass


def test_missing_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SydentFileProblem, match="can't be read"), open_sydent(tmp_path / ("x" * 300)):
        pass
    with pytest.raises(SydentFileProblem, match="not a file"), open_sydent(tmp_path / "missing.db"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_newer_schema_is_refused(sydent: OldSydent) -> None:
    sydent.connection.execute("PRAGMA user_version = 6")
    with pytest.raises(SydentFileProblem, match="schema 6"), open_sydent(sydent.path):
        pass


def test_other_sqlite_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE accounts (user_id TEXT)")
    with pytest.raises(SydentFileProblem, match="not a database of Sydent"), open_sydent(tmp_path / "other.db"):
        pass
