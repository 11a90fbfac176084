"""Whoever doesn't accept the terms in force is warned, and erased in good time; where the operator wants that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity_server.domain.audit import AuditEvent
from identity_server.domain.identifiers import UserId
from identity_server.storage.database import Transaction
from tests.flows.test_invites import settle
from tests.flows.test_terms import BASE, accepted, may_use, write_policy
from tests.support.databases import read_everything
from tests.support.harness import BOB, Harness, User, running

ALICES, BOBS = "alice.kestrel@example.com", "bob.kestrel@example.com"
_DAYS = {"GENERAL__TERMS_ERASE_UNACCEPTED_AFTER_DAYS": "30", "EMAIL__EMAIL_NOTICES": "true"}


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    write_policy(tmp_path / "terms")
    return tmp_path / "terms"


@pytest.fixture
async def erasing(tmp_path: Path, terms: Path) -> AsyncIterator[Harness]:
    """A server that gives 30 days."""
    async with running(tmp_path, settings={"GENERAL__TERMS_PATH": str(terms), **_DAYS}) as harness:
        yield harness


async def member(server: Harness, user_id: str, email: str, version: str = "1") -> User:
    """Somebody who has accepted the terms and bound an address."""
    user = await server.register(user_id)
    assert await accepted(server, user, f"{BASE}/privacy/{version}/en") == 200
    await server.bound(user, email, secret=email.partition("@")[0])
    await settle(server)
    return user


async def publish(server: Harness, terms: Path, version: str) -> None:
    write_policy(terms, version=version)
    await server.system.services.terms.reload()
    server.clock.advance(hours=1)
    await server.system.upkeep.run_due()


async def pass_days(server: Harness, days: float) -> None:
    """Let time go by, and everything be done that comes round."""
    server.clock.advance(days=days)
    await server.system.upkeep.run_due()
    # The outbox takes over what nobody has started, after a minute.
    server.clock.advance(minutes=2)
    await settle(server)


def warned(server: Harness) -> list[str]:
    return [mail.to for mail in server.mail.sent if mail.template == "terms"]


def accounts(server: Harness) -> list[str]:
    return sorted(user_id for (user_id,) in server.rows("SELECT user_id FROM accounts"))


async def test_who_does_not_accept_is_warned_once_and_erased_in_time(erasing: Harness, terms: Path) -> None:
    alice, bob = await member(erasing, "@alice:example.org", ALICES), await member(erasing, BOB, BOBS)
    await publish(erasing, terms, "2")
    assert await accepted(erasing, alice, f"{BASE}/privacy/2/en") == 200
    mailed = len(erasing.mail.sent)

    await pass_days(erasing, 14.9)
    assert warned(erasing) == []
    await pass_days(erasing, 0.2)
    await pass_days(erasing, 0.2)
    assert warned(erasing) == [BOBS]
    letter = erasing.mail.sent[-1].variables
    assert letter["user_id"] == BOB
    assert letter["terms_url"] == f"{BASE}/privacy/2/en"
    days_left = (int(letter["erased_at_ms"]) - erasing.clock.ms) / 86_400_000
    assert 14.5 < days_left < 15

    await pass_days(erasing, 14)
    assert accounts(erasing) == ["@alice:example.org", BOB]
    assert await erasing.find(alice, BOBS) == BOB, "until then nothing is different"
    await pass_days(erasing, 1.5)
    assert accounts(erasing) == ["@alice:example.org"]
    assert await erasing.find(alice, BOBS) is None
    assert await erasing.find(alice, ALICES) == alice.user_id
    assert (await erasing.get("account", as_=bob)).status == 401
    assert BOB not in repr(read_everything(erasing.config.db.file))
    assert len(erasing.mail.sent) == mailed + 1, "there is no other mail about it"
    assert await swept(erasing) == [(1, True)]


async def swept(server: Harness) -> list[tuple[int | None, bool]]:
    """Of each entry of the journal how many were removed, and whether Bob was."""

    async def use_case(tx: Transaction) -> list[tuple[int | None, bool]]:
        found = await tx.audit.list(AuditEvent.SWEPT)
        return [(each.count, tx.audit.is_about(each, UserId(BOB))) for each in found]

    return await server.system.database.read(use_case)


async def test_who_accepts_at_the_last_moment_stays(erasing: Harness, terms: Path) -> None:
    bob = await member(erasing, BOB, BOBS)
    await publish(erasing, terms, "2")
    await pass_days(erasing, 16)
    await pass_days(erasing, 14.9)
    assert await accepted(erasing, bob, f"{BASE}/privacy/2/en") == 200
    await pass_days(erasing, 5)
    assert await may_use(erasing, bob)
    assert await erasing.find(bob, BOBS) == BOB


async def test_a_server_that_was_away_warns_first(erasing: Harness, terms: Path) -> None:
    await member(erasing, BOB, BOBS)
    await publish(erasing, terms, "2")
    await pass_days(erasing, 100)
    assert warned(erasing) == [BOBS]
    await pass_days(erasing, 14.9)
    assert accounts(erasing) == [BOB]
    await pass_days(erasing, 0.5)
    assert accounts(erasing) == []


async def test_every_change_of_the_terms_gives_all_the_time_anew(erasing: Harness, terms: Path) -> None:
    await member(erasing, BOB, BOBS)
    await publish(erasing, terms, "2")
    await pass_days(erasing, 20)
    await publish(erasing, terms, "3")
    await pass_days(erasing, 12)
    assert warned(erasing) == [BOBS]
    assert accounts(erasing) == [BOB]
    await pass_days(erasing, 4)
    assert warned(erasing) == [BOBS, BOBS]
    # Back to terms that were in force before: those who came since have never seen them.
    await publish(erasing, terms, "2")
    await pass_days(erasing, 14)
    assert accounts(erasing) == [BOB]


async def test_an_account_that_was_never_used_goes_in_its_own_time(erasing: Harness) -> None:
    await erasing.system.upkeep.run_due()
    await pass_days(erasing, 40)
    await erasing.register(BOB)
    await pass_days(erasing, 16)
    await pass_days(erasing, 13)
    assert accounts(erasing) == [BOB]
    await pass_days(erasing, 2.5)
    assert accounts(erasing) == []
    assert warned(erasing) == [], "there is no address to warn"


async def test_nobody_is_erased_unless_the_operator_wants_it(tmp_path: Path, terms: Path) -> None:
    async with running(tmp_path, settings={"GENERAL__TERMS_PATH": str(terms)}) as server:
        await member(server, BOB, BOBS)
        await publish(server, terms, "2")
        for _ in range(3):
            await pass_days(server, 50)
        assert accounts(server) == [BOB]
        assert server.count("terms_in_force") == 0


async def test_without_notices_nobody_is_mailed(tmp_path: Path, terms: Path) -> None:
    settings = {"GENERAL__TERMS_PATH": str(terms), **_DAYS, "EMAIL__EMAIL_NOTICES": "false"}
    async with running(tmp_path, settings=settings) as server:
        await member(server, BOB, BOBS)
        await publish(server, terms, "2")
        await pass_days(server, 16)
        await pass_days(server, 16)
        assert warned(server) == []
        assert accounts(server) == []
