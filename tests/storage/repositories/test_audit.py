from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from identity_server.domain.audit import AuditEvent
from identity_server.domain.identifiers import Medium, ServerName, Threepid, UserId
from identity_server.shipped import shipped
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.audit import Audit
from identity_server.storage.schema.upgrade import Schema
from identity_server.storage.sealing.key_ring import RootKey
from tests.support.databases import engine_at, open_database, put_empty, read_everything, read_rows, write_rows
from tests.support.fakes import START_MS

ALICE = UserId("@alice:example.org")
ADDRESS = Threepid(Medium.EMAIL, "alice@example.com")


async def add(database: Database, event: AuditEvent, *about: Threepid | UserId | ServerName) -> None:
    await database.transaction(lambda tx: tx.audit.add(event, now_ms=START_MS, about=about))


async def _audit(tx: Transaction) -> Audit:
    return tx.audit


async def test_entry_is_about_whom_it_was_written_for_and_nobody_else(database: Database) -> None:
    await add(database, AuditEvent.BOUND, ADDRESS, ALICE)
    await add(database, AuditEvent.UNBOUND, ServerName("example.org"))

    async def subjects(event: AuditEvent) -> list[bool]:
        [entry] = await database.read(lambda tx: tx.audit.list(event))
        audit = await database.read(_audit)
        asked = (
            ADDRESS,
            ALICE,
            ServerName("example.org"),
            UserId("@bob:example.org"),
            Threepid(Medium.MSISDN, "alice"),
        )
        return [audit.is_about(entry, each) for each in asked]

    assert await subjects(AuditEvent.BOUND) == [True, True, False, False, False]
    assert await subjects(AuditEvent.UNBOUND) == [False, False, True, False, False]


async def test_no_two_entries_about_the_same_person_have_anything_in_common(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        for _ in range(2):
            await add(database, AuditEvent.BOUND, ADDRESS, ALICE)
        first, second = await database.read(lambda tx: tx.audit.list(AuditEvent.BOUND))

    assert len({*first.commitments, *second.commitments}) == 6
    everything = repr(read_everything(tmp_path / "identity.db"))
    assert "alice" not in everything
    assert "example" not in everything


async def test_another_root_key_recognises_nobody(tmp_path: Path) -> None:
    async with open_database(tmp_path) as database:
        await add(database, AuditEvent.BOUND, ALICE)
    async with open_database(tmp_path, root_key=RootKey(b"o" * 32)) as database:
        [entry] = await database.read(lambda tx: tx.audit.list(AuditEvent.BOUND))
        assert not (await database.read(_audit)).is_about(entry, ALICE)


async def test_entry_is_taken_back_with_its_use_case(database: Database) -> None:
    class GivenUp(Exception):
        pass

    async def use_case(tx: Transaction) -> None:
        await tx.audit.add(AuditEvent.BOUND, now_ms=START_MS)
        raise GivenUp

    with pytest.raises(GivenUp):
        await database.transaction(use_case)
    assert await database.read(lambda tx: tx.audit.list(AuditEvent.BOUND)) == []


async def test_earlier_audit_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "identity.db"
    scripts = tmp_path / "scripts"
    shutil.copytree(shipped("migrations"), scripts, ignore=shutil.ignore_patterns("000[5-9]*", "00[1-9]*"))
    await put_empty(file)
    engine = engine_at(tmp_path)
    await Schema(engine, scripts=scripts).upgrade(now_ms=START_MS)
    write_rows(
        file,
        "INSERT INTO audit (at_ms, event, server_name) VALUES (1, 'on-bind notice given up', 'a.example')",
        "INSERT INTO audit (at_ms, event, server_name) VALUES (2, 'on-bind notice given up', 'b.example')",
    )

    await Schema(engine).upgrade(now_ms=START_MS)
    await engine.dispose()

    async with open_database(tmp_path) as database:
        entries = await database.read(lambda tx: tx.audit.list(AuditEvent.NOTICE_GIVEN_UP))
    assert [(entry.at_ms, entry.server_name, entry.commitments) for entry in entries] == [
        (1, "a.example", ()),
        (2, "b.example", ()),
    ]
    assert read_rows(file, "SELECT count(*) FROM audit_chain") == [(0,)]
