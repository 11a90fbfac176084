"""The commands as an operator runs them: what they refuse, what they leave alone, and what a crash does to them."""

from __future__ import annotations

import asyncio
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from identity_server.domain.association import ASSOCIATION_LIFETIME_MS
from tests.support import stepwise
from tests.support.databases import on_postgresql, read_everything, read_rows, table_names
from tests.support.harness import Fakes, running
from tests.support.stepwise import kill_when
from tests.sydent.real import Operator
from tests.sydent.support import ALICE, OldSydent

_MANY = 25_000


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    sydent = OldSydent(tmp_path / "sydent.db")
    sydent.bind("Alice@example.com")
    sydent.connection.close()
    operator = Operator(tmp_path)
    operator.point_at(operator.our_db)
    return operator


def test_dry_run_leaves_no_trace(operator: Operator) -> None:
    def traces() -> tuple[object, ...]:
        made = read_everything(operator.our_db) if on_postgresql() else []
        return sorted(operator.folder.rglob("*")), operator.sydent_db.read_bytes(), made

    before = traces()

    report = operator.report("--dry-run")

    assert traces() == before
    assert report["dry_run"] is True
    assert report["tables"]["local_threepid_associations"]["moved"] == 1


def test_dry_run_after_the_import_finds_nothing_new(operator: Operator) -> None:
    operator.report()
    before = read_everything(operator.our_db)

    assert operator.report("--dry-run")["moved"] == 0
    assert read_everything(operator.our_db) == before


def test_journal_has_the_import_and_that_addresses_were_written_out(operator: Operator) -> None:
    operator.report()
    operator.report()
    operator.command("export-sydent", operator.folder / "out.db")

    journal = operator.command("audit", "list").stdout
    assert [line.split()[2:] for line in journal.splitlines()] == [["imported", "1"], ["exported_to_sydent", "1"]]


def test_notice_that_sydent_still_owed_is_the_servers_first_job(operator: Operator) -> None:
    invited = operator.folder / "invited.db"
    sydent = OldSydent(invited)
    sydent.bind("alice@example.com", ALICE)
    sydent.invite("alice@example.com", sent_s=int(time.time()))
    sydent.connection.close()

    operator.command("import-sydent", invited)

    assert "bind-notice" in operator.command("jobs", "list").stdout


@pytest.mark.sqlite(reason="it tells by the file whose database it is")
def test_serve_names_the_command_that_imports(operator: Operator) -> None:
    operator.point_at(operator.sydent_db)

    refused = operator.command("serve", expect=1).stderr

    match = re.search(r"for example (\S+), and then run:\n  identity-server (.*)", refused)
    assert match, refused
    operator.point_at(Path(match[1]))
    subprocess.run(
        [sys.executable, "-m", "identity_server", *shlex.split(match[2])],
        check=True,
        env=operator.environment,
        capture_output=True,
        cwd=operator.folder,
    )
    assert _count(Path(match[1])) == 1


@pytest.mark.sqlite(reason="db.file names the target")
def test_sydents_own_file_is_never_the_target(operator: Operator) -> None:
    operator.point_at(operator.sydent_db)
    before = operator.sydent_db.read_bytes()

    refused = operator.command("import-sydent", operator.sydent_db, expect=1)

    assert "Set db.file to the name of a new file" in refused.stderr
    assert operator.sydent_db.read_bytes() == before


@pytest.mark.sqlite(reason="the database is a file of ours")
def test_file_that_cannot_be_made_is_told_in_words(operator: Operator) -> None:
    operator.point_at(operator.conf / "identity.db")
    for command in (["serve"], ["import-sydent", operator.sydent_db]):
        refused = operator.command(*command, expect=1).stderr
        assert "must belong to the user that the server runs as" in refused
        assert "Traceback" not in refused


def test_wrong_key_is_refused_before_anything_is_written(operator: Operator) -> None:
    operator.conf.write_text(re.sub(r"ed25519\.signingkey.*", "", operator.conf.read_text()))

    refused = operator.command("import-sydent", operator.sydent_db, expect=1)

    assert "not signed by this server's key" in refused.stderr
    assert not operator.our_db.exists()
    assert not (operator.folder / "keys").exists()


def test_what_is_no_database_of_sydents_is_refused(operator: Operator) -> None:
    refused = operator.command("import-sydent", operator.conf, expect=1)
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert not operator.our_db.exists()


def test_report_and_differences_are_told(operator: Operator) -> None:
    told = operator.command("import-sydent", operator.sydent_db).stdout

    assert re.search(r"local_threepid_associations +1 +1 +0 +0", told)
    assert "enable_v1_access" in told, "what differs from Sydent is named, and who notices"
    assert "@" not in told


def _add_many(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO local_threepid_associations (medium, address, mxid, ts, notBefore, notAfter)"
            " VALUES ('email', ?, ?, 5, 5, ?)",
            [(f"user{number}@example.com", ALICE, ASSOCIATION_LIFETIME_MS) for number in range(_MANY)],
        )


def _count(path: Path) -> int:
    # Reading a file that isn't there would make it.
    if not (on_postgresql() or path.exists()) or "associations" not in table_names(path):
        return 0
    [(count,)] = read_rows(path, "SELECT count(*) FROM associations")
    return int(count)


def test_import_that_was_killed_goes_on(operator: Operator) -> None:
    _add_many(operator.sydent_db)
    _, _, _, *words = operator.command_line("import-sydent", operator.sydent_db)
    process = subprocess.Popen(
        [sys.executable, "-c", stepwise.PROGRAM, *words],
        env=operator.environment,
        cwd=operator.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    kill_when(lambda: _count(operator.our_db) > 0, process.pid)
    process.wait()
    assert 0 < _count(operator.our_db) < _MANY

    resumed = operator.report()["tables"]["local_threepid_associations"]

    assert _count(operator.our_db) == _MANY + 1
    assert resumed["moved"] + resumed["skipped"]["imported before"] == _MANY + 1
    assert operator.report()["moved"] == 0


async def test_running_server_follows(operator: Operator) -> None:
    fakes = Fakes()
    fakes.clock.ms = int(time.time() * 1000)
    async with running(operator.folder, settings={"DB__DB_AUTO_UPGRADE": "true"}, fakes=fakes) as server:
        user = await server.register()
        assert await server.find(user, "alice@example.com") is None

        await asyncio.to_thread(operator.report)

        assert await server.find(user, "alice@example.com") == ALICE
