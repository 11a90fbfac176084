"""Upgrades from every schema that there ever was: killed within them, two at once, of a database that is too new.

What becomes of each table's rows is in tests/storage/schema/test_migrations.py. Here an upgrade is a process of its own, and what
it has made of a database is what a server then serves.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from sqlalchemy import Connection, event, insert, text

from identity_server.outbound.system import SystemRandomness
from identity_server.services.outbox.port import BIND_NOTICE, MAIL
from identity_server.storage.database import Database
from identity_server.storage.engines.sqlite import BUSY_SECONDS
from identity_server.storage.schema.tables import metadata
from identity_server.storage.schema.upgrade import Schema
from identity_server.storage.sealing.key_ring import ROOT_KEY_BYTES, KeyRing, RootKey
from identity_server.storage.sealing.sealer import LiveKeys
from tests.e2e.processes import PATIENCE_SECONDS
from tests.fire.installation import Installation, ended, installed, put_rows
from tests.fire.launcher import COPIED, MIGRATION
from tests.fire.load import Kind, Ledger, Load, Subject
from tests.fire.outside import accept
from tests.fire.report import Proof
from tests.fire.stage import Engine, Stage, set_up
from tests.fire.test_kills import whole
from tests.support.old_schemas import (
    RowKind,
    Rows,
    assert_kept,
    describe,
    fill,
    make_row,
    revisions,
)

HEAD = revisions()[-1]
PAST = revisions()[:-1]
_ENGINES = pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
_MOMENTS = ("statement", "before", "during", "after", "some time")
_MANY = 3_000
_STORIES = 30
SECRET = "the_client_secret"
WAITING = "waiting@example.com"
_LONGEST_UPGRADE_SECONDS = 0.25


def fill_well(connection: Connection) -> None:
    """Rows of all kinds, and so many of some that moving and indexing them takes a while."""
    fill(connection)
    tables = {table.name: table for table in describe(connection)}
    rows: dict[str, list[dict[str, Any]]] = {
        "accounts": [{"user_id": f"@{number}:example.org", "created_at_ms": number} for number in range(_MANY)],
        "associations": [
            {
                "id": 100 + number,
                "medium": "msisdn" if number % 2 else "email",
                "address_blind": number.to_bytes(32, "big"),
                "key_id": "k",
                "sealed_address": bytes(80),
                "user_id": f"@{number}:example.org",
                "ts": number,
                "not_before": number,
                "not_after": number,
            }
            for number in range(_MANY)
        ],
    }
    if "audit" in tables:
        rows["audit"] = [
            {"id": 100 + number, "at_ms": number, "event": "given_up", "server_name": None} for number in range(_MANY)
        ]
    for name, of_table in rows.items():
        connection.execute(insert(tables[name]), of_table)


async def statements_of(installation: Installation, revision: str) -> int:
    """How many statements an upgrade from there has."""
    await installation.put(revision, fill)
    seen = 0

    def note(*_: Any) -> None:
        nonlocal seen
        seen += 1

    async with installation.engine() as engine:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
        await Schema(engine)._migrate()
    return seen


@_ENGINES
async def test_killed_within_an_upgrade_nothing_is_lost_and_the_next_one_succeeds(
    tmp_path: Path, engine: Engine, proof: Proof
) -> None:
    kills = proof.rounds(quick=5, full=100)
    draw = random.Random(f"kills {engine}")
    hit = 0
    async with installed(tmp_path, engine) as installation:
        # The newest first, so that a few rounds are about what is about to be released.
        from_where = list(islice(cycle(PAST[::-1]), kills))
        statements = {revision: await statements_of(installation, revision) for revision in set(from_where)}
        for revision, moment in zip(from_where, cycle(_MOMENTS), strict=False):
            await installation.put(revision, fill_well)
            before = await installation.read()
            hit += await killed_upgrade(installation, moment, statements[revision], draw)
            assert await installation.status() in {revision, HEAD}
            if await installation.status() == revision:
                assert await installation.read() == before, "half an upgrade"
            assert_whole(installation)
            assert_copies_are_good(installation, revision, before)
            await upgrade(installation)
            assert_kept(before, await installation.read())
            assert_whole(installation)
    assert hit > kills / 2
    proof.record(
        f"`db upgrade` killed with `kill -9` from each of {len(PAST)} earlier schemas, before a statement drawn at random, just"
        f" before, within or just after its commit, or at any time, on {engine}",
        times=kills,
        outcome=f"{hit} kills fell into the migration; each database was then of the one schema or of the other, whole; the"
        " next upgrade succeeded, 0 rows lost or changed",
    )


async def killed_upgrade(installation: Installation, moment: str, statements: int, draw: random.Random) -> bool:
    """Start an upgrade and kill it; whether that was while it migrated."""
    server = installation.server
    point = f"statement {draw.randrange(statements)}" if moment == "statement" else moment
    is_timed = moment == "some time"
    point = f"{MIGRATION}:{'statement 0' if is_timed else point}"
    server.arm(point, "paused" if is_timed else "server")
    program = installation.command("db", "upgrade")
    program.start()
    if not is_timed:
        status = await ended(program)
        assert server.has_fired()
        return status == -signal.SIGKILL
    await server_has_fired(installation)
    await asyncio.sleep(0.01)
    os.kill(program.pid, signal.SIGCONT)
    await asyncio.sleep(draw.uniform(0, _LONGEST_UPGRADE_SECONDS))
    is_running = program.is_running
    program.kill()
    return is_running


async def server_has_fired(installation: Installation) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not installation.server.has_fired():
            await asyncio.sleep(0.005)


async def upgrade(installation: Installation) -> str:
    """An upgrade that nothing happens to; what it says."""
    installation.server.disarm()
    program = installation.command("db", "upgrade")
    program.start()
    assert await ended(program) == 0, program.tail()
    assert await installation.status() == HEAD
    return program.tail()


def assert_whole(installation: Installation) -> None:
    if installation.server.postgresql is None:
        assert_file_is_whole(installation.server.database)


def assert_file_is_whole(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def assert_copies_are_good(installation: Installation, revision: str, before: Rows) -> None:
    """What is called a copy is one, whole, of what was there before the upgrade."""
    for copy in installation.copies():
        if ".unfinished" in copy.name:
            continue
        assert copy.stat().st_mode & 0o777 == 0o600
        assert_file_is_whole(copy)
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(revision,)]
            for name, rows in before.items():
                assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == (len(rows),)


async def test_killed_while_the_copy_is_made_it_is_no_copy(tmp_path: Path, proof: Proof) -> None:
    kills = proof.rounds(quick=4, full=60)
    draw = random.Random("copies")
    unfinished = 0
    async with installed(tmp_path, "sqlite") as installation:
        for number, revision in enumerate(islice(cycle(PAST[::-1]), kills)):
            await installation.put(revision, fill_well)
            before = await installation.read()
            await killed_copy(installation, draw, at_its_end=number % 2 == 0)
            unfinished += any(".unfinished" in copy.name for copy in installation.copies())
            assert_copies_are_good(installation, revision, before)
            await upgrade(installation)
            assert_kept(before, await installation.read())
            assert_copies_are_good(installation, revision, before)
            assert not [copy for copy in installation.copies() if ".unfinished" in copy.name]
    assert unfinished
    proof.record(
        "`db upgrade` killed with `kill -9` while SQLite's copy is made",
        times=kills,
        outcome=f"{unfinished} copies were unfinished and called so; every other one was whole, of the earlier schema, with all"
        " rows; the next upgrade succeeded",
    )


async def killed_copy(installation: Installation, draw: random.Random, *, at_its_end: bool) -> None:
    """Start an upgrade, and kill it while it copies, or soon after; or when all that is left is to give the copy its name."""
    if at_its_end:
        installation.server.arm(COPIED, "server")
    else:
        installation.server.disarm()
    program = installation.command("db", "upgrade")
    program.start()
    if at_its_end:
        assert await ended(program) == -signal.SIGKILL
        return
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not installation.copies():
            await asyncio.sleep(0)
    await asyncio.sleep(draw.uniform(0, 0.02))
    program.kill()


def look(installation: Installation) -> tuple[int, str]:
    """What `db status` says."""
    program = installation.command("db", "status")
    program.start()
    return program.wait(), program.tail().splitlines()[-1]


@_ENGINES
async def test_two_upgrades_at_once_are_one(tmp_path: Path, engine: Engine, proof: Proof) -> None:
    times = proof.rounds(quick=1, full=len(PAST))
    async with installed(tmp_path, engine) as installation:
        for revision in PAST[::-1][:times]:
            await installation.put(revision, fill)
            before = await installation.read()
            installation.server.arm(f"{MIGRATION}:before", "paused")
            first, second = installation.command("db", "upgrade"), installation.command("db", "upgrade")
            first.start()
            try:
                await server_has_fired(installation)
                second.start()
                # It waits, whatever SQLite's own patience is.
                await asyncio.sleep(BUSY_SECONDS + 1)
                assert second.is_running, second.tail()
                assert (await asyncio.to_thread(look, installation)) == (1, f"schema {revision}, expected {HEAD}")
                os.kill(first.pid, signal.SIGCONT)
                assert await ended(first) == 0, first.tail()
                assert await ended(second) == 0, second.tail()
            finally:
                first.kill()
                second.kill()
            assert_kept(before, await installation.read())
            assert_copies_are_good(installation, revision, before)
            await upgrade(installation)
            # And without anybody's being stopped: who comes first is chance.
            await installation.put(revision, fill)
            both = [installation.command("db", "upgrade") for _ in range(2)]
            for program in both:
                program.start()
            assert [await ended(program) for program in both] == [0, 0], "\n".join(each.tail() for each in both)
            assert_kept(before, await installation.read())
            assert_copies_are_good(installation, revision, before)
    proof.record(
        f"Two `db upgrade` at once, the first stopped within its migration, on {engine}",
        times=times,
        outcome="one upgraded, the other waited and found nothing to do; whoever only looked was answered meanwhile",
    )


@_ENGINES
async def test_newer_schema_is_refused_by_every_command_and_left_as_it_is(
    tmp_path: Path, engine: Engine, proof: Proof
) -> None:
    commands = [
        ["serve"],
        ["db", "upgrade"],
        ["db", "status"],
        ["pepper", "list"],
        ["jobs", "list"],
    ]
    async with installed(tmp_path, engine) as installation:
        await installation.put(HEAD, fill)
        await installation.run(
            lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        )
        before, files = await installation.read(), contents(installation)
        for words in commands:
            program = installation.command(*words)
            program.start()
            assert await ended(program) == 1, program.tail()
            said = program.tail()
            assert "Traceback" not in said
            assert "9999" in said
            if words != ["db", "status"]:
                assert "was made by a newer one" in said
            assert contents(installation) == files, words
        assert await installation.read() == before
        assert installation.copies() == []
    proof.record(
        f"A database of a newer schema given to {len(commands)} commands, on {engine}",
        times=len(commands),
        outcome="each ended with status 1 and a sentence that names the schema and what to do; not a byte was changed",
    )


def contents(installation: Installation) -> dict[str, bytes]:
    """What is in the folder of the database."""
    folder = installation.server.database.parent
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*"))}


async def test_copy_from_before_an_upgrade_is_restored_as_the_documentation_says(
    tmp_path: Path, proof: Proof
) -> None:
    revisions_back = PAST if proof.is_full else PAST[-1:]
    async with installed(tmp_path, "sqlite") as installation:
        for revision in revisions_back:
            await installation.put(revision, fill)
            before = await installation.read()
            await upgrade(installation)
            (copy,) = installation.copies()
            for suffix in ("", "-wal", "-shm"):
                installation.server.database.with_name(f"identity.db{suffix}").unlink(missing_ok=True)
            copy.rename(installation.server.database)
            assert await installation.status() == revision
            assert await installation.read() == before
            await upgrade(installation)
            assert_kept(before, await installation.read())
    proof.record(
        "The copy that an upgrade has made, put in the place of the database",
        times=len(revisions_back),
        outcome="the former schema with every row as it was; upgraded once more, 0 lost",
    )


# --- what a server makes of it --------------------------------------------------------------


@dataclass
class _Past:
    """What a server has come to hold, and what it has promised; put back in the form of any earlier schema."""

    stage: Stage
    load: Load
    installation: Installation
    account: str
    waiting_sid: str
    visit: str
    rows: Rows = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    letters: int = 0
    notices: int = 0
    has_visits: bool = True

    async def journal_is_linked(self) -> None:
        """Until some of it stands in the chain, below a signed head: rows that were made up would be signed by nobody."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await self.installation.read())["audit_heads"]:
                await asyncio.sleep(0.2)

    async def remember(self) -> None:
        await self._retire_a_key()
        self.rows = {
            name: rows or [make_row(metadata.tables[name], RowKind.USUAL)]
            for name, rows in (await self.installation.read()).items()
            # What is to come into the journal's chain has to be signed for.
            if rows or name != "audit_pending"
        }
        assert {job["kind"] for job in self.rows["jobs"]} >= {MAIL, BIND_NOTICE}, "nothing was left to be done"
        self.ledger = deepcopy(self.load.ledger)
        self.letters, self.notices = len(self.stage.relay.letters), len(self.stage.homeserver.notices)

    async def _retire_a_key(self) -> None:
        """As if the root key had been replaced once, which takes a minute."""
        root = RootKey.parse((self.stage.server.folder / "keys" / "root.key").read_text())
        former = RootKey(b"f" * ROOT_KEY_BYTES).digest_keys
        async with self.installation.engine() as engine:
            database = Database(engine, LiveKeys(KeyRing(root), randomness=SystemRandomness()))
            await database.transaction(lambda tx: tx.server_keys.retire(former, now_ms=1))
            await database.close()

    async def put_back(self, revision: str) -> None:
        """As the server was stopped, had it been of that schema."""
        # Some time has passed, so what was postponed is due.
        jobs: list[Mapping[str, Any]] = [{**job, "run_at_ms": job["created_at_ms"]} for job in self.rows["jobs"]]
        rows: Rows = {**self.rows, "jobs": jobs}
        await self.installation.put(revision, partial(put_rows, rows=rows))
        del self.stage.relay.letters[self.letters :]
        del self.stage.homeserver.notices[self.notices :]
        self.stage.relay.on_rcpt = accept
        self.stage.homeserver.takes_notices = True
        self.load.ledger = deepcopy(self.ledger)
        tables = await self.installation.run(lambda connection: {table.name for table in describe(connection)})
        if "invites" not in tables:
            self.load.ledger.invited.clear()
        self.has_visits = "visits" in tables

    async def go_on(self) -> None:
        """Do what was begun before: follow the link of a mail that had to wait, bind, look up; open the privacy page."""
        token = await self.stage.relay.token_for(WAITING, seconds=PATIENCE_SECONDS)
        proof = {"sid": self.waiting_sid, "client_secret": SECRET}
        for path, body in (
            ("validate/email/submitToken", {**proof, "token": token}),
            ("3pid/bind", {**proof, "mxid": self.stage.homeserver.user("patient")}),
        ):
            status, content = await self.load.ask("POST", path, token=self.account, json=body)
            assert status == 200, content
        async with ClientSession() as session, session.get(self.visit) as response:
            assert response.status == (200 if self.has_visits else 400)


async def live(stage: Stage, load: Load) -> _Past:
    """Have people go through their stories, and then leave some of what they have begun undone."""
    async with load.going_on(people=6):
        while load.stories < _STORIES:
            await asyncio.sleep(0.05)
    patient, network = stage.homeserver.user("patient"), 77 << 8
    account = await load._register("patient", network)
    await load.ask("POST", "terms", token=account, json={"user_accepts": load._terms})
    load.ledger.know(Subject(Kind.ACCOUNT, account), "accepted", "terms accepted")
    await load._invite(patient, "early@example.com", network, account)
    proof = {"sid": await load._prove("early@example.com", network, account), "client_secret": SECRET}
    visit = await ask_what_is_held(stage)
    assert await load.delivered_within(300) == []

    stage.relay.on_rcpt = come_back_later
    stage.homeserver.takes_notices = False
    status, _ = await load.ask("POST", "3pid/bind", token=account, json={**proof, "mxid": patient})
    assert status == 200
    load.ledger.know(Subject(Kind.BINDING, "early@example.com"), patient, "bound")
    body = {"client_secret": SECRET, "email": WAITING, "send_attempt": 1}
    status, requested = await load.ask("POST", "validate/email/requestToken", token=account, json=body)
    assert status == 200
    load.ledger.mailed.append(WAITING)
    await load._invite(patient, "guest@example.com", network, account)
    return _Past(stage, load, Installation(stage.server), account, requested["sid"], visit)


async def come_back_later(_server: Any, _recipient: str) -> str | None:
    return "451 4.7.1 come back later"


async def ask_what_is_held(stage: Stage) -> str:
    """The link that the privacy page mails."""
    async with ClientSession() as session:
        url = f"{stage.server.base}/_matrix/identity/privacy"
        async with session.post(url, data={"email": "visitor@example.com"}) as response:
            assert response.status == 200
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (letters := stage.relay.others_to("visitor@example.com")):
            await asyncio.sleep(0.05)
    text = letters[0].message.get_body(("plain",))
    assert text is not None
    found = re.search(r"http\S+/privacy/open\?token=\S+", text.get_content())
    assert found is not None
    return found[0]


@_ENGINES
async def test_a_server_goes_on_where_one_of_an_earlier_schema_was_stopped(
    tmp_path: Path, engine: Engine, proof: Proof
) -> None:
    everything = PAST if proof.is_full else [PAST[0], PAST[-1]]
    async with set_up(tmp_path, engine) as stage, Load(stage) as load:
        past = await live(stage, load)
        await past.journal_is_linked()
        await asyncio.to_thread(stage.server.program.stop)
        await past.remember()
        for revision in everything:
            await past.put_back(revision)
            await stage.server.start()
            assert await past.installation.status() == HEAD
            assert await load.check() == [], revision
            assert await load.delivered_within(300) == [], revision
            await past.go_on()
            await whole(stage.server)
            await asyncio.to_thread(stage.server.program.stop)
        told = ", ".join(f"{count} {effect}" for effect, count in sorted(past.ledger.acknowledged.items()))
    proof.record(
        f"A server started on a database of each earlier schema, with what was acknowledged and what was still to be done, on"
        f" {engine}",
        times=len(everything),
        outcome=f"0 lost of: {told}; waiting mails, invites and notices arrived; a mailed link, a session and a binding from"
        " before were good, and new ones could be made",
    )
