"""The audit journal: what becomes of entries, and that nothing can be done to them unnoticed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from identity_server.domain.audit import AuditEvent
from identity_server.domain.audit_chain import BEGINNING, Statement, after, sign
from identity_server.domain.identifiers import UserId
from identity_server.domain.signing import SigningKey
from identity_server.services.audit.check import AuditCheck, Findings, KeptHead
from identity_server.services.audit.desk import AuditDesk
from identity_server.services.audit.journal import Journal
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.audit import entry_from_row
from identity_server.storage.schema.tables import audit_chain, audit_heads, audit_pending
from identity_server.storage.sealing.key_ring import RootKey
from tests.support.databases import ROOT_KEY, open_database, read_rows, write_rows
from tests.support.fakes import FakeClock
from tests.support.make import email

KEY = SigningKey(server_name="id.example.org", version="0", seed=b"k" * 32)
ANOTHER_KEY = SigningKey(server_name="id.example.org", version="0", seed=b"a" * 32)
ALICE = UserId("@alice:example.org")
DAY_MS = 86_400_000
KEEP_DAYS = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """A journal and everything that is done with it."""

    directory: Path
    database: Database
    clock: FakeClock
    journal: Journal
    desk: AuditDesk

    @property
    def file(self) -> Path:
        return self.directory / "identity.db"

    async def add(self, *events: AuditEvent) -> None:
        """Write entries, a second apart."""
        for event in events or [AuditEvent.BOUND]:
            self.clock.advance(seconds=1)
            now_ms = self.clock.now_ms()
            await self.database.transaction(
                lambda tx, event=event, now_ms=now_ms: tx.audit.add(event, now_ms=now_ms, about=[ALICE])  # type: ignore[misc]
            )

    async def add_linked(self, count: int) -> None:
        """Write entries that go to their places one by one."""
        for _ in range(count):
            await self.add()
            assert await self.journal.link() == 1

    async def check(self, *, kept: KeptHead | None = None, key: SigningKey = KEY) -> Findings:
        return await AuditCheck(database=self.database, signing_key=key).run(kept=kept)

    async def faults(self, *, kept: KeptHead | None = None, key: SigningKey = KEY) -> list[str]:
        return (await self.check(kept=kept, key=key)).faults

    async def kept(self) -> KeptHead:
        """The head as somebody keeps it."""
        head = await self.desk.head()
        assert head is not None
        kept = AuditCheck(database=self.database, signing_key=KEY).kept(json.loads(json.dumps(head)))
        assert kept is not None
        return kept

    def behind_its_back(self, *statements: str) -> None:
        write_rows(self.file, *statements)


def journal_over(database: Database, clock: FakeClock, *, key: SigningKey = KEY) -> Journal:
    return Journal(database=database, clock=clock, signing_key=key, keep_ms=KEEP_DAYS * DAY_MS)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    clock = FakeClock()
    async with open_database(tmp_path) as database:
        yield Stage(tmp_path, database, clock, journal_over(database, clock), AuditDesk(database=database))


# --- linking --------------------------------------------------------------------------------


async def test_entries_are_linked_in_the_order_they_were_written(stage: Stage) -> None:
    events = [AuditEvent.BOUND, AuditEvent.PEPPER_ROTATED, AuditEvent.UNBOUND]
    await stage.add(*events)
    before = await stage.check()
    assert (before.waiting.count, before.checked, before.head, before.faults) == (3, 0, None, [])

    assert await stage.journal.link() == 3
    assert await stage.journal.link() == 0

    found = await stage.desk.list_newest(event=None, limit=10)
    assert [(seq, entry.event) for seq, entry in found] == list(enumerate(events, start=1))
    linked = await stage.check()
    assert (linked.waiting.count, linked.checked, linked.faults) == (0, 3, [])
    assert linked.head is not None
    assert (linked.head.seq, linked.signed_at_ms) == (3, stage.clock.now_ms())


async def test_head_moves_on_and_leads_through_what_was_kept(stage: Stage) -> None:
    await stage.add_linked(2)
    kept = await stage.kept()
    await stage.add_linked(2)
    assert await stage.faults(kept=kept) == []
    assert await stage.faults(kept=KeptHead(kept.hash)) == []
    assert (await stage.kept()).seq == 4


async def test_late_entry_is_linked_after_those_that_were_committed_before(stage: Stage) -> None:
    """An earlier time doesn't matter: the place is that of the commit."""
    await stage.add_linked(1)
    early_ms = stage.clock.now_ms() - 10_000
    await stage.database.transaction(lambda tx: tx.audit.add(AuditEvent.UNBOUND, now_ms=early_ms))
    await stage.journal.link()
    assert [entry.event for _, entry in await stage.desk.list_newest(event=None, limit=9)] == ["bound", "unbound"]
    assert await stage.faults() == []


async def test_many_that_link_at_once_make_one_chain(stage: Stage) -> None:
    async with open_database(stage.directory) as other:
        journals = [stage.journal, journal_over(other, stage.clock)]
        for _ in range(5):
            await stage.add(*[AuditEvent.BOUND] * 10)
            assert sum(await asyncio.gather(*(journal.link() for journal in journals))) == 10
    findings = await stage.check()
    assert (findings.checked, findings.faults) == (50, [])


async def test_writing_never_waits_for_linking(stage: Stage) -> None:
    """Nor is it made to run again: a use case and the chain have no row in common."""
    runs = 0

    async def use_case(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await tx.audit.add(AuditEvent.BOUND, now_ms=stage.clock.now_ms(), about=[email(), ALICE])

    async with open_database(stage.directory) as other:
        linker = journal_over(other, stage.clock)
        await asyncio.gather(
            *(each for _ in range(40) for each in (stage.database.transaction(use_case), linker.link()))
        )
        await linker.link()
    assert runs == 40
    findings = await stage.check()
    assert (findings.checked, findings.faults) == (40, [])


# --- tampering ------------------------------------------------------------------------------

SQL_FAULTS = {
    "altered time": (["UPDATE audit_chain SET at_ms = at_ms + 1 WHERE seq = 3"], ["Entry 3 was altered"]),
    "altered event": (["UPDATE audit_chain SET event = 'unbound' WHERE seq = 1"], ["Entry 1 was altered"]),
    "no commitments": (["UPDATE audit_chain SET commitments = salt WHERE seq = 5"], ["Entry 5 was altered"]),
    "altered hash": (
        ["UPDATE audit_chain SET hash = salt WHERE seq = 3"],
        ["Entry 3 was altered", "Entry 4 was altered"],
    ),
    "removed from the middle": (["DELETE FROM audit_chain WHERE seq IN (2, 3)"], ["Entries 2 to 3 are missing."]),
    "removed from the beginning": (["DELETE FROM audit_chain WHERE seq = 1"], ["Entry 1 is missing."]),
    "removed from the end": (["DELETE FROM audit_chain WHERE seq = 5"], ["Entry 5 is missing, at the end."]),
    "removed and closed up": (
        [
            "DELETE FROM audit_chain WHERE seq = 2",
            *(f"UPDATE audit_chain SET seq = {n - 1} WHERE seq = {n}" for n in (3, 4, 5)),
        ],
        ["Entry 2 was altered", "Entry 3 was altered", "Entry 4 was altered", "Entry 5 is missing, at the end."],
    ),
    "swapped": (
        [
            "UPDATE audit_chain SET seq = -1 WHERE seq = 2",
            "UPDATE audit_chain SET seq = 2 WHERE seq = 3",
            "UPDATE audit_chain SET seq = 3 WHERE seq = -1",
        ],
        ["Entry 2 was altered", "Entry 3 was altered", "Entry 4 was altered"],
    ),
    "head removed": (["DELETE FROM audit_heads"], ["There are entries, but no signed head."]),
    "head is no JSON": (["UPDATE audit_heads SET signed = 'nonsense'"], ["The head is not signed"]),
    "head altered": (["UPDATE audit_heads SET signed = replace(signed, '5', '4')"], ["The head is not signed"]),
    "removed from the end, and the head altered": (
        ["DELETE FROM audit_chain WHERE seq = 5", "UPDATE audit_heads SET signed = replace(signed, '5', '4')"],
        ["The head is not signed"],
    ),
    "all removed but the head": (["DELETE FROM audit_chain"], ["Entries 1 to 5 are missing, at the end."]),
}


@pytest.mark.parametrize(("statements", "expected"), SQL_FAULTS.values(), ids=SQL_FAULTS)
async def test_whatever_is_done_to_linked_entries_is_found(
    stage: Stage, statements: list[str], expected: list[str]
) -> None:
    await stage.add_linked(5)
    assert await stage.faults() == []
    stage.behind_its_back(*statements)
    found = await stage.faults()
    assert len(found) == len(expected), found
    for sentence, beginning in zip(found, expected, strict=True):
        assert sentence.startswith(beginning)


async def rewrite(stage: Stage, *, key: SigningKey | None) -> None:
    """What a thief does who knows how entries are linked: alter one, and make all that follow fit."""

    async def use_case(tx: Transaction) -> None:
        connection = tx.audit_chain._connection
        place = BEGINNING
        for row in (await connection.execute(select(audit_chain).order_by(audit_chain.c.seq))).all():
            at_ms = row.at_ms + (row.seq == 3)
            place = after(place, replace(entry_from_row(row), at_ms=at_ms))
            this = update(audit_chain).where(audit_chain.c.seq == row.seq)
            await connection.execute(this.values(at_ms=at_ms, hash=place.hash))
        if key is not None:
            signed = sign(Statement.HEAD, place, now_ms=1, key=key)
            await connection.execute(update(audit_heads).values(signed=json.dumps(signed)))

    await stage.database.transaction(use_case)


async def test_chain_that_was_written_anew_does_not_lead_to_the_head(stage: Stage) -> None:
    await stage.add_linked(5)
    kept = await stage.kept()
    await rewrite(stage, key=None)
    forged, end, before = await stage.faults(kept=kept)
    assert forged == "Entry 3 was not written by this server."
    assert "written anew" in end
    assert "not the one that the kept head is about" in before


async def test_chain_that_was_written_anew_and_signed_by_another_key_is_found(stage: Stage) -> None:
    await stage.add_linked(5)
    await rewrite(stage, key=ANOTHER_KEY)
    assert "The head is not signed by this server's key." in await stage.faults()


async def test_whoever_has_the_signing_key_can_rewrite_all_but_what_others_keep(stage: Stage) -> None:
    await stage.add_linked(5)
    kept = await stage.kept()
    await rewrite(stage, key=KEY)
    # Without the root key, the entry itself isn't theirs to make; with both keys, only the kept head is left.
    assert await stage.faults() == ["Entry 3 was not written by this server."]
    assert len(await stage.faults(kept=kept)) == 2


async def test_nothing_counts_by_another_key(stage: Stage) -> None:
    await stage.add_linked(5)
    assert await stage.faults(key=ANOTHER_KEY) == ["The head is not signed by this server's key."]
    head = await stage.desk.head()
    assert head is not None
    assert AuditCheck(database=stage.database, signing_key=ANOTHER_KEY).kept(head) is None


async def test_end_that_was_removed_with_its_head_is_found_by_the_kept_one(stage: Stage) -> None:
    await stage.add_linked(3)
    [(earlier,)] = read_rows(stage.file, "SELECT signed FROM audit_heads")
    await stage.add_linked(2)
    kept = await stage.kept()
    stage.behind_its_back("DELETE FROM audit_chain WHERE seq > 3", f"UPDATE audit_heads SET signed = '{earlier}'")

    assert await stage.faults() == [], "by itself it is as it was"
    [sentence] = await stage.faults(kept=kept)
    assert "ends with entry 3, but went as far as 5" in sentence
    assert await stage.faults(kept=KeptHead(kept.hash)) == ["No entry has the hash that was kept."]

    await stage.add_linked(4)
    [sentence] = await stage.faults(kept=kept)
    assert sentence.startswith("Entry 5 is not the one")


async def test_journal_that_was_removed_whole_is_found_by_the_kept_head(stage: Stage) -> None:
    await stage.add_linked(3)
    kept = await stage.kept()
    stage.behind_its_back("DELETE FROM audit_chain", "DELETE FROM audit_heads")
    assert await stage.faults() == []
    assert len(await stage.faults(kept=kept)) == 1


async def test_entry_that_this_server_has_not_written_is_found_though_it_was_linked(stage: Stage) -> None:
    await stage.add_linked(1)
    await stage.add()
    for column, value in {"event": "account_erased", "number": 7, "server_name": "example.org"}.items():
        await _copy_pending(stage, salt=column.rjust(16, "x").encode(), **{column: value})
    assert await stage.journal.link() == 4
    findings = await stage.check()
    assert len(findings.faults) == 3
    assert all("was not written by this server" in sentence for sentence in findings.faults)


async def test_whom_a_waiting_entry_is_about_cannot_be_taken_out(stage: Stage) -> None:
    await stage.add()

    async def use_case(tx: Transaction) -> None:
        connection = tx.audit_chain._connection
        row = (await connection.execute(select(audit_pending))).one()
        await connection.execute(update(audit_pending).values(commitments=row.commitments[:16]))

    await stage.database.transaction(use_case)
    await stage.journal.link()
    assert await stage.faults() == ["Entry 1 was not written by this server."]


async def test_entry_that_was_put_in_again_is_found(stage: Stage) -> None:
    await stage.add_linked(2)
    await _copy_linked(stage, seq=1)
    assert await stage.journal.link() == 1
    assert await stage.faults() == ["1 of the entries are copies of others."]


async def _copy_pending(stage: Stage, **changes: Any) -> None:
    async def use_case(tx: Transaction) -> None:
        connection = tx.audit_chain._connection
        row = (await connection.execute(select(audit_pending).limit(1))).one()
        columns = {name: value for name, value in row._mapping.items() if name != "id"}
        await connection.execute(insert(audit_pending).values(**{**columns, **changes}))

    await stage.database.transaction(use_case)


async def _copy_linked(stage: Stage, *, seq: int) -> None:
    async def use_case(tx: Transaction) -> None:
        connection = tx.audit_chain._connection
        row = (await connection.execute(select(audit_chain).where(audit_chain.c.seq == seq))).one()
        columns = {name: value for name, value in row._mapping.items() if name not in {"seq", "hash"}}
        await connection.execute(insert(audit_pending).values(**columns))

    await stage.database.transaction(use_case)


async def test_only_the_chain_vouches_for_entries_of_another_root_key(stage: Stage) -> None:
    await stage.add_linked(2)
    async with open_database(stage.directory, root_key=RootKey(b"o" * 32)) as database:
        await database.transaction(lambda tx: tx.audit.add(AuditEvent.BOUND, now_ms=1, about=[ALICE]))
    await stage.journal.link()
    findings = await stage.check()
    assert (findings.faults, findings.of_other_keys) == ([], 1)
    assert ROOT_KEY.key_id != RootKey(b"o" * 32).key_id
    assert [seq for seq, _ in await stage.desk.find(ALICE)] == [1, 2]


# --- nothing wrong is continued ---------------------------------------------------------------

BREAKS = {
    "head forged": "UPDATE audit_heads SET signed = replace(signed, '2', '3')",
    "head removed": "DELETE FROM audit_heads",
    "entries after the head": "INSERT INTO audit_chain (seq, salt, at_ms, event, key_id, commitments, hash)"
    " SELECT 3, salt, at_ms, event, key_id, commitments, hash FROM audit_chain WHERE seq = 2",
}


@pytest.mark.parametrize("statement", BREAKS.values(), ids=BREAKS)
async def test_server_does_not_sign_what_follows_a_break(
    stage: Stage, statement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await stage.add_linked(2)
    stage.behind_its_back(statement)
    await stage.add()
    assert await stage.journal.link() == 0
    assert await stage.journal.link() == 0
    assert capsys.readouterr().out.count("audit.broken") == 1, "once an hour"
    assert await stage.faults()
    assert (await stage.check()).waiting.count == 1

    assert await stage.journal.restart() >= 2
    assert await stage.journal.link() == 2
    findings = await stage.check()
    assert (findings.faults, findings.checked) == ([], 2)
    found = await stage.desk.list_newest(event=None, limit=9)
    assert [entry.event for _, entry in found] == ["bound", "journal_restarted"]
    assert found[0][0] is not None
    assert found[0][0] > 2, "numbers go on"


async def test_restarted_journal_is_not_taken_for_the_one_before(stage: Stage) -> None:
    await stage.add_linked(2)
    kept = await stage.kept()
    await stage.journal.restart()
    assert await stage.faults(kept=await stage.kept()) == []
    assert len(await stage.faults(kept=KeptHead(BEGINNING.hash))) == 1
    await stage.journal.link()
    [sentence] = await stage.faults(kept=kept)
    assert "can't be compared" in sentence or "written anew" in sentence


# --- pruning --------------------------------------------------------------------------------


async def test_what_is_left_after_pruning_is_verified(stage: Stage) -> None:
    await stage.add_linked(3)
    old = await stage.kept()
    stage.clock.advance(days=KEEP_DAYS - 1)
    await stage.add_linked(2)
    kept = await stage.kept()
    assert await stage.journal.prune() == 0
    stage.clock.advance(days=2)

    assert await stage.journal.prune() == 3
    assert await stage.journal.prune() == 0

    findings = await stage.check(kept=kept)
    assert (findings.faults, findings.first_seq, findings.checked) == ([], 4, 2)
    assert await stage.faults(kept=old) == [], "the last that was removed is still known"
    await stage.add_linked(1)
    assert await stage.faults(kept=kept) == []


async def test_journal_can_be_pruned_to_nothing_and_goes_on(stage: Stage) -> None:
    await stage.add_linked(3)
    stage.clock.advance(days=KEEP_DAYS + 1)
    assert await stage.journal.prune() == 3
    findings = await stage.check()
    assert (findings.faults, findings.checked) == ([], 0)
    await stage.add_linked(1)
    assert [seq for seq, _ in await stage.desk.list_newest(event=None, limit=9)] == [4]
    assert await stage.faults() == []


async def test_head_that_is_older_than_everything_kept_cannot_be_compared(stage: Stage) -> None:
    await stage.add_linked(1)
    kept = await stage.kept()
    await stage.add_linked(2)
    stage.clock.advance(days=KEEP_DAYS + 1)
    await stage.add_linked(1)
    await stage.journal.prune()
    [sentence] = await stage.faults(kept=kept)
    assert "can't be compared" in sentence


PRUNED_FAULTS: dict[str, tuple[str, list[str]]] = {
    "more removed": ("DELETE FROM audit_chain WHERE seq = 4", ["Entry 4 is missing."]),
    "note removed": ("DELETE FROM audit_heads WHERE name = 'pruned'", ["Entries 1 to 3 are missing."]),
    "note forged": (
        "UPDATE audit_heads SET signed = replace(signed, '3', '4') WHERE name = 'pruned'",
        ["The note of what was removed for its age is not signed by this server's key."],
    ),
    "head taken for a note": (
        "UPDATE audit_heads SET signed = (SELECT signed FROM audit_heads WHERE name = 'head') WHERE name = 'pruned'",
        ["The note of what was removed for its age is not signed by this server's key."],
    ),
}


@pytest.mark.parametrize(("statement", "expected"), PRUNED_FAULTS.values(), ids=PRUNED_FAULTS)
async def test_whatever_is_done_after_pruning_is_found(stage: Stage, statement: str, expected: list[str]) -> None:
    await stage.add_linked(3)
    stage.clock.advance(days=KEEP_DAYS + 1)
    await stage.add_linked(3)
    await stage.journal.prune()
    stage.behind_its_back(statement)
    assert await stage.faults() == expected


async def test_entry_that_was_made_to_look_old_is_not_pruned(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    await stage.add_linked(3)
    stage.behind_its_back("UPDATE audit_chain SET at_ms = 1 WHERE seq < 3")
    assert await stage.journal.prune() == 0
    assert "audit.broken" in capsys.readouterr().out
    assert len(await stage.faults()) == 2


async def test_check_beside_pruning_finds_no_fault(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed for its age while somebody goes through the journal isn't missing."""
    await stage.add_linked(3)
    stage.clock.advance(days=KEEP_DAYS + 1)
    await stage.add_linked(1)
    pruned: list[int] = []
    real = stage.database.read

    async def read(use_case: Callable[[Transaction], Awaitable[Any]], **options: Any) -> Any:
        result = await real(use_case, **options)
        if not pruned:
            pruned.append(await stage.journal.prune())
        return result

    monkeypatch.setattr(stage.database, "read", read)
    findings = await stage.check()
    assert pruned == [3]
    assert (findings.faults, findings.first_seq) == ([], 4)


# --- reading --------------------------------------------------------------------------------


async def test_entries_about_somebody_are_found_linked_or_not(stage: Stage) -> None:
    bob = UserId("@bob:example.org")
    await stage.add_linked(1)
    await stage.database.transaction(lambda tx: tx.audit.add(AuditEvent.BOUND, now_ms=2, about=[email(), bob]))
    await stage.journal.link()
    await stage.add(AuditEvent.UNBOUND)
    assert [(seq, entry.event) for seq, entry in await stage.desk.find(ALICE)] == [(1, "bound"), (None, "unbound")]
    assert [seq for seq, _ in await stage.desk.find(email())] == [2]
    assert [seq for seq, _ in await stage.desk.find(email(), bob, ALICE)] == [1, 2, None]
    assert await stage.desk.find(UserId("@carol:example.org")) == []


async def test_others_can_verify_what_is_dumped(stage: Stage) -> None:
    await stage.add_linked(2)
    stage.clock.advance(days=KEEP_DAYS + 1)
    await stage.add_linked(3)
    await stage.journal.prune()
    previous = None
    async for line in stage.desk.everything():
        entry = dict(line)
        own = entry.pop("hash")
        text = json.dumps(entry, separators=(",", ":"), sort_keys=True)
        assert hashlib.sha256(text.encode()).hexdigest() == own
        assert previous in {None, entry["previous"]}
        previous = own
    assert previous == (await stage.kept()).hash.hex()
