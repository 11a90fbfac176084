"""`identity-server account erase`, `association erase` and `homeserver erase`, beside a server in use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from identity_server.__main__ import main
from identity_server.domain.audit import AuditEvent, Subject
from identity_server.domain.identifiers import Medium, Threepid, UserId, parse_server_name
from identity_server.domain.ports import DeliveryPostponed
from identity_server.domain.terms import Acceptance
from identity_server.index.building import INDEX_FILE
from identity_server.outbound.system import SystemClock
from identity_server.services.erasure import removal as services_erasure
from identity_server.wiring import services as wiring_services
from tests.flows.test_invites import invite, settle, verify
from tests.flows.test_phone import request_code
from tests.flows.test_privacy_page import PAGE, press, token_for
from tests.support.databases import on_postgresql, read_everything, variables_for
from tests.support.harness import ALICE, BOB, Fakes, Harness, User, running
from tests.support.leaks import Ledger, everything_in

EMAIL = "walter.kestrel@example.com"
UNPROVEN = "w.kestrel@example.com"
NUMBER = "447700900123"
BOBS = "bob@example.com"
BOB_ELSEWHERE = "@bob:elsewhere.example"
CAROLS = "carol@example.com"
_LATER = DeliveryPostponed("out of order")


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    for name, value in variables_for(tmp_path / "db" / "identity.db").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__SERVER_NAME", "id.example.org")
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__LOG_LEVEL", "WARNING")
    monkeypatch.setattr(wiring_services, "SETTLING_SECONDS", 0.05)
    fakes = Fakes()
    # The command line reads the real clock.
    fakes.clock.ms = SystemClock().now_ms()
    async with running(tmp_path, fakes=fakes) as harness:
        yield harness


async def command(server: Harness, *arguments: str, code: int = 0, typed: str = "") -> Result:
    arguments = (*arguments, "-c", str(server.config.path))
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments, input=typed)
    assert result.exit_code == code, result.output
    return result


async def erase(server: Harness, *arguments: str) -> dict[str, Any]:
    """Erase without being asked; the report."""
    report: dict[str, Any] = json.loads(
        (await command(server, *arguments, "--yes", "--json")).stdout.splitlines()[-1]
    )
    return report


def written(server: Harness) -> bytes:
    """Every byte that the server has written: database, log, index, stamps; elsewhere than on SQLite, every row."""
    files = everything_in(server.config.db.file.parents[1])
    return files + "\n".join(map(repr, read_everything(server.config.db.file))).encode() if on_postgresql() else files


def blobs(server: Harness) -> set[bytes]:
    """What is sealed, blinded or a digest in any row."""
    return {value for row in read_everything(server.config.db.file) for value in row if isinstance(value, bytes)}


async def live(server: Harness) -> tuple[User, User]:
    """Have Alice leave something everywhere, and Bob something that isn't hers."""
    alice, bob = await server.register(ALICE), await server.register(BOB)
    now_ms = server.clock.now_ms()
    accepted = [Acceptance("terms", "1", "en", "https://example.com/terms")]
    await server.system.database.transaction(lambda tx: tx.accounts.accept(UserId(ALICE), accepted, now_ms=now_ms))
    notices = server.homeservers.notices
    await server.bound(bob, BOBS, secret="bob")
    # Hers: an invite that her binding has taken along, and a notice of it that waits.
    assert (await invite(server, bob, EMAIL)).status == 200
    notices.answers.append(_LATER)
    await server.bound(alice, EMAIL)
    # What waits: a mail to prove an address, a text, the mail of an invite, and of a visit.
    server.mail.answers += [_LATER, _LATER, _LATER]
    assert (await server.request_token(alice, UNPROVEN, secret="unproven")).status == 200
    server.sms.answers.append(_LATER)
    assert (await request_code(server, alice)).status == 200
    assert (await invite(server, alice, CAROLS)).status == 200
    assert (await server.post(PAGE, data={"email": EMAIL, "lang": "en"})).status == 200
    # Carol's: a notice with invites by Alice and by Bob.
    assert (await invite(server, bob, CAROLS)).status == 200
    carol = await server.register("@carol:example.org")
    notices.answers.append(_LATER)
    await server.bound(carol, CAROLS, secret="carol")
    await asyncio.sleep(0)
    return alice, bob


async def test_after_an_account_is_erased_nothing_of_it_can_be_found(server: Harness) -> None:
    alice, bob = await live(server)
    await server.system.index.save()
    before = blobs(server)
    counted = json.loads(
        (await command(server, "account", "erase", ALICE, "--dry-run", "--json")).stdout.splitlines()[-1]
    )
    assert blobs(server) == before

    report = await erase(server, "account", "erase", ALICE)

    assert (
        report["rows"]
        == counted["rows"]
        == {
            "accounts": 1,
            "access_tokens": 1,
            "accepted_terms": 1,
            "asked_addresses": 1,
            "associations": 1,
            "ephemeral_keys": 2,
            "invites": 2,
            "jobs": 6,
            "lookup_budgets": 1,
            "rate_limits": 9,
            "validation_sessions": 3,
            "validation_tokens": 2,
            "visits": 1,
        }
    )
    assert report["files_cleared"]
    ledger = Ledger()
    ledger.note("Matrix ID", ALICE)
    for address in (EMAIL, UNPROVEN, NUMBER):
        ledger.note("address", address)
    for blob in before - blobs(server):
        ledger.note("what was in a row", blob)
    assert len(before - blobs(server)) > 20
    assert ledger.find_in(written(server)) == set()

    assert (await server.get("account", as_=alice)).status == 401
    assert await server.find(bob, EMAIL) is None
    assert await server.find(bob, BOBS) == BOB
    await command(server, "account", "export", ALICE, "--to", str(server.config.db.file.parent), code=1)
    assert await erase(server, "account", "erase", ALICE) == {**report, "rows": {}}


async def test_what_waits_for_others_is_still_delivered(server: Harness) -> None:
    await live(server)
    sent = len(server.mail.sent)
    await erase(server, "account", "erase", ALICE)

    server.clock.advance(hours=1)
    await server.system.runner.run_until_idle()

    assert server.mail.sent[sent:] == []
    assert server.sms.sent == []
    _, (_, carols) = server.homeservers.notices.delivered
    assert [each["sender"] for each in carols["invites"]] == [BOB]
    verify(dict(carols), (await server.get("pubkey/ed25519:0")).json["public_key"])
    assert server.count("invites") == 0, "those of the notice are done with"


async def test_an_address_is_erased_and_its_account_stays(server: Harness) -> None:
    alice, bob = await live(server)
    before = blobs(server)
    report = await erase(server, "association", "erase", EMAIL.upper())
    assert report["rows"] == {
        "associations": 1,
        "ephemeral_keys": 1,
        "invites": 1,
        "jobs": 2,
        "rate_limits": 5,
        "validation_sessions": 1,
        "validation_tokens": 1,
        "visits": 1,
    }
    ledger = Ledger()
    for blob in before - blobs(server):
        ledger.note("what was in a row", blob)
    ledger.note("address", EMAIL)
    assert ledger.find_in(written(server)) == set()
    assert await server.find(bob, EMAIL) is None
    assert (await server.get("account", as_=alice)).status == 200
    # It may come back.
    await server.bound(alice, EMAIL, secret="again")
    assert await server.find(bob, EMAIL) == ALICE


async def test_a_number_is_erased_with_what_is_texted_to_it(server: Harness) -> None:
    alice = await server.register(ALICE)
    server.sms.answers.append(_LATER)
    assert (await request_code(server, alice)).status == 200
    report = await erase(server, "association", "erase", f"+{NUMBER}")
    assert report["rows"] == {"jobs": 1, "rate_limits": 1, "validation_sessions": 1}


async def test_who_wants_to_be_left_alone_still_is(server: Harness) -> None:
    token = await token_for(server, EMAIL)
    assert (await press(server, "refuse", token)).status == 200
    report = await erase(server, "association", "erase", EMAIL)
    assert report["rows"] == {"rate_limits": 2, "visits": 1}
    assert server.count("rate_limits") == 1, "what is left counts a network, of whoever asked for whatever address"
    assert server.count("refused_addresses") == 1
    report = await erase(server, "association", "erase", EMAIL, "--forget-refusal")
    assert report["rows"] == {"refused_addresses": 1}


async def test_it_asks_and_takes_no_for_an_answer(server: Harness) -> None:
    alice = await server.register(ALICE)
    asked = await command(server, "account", "erase", "-", code=1, typed=f"{ALICE}\nn\n")
    assert "1  access_tokens" in asked.stdout
    assert (await server.get("account", as_=alice)).status == 200
    done = await command(server, "account", "erase", "-", typed=f"{ALICE}\ny\n")
    assert "Erased: 2 rows." in done.stdout
    assert "Nothing is stored about that." in (await command(server, "account", "erase", ALICE, "--dry-run")).stdout
    await command(server, "account", "erase", ALICE, "--json", code=2)
    await command(server, "account", "erase", "alice", "--yes", code=2)
    await command(server, "association", "erase", "example.org", "--yes", code=2)


async def test_the_journal_says_so_and_names_no_one(server: Harness) -> None:
    alice = await server.register(ALICE)
    await server.bound(alice, EMAIL)
    await erase(server, "association", "erase", EMAIL)
    await erase(server, "association", "erase", EMAIL)
    await erase(server, "account", "erase", ALICE)
    address = Threepid(Medium.EMAIL, EMAIL)
    for event, about in ((AuditEvent.ASSOCIATION_ERASED, address), (AuditEvent.ACCOUNT_ERASED, UserId(ALICE))):
        assert await entries(server, event, about) == (1, 1), "what finds nothing leaves no entry"
    assert b"alice" not in repr(read_everything(server.config.db.file)).encode()


async def entries(server: Harness, event: AuditEvent, about: Subject) -> tuple[int, int]:
    """How many entries of this kind there are, and how many of them are about somebody."""

    async def use_case(tx: Any) -> tuple[int, int]:
        found = await tx.audit.list(event)
        return len(found), sum(tx.audit.is_about(each, about) for each in found)

    return await server.system.database.read(use_case)


async def people(server: Harness, *user_ids: str) -> list[User]:
    """Accounts, each with an address that is bound to it."""
    users = [await server.register(user_id) for user_id in user_ids]
    for user in users:
        await server.bound(user, address_of(user), secret=str(users.index(user)))
    await settle(server)
    return users


def address_of(user: User) -> str:
    localpart, server_name = user.user_id[1:].split(":", 1)
    return f"{localpart}.kestrel@{server_name.partition(':')[0]}"


async def test_a_homeserver_is_erased_and_its_neighbours_stay(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_erasure, "_USERS_AT_ONCE", 1)
    alice, carol, *others = await people(
        server, ALICE, "@carol:example.org", "@dave:example.org:8448", "@erin:sub.example.org", BOB_ELSEWHERE
    )
    assert (await invite(server, others[-1], "zoe@example.com")).status == 200
    assert (await invite(server, alice, "zoe@example.com")).status == 200
    before = blobs(server)
    counted = json.loads(
        (await command(server, "homeserver", "erase", "example.org", "--dry-run", "--json")).stdout.splitlines()[-1]
    )
    assert blobs(server) == before

    report = await erase(server, "homeserver", "erase", "Example.ORG")

    assert report["rows"] == counted["rows"]
    assert report["homeservers"] == counted["homeservers"] == {"example.org": 2}
    assert report["rows"] == {
        "accounts": 2,
        "access_tokens": 2,
        "asked_addresses": 1,
        "associations": 2,
        "ephemeral_keys": 1,
        "invites": 1,
        "lookup_budgets": 1,
        "rate_limits": 9,
        "validation_sessions": 2,
        "validation_tokens": 2,
    }
    ledger = Ledger()
    for user in (alice, carol):
        ledger.note("Matrix ID", f"{user.user_id}\0")
        assert (await server.get("account", as_=user)).status == 401
        assert await server.find(others[0], address_of(user)) is None
    for blob in before - blobs(server):
        ledger.note("what was in a row", blob)
    assert ledger.find_in(written(server)) == set()
    for user in others:
        assert await server.find(others[0], address_of(user)) == user.user_id
    assert (await erase(server, "homeserver", "erase", "example.org"))["rows"] == {}
    assert await entries(server, AuditEvent.HOMESERVER_ERASED, parse_server_name("example.org")) == (2, 2)


async def test_whom_the_lists_leave_out_is_erased(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    users = await people(server, ALICE, "@dave:example.org:8448", "@erin:sub.example.org", BOB_ELSEWHERE)
    nobody = await erase(server, "homeserver", "erase", "--not-allowed")
    assert nobody["rows"] == {}, "no lists leave nobody out"
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__HOMESERVER_ALLOW_LIST", "example.org,*.example.org")
    monkeypatch.setenv("IDENTITY_SERVER__GENERAL__HOMESERVER_BIND_DENY_LIST", "sub.example.org")

    shown = (await command(server, "homeserver", "erase", "--not-allowed", "--dry-run")).stdout
    assert "1  user of elsewhere.example\n" in shown
    report = await erase(server, "homeserver", "erase", "--not-allowed")

    assert report["homeservers"] == {"elsewhere.example": 1, "example.org:8448": 1, "sub.example.org": 1}
    assert report["rows"]["accounts"] == 2
    assert report["rows"]["associations"] == 3
    alice, _, erin, _ = users
    assert await server.find(alice, address_of(alice)) == ALICE
    assert [await server.find(alice, address_of(user)) for user in users[1:]] == [None, None, None]
    assert (await server.get("account", as_=erin)).status == 200
    await command(server, "homeserver", "erase", "--yes", code=2)
    await command(server, "homeserver", "erase", "example.org", "--not-allowed", "--yes", code=2)
    await command(server, "homeserver", "erase", "@alice:example.org", "--yes", code=2)


@pytest.mark.sqlite(reason="it is about files")
async def test_what_another_program_has_left_in_the_file_goes_as_well(server: Harness) -> None:
    """As `sqlite3` deletes where its build doesn't overwrite."""
    from sqlite3 import connect

    alice = await server.register(ALICE)
    await server.bound(alice, EMAIL)
    await settle(server)
    file = server.config.db.file
    with connect(file) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("DELETE FROM associations")
        connection.execute("DELETE FROM accounts")
    assert ALICE.encode() in written(server)
    report = await erase(server, "account", "erase", ALICE)
    assert report["file_rewritten"]
    assert ALICE.encode() not in written(server)


async def test_what_is_left_of_an_index_that_was_never_finished_goes_as_well(server: Harness) -> None:
    alice = await server.register(ALICE)
    await server.bound(alice, EMAIL)
    await server.system.index.save()
    index = server.config.index_folder / INDEX_FILE
    index.rename(index.with_name(f"{INDEX_FILE}.new"))
    assert ALICE.encode() in written(server)
    await erase(server, "account", "erase", ALICE)
    assert ALICE.encode() not in written(server)


@pytest.mark.sqlite(reason="upgrades copy files only there")
async def test_copies_of_earlier_upgrades_are_named(server: Harness) -> None:
    copy = server.config.db.file.with_name("identity.db.before-upgrade-0001-1")
    copy.write_bytes(b"old")
    assert (await erase(server, "account", "erase", ALICE))["copies"] == [str(copy)]
    assert f"still holds it: {copy}" in (await command(server, "account", "erase", ALICE, "--yes")).stdout
