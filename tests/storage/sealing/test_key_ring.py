"""Rows of two root keys side by side are as good as rows of one: nothing is overlooked, nothing is there twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from identity_server.domain.association import Association
from identity_server.domain.audit import AuditEvent
from identity_server.domain.errors import RateLimited
from identity_server.domain.identifiers import ClientSecret, SessionId
from identity_server.domain.invite import Invite
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.validation import ValidationSession
from identity_server.domain.visit import Visit
from identity_server.storage.database import Database, Transaction
from identity_server.storage.sealing.key_ring import KeyRing, RootKey
from tests.support import make
from tests.support.databases import open_database, read_rows
from tests.support.fakes import START_MS

OLD, NEW = RootKey(b"o" * 32), RootKey(b"n" * 32)
SECRET = ClientSecret("secret")
ADDRESS = make.email()


@pytest.fixture
async def before(tmp_path: Path) -> AsyncIterator[Database]:
    """A process that knows of both keys and still seals by the old one."""
    async with open_database(tmp_path, ring=KeyRing(OLD, (NEW,))) as database:
        yield database


@pytest.fixture
async def after(tmp_path: Path, before: Database) -> AsyncIterator[Database]:
    """One that seals by the new one already."""
    async with open_database(tmp_path, ring=KeyRing(NEW, (OLD,))) as database:
        yield database


async def put(database: Database, number: int, association: Association) -> Association | None:
    return await database.transaction(lambda tx: tx.associations.put(number, association))


def key_ids(tmp_path: Path, table: str) -> set[str]:
    return {key_id for (key_id,) in read_rows(tmp_path / "identity.db", f"SELECT key_id FROM {table}")}


async def test_a_binding_is_found_and_replaced_whichever_key_sealed_it(
    tmp_path: Path, before: Database, after: Database
) -> None:
    await put(before, 1, make.association())
    assert key_ids(tmp_path, "associations") == {OLD.key_id}
    found = await after.read(lambda tx: tx.associations.find(ADDRESS))
    assert found == make.association()

    replaced = await put(after, 2, make.association(user_id="@bob:example.org"))
    assert replaced == found
    assert key_ids(tmp_path, "associations") == {NEW.key_id}

    assert await put(before, 3, make.association()) is not None, "the other way round as well"
    assert read_rows(tmp_path / "identity.db", "SELECT count(*) FROM associations") == [(1,)]
    assert await after.transaction(lambda tx: tx.associations.remove(ADDRESS, now_ms=START_MS)) is not None
    assert await before.read(lambda tx: tx.associations.find(ADDRESS)) is None


async def test_many_addresses_are_found_at_once_under_both_keys(before: Database, after: Database) -> None:
    await put(before, 1, make.association("old@example.com"))
    await put(after, 2, make.association("new@example.com"))
    asked = [make.email(f"{name}@example.com") for name in ("old", "new", "nobody")]
    found = await after.read(lambda tx: tx.associations.list_of(asked))
    assert {threepid.address: stored.id for threepid, stored in found.items()} == {
        "old@example.com": 1,
        "new@example.com": 2,
    }


async def test_a_session_is_the_same_one_whoever_asks(before: Database, after: Database) -> None:
    session = make.session()
    await before.transaction(lambda tx: tx.validation_sessions.add(session, SECRET))

    async def find(tx: Transaction) -> list[ValidationSession | None]:
        found = await tx.validation_sessions.find(
            threepid=ADDRESS, client_secret=SECRET, requested_by=session.requested_by
        )
        return [await tx.validation_sessions.lookup(session.sid, SECRET), found]

    assert await after.read(find) == await before.read(find) == [session, session]
    other = ClientSecret("other")
    assert await after.read(lambda tx: tx.validation_sessions.lookup(session.sid, other)) is None
    assert await after.read(lambda tx: tx.validation_sessions.list_of(ADDRESS, now_ms=START_MS)) == [session]


async def test_client_secrets_outlive_their_root_key(tmp_path: Path, before: Database) -> None:
    session = replace(make.session(), sid=SessionId("s"))
    await before.transaction(lambda tx: tx.validation_sessions.add(session, SECRET))
    # As a session that is over has nothing sealed, and is asked for by its secret all the same.
    await before.transaction(lambda tx: tx.validation_sessions.wipe(session.sid))
    async with open_database(tmp_path, ring=KeyRing(NEW, retired=(OLD.digest_keys,))) as later:
        assert await later.read(lambda tx: tx.validation_sessions.lookup(session.sid, SECRET)) is not None
    async with open_database(tmp_path, ring=KeyRing(NEW)) as stranger:
        assert await stranger.read(lambda tx: tx.validation_sessions.lookup(session.sid, SECRET)) is None


async def test_invites_and_visits_are_found_under_both_keys(before: Database, after: Database) -> None:
    invites = [_invite(number) for number in (1, 2)]

    async def visited(tx: Transaction, invite: Invite) -> None:
        await tx.invites.add(invite)
        await tx.visits.add(Visit.by_mail(ADDRESS, now_ms=START_MS), invite.token)

    for database, invite in zip((before, after), invites, strict=True):
        await database.transaction(partial(visited, invite=invite))
    assert await after.read(lambda tx: tx.invites.list_of(ADDRESS, now_ms=START_MS)) == invites
    assert len(await before.read(lambda tx: tx.visits.list_of(ADDRESS, now_ms=START_MS))) == 2
    assert await before.transaction(lambda tx: tx.invites.take(ADDRESS, now_ms=START_MS)) == invites
    assert await after.transaction(lambda tx: tx.visits.remove_of(ADDRESS)) == 2


async def test_who_wants_to_be_left_alone_is_left_alone_for_good(
    tmp_path: Path, before: Database, after: Database
) -> None:
    assert await before.transaction(lambda tx: tx.refusals.add(ADDRESS, now_ms=START_MS))
    assert not await after.transaction(lambda tx: tx.refusals.add(ADDRESS, now_ms=START_MS))
    async with open_database(tmp_path, ring=KeyRing(NEW, retired=(OLD.digest_keys,))) as later:
        assert await later.read(lambda tx: tx.refusals.find(ADDRESS)) == START_MS
        assert await later.read(lambda tx: tx.refusals.among([ADDRESS, make.email("b@c.de")])) == {ADDRESS}
        assert await later.transaction(lambda tx: tx.refusals.remove(ADDRESS))
    assert await after.read(lambda tx: tx.refusals.find(ADDRESS)) is None


async def test_nobody_gets_a_second_allowance(before: Database, after: Database) -> None:
    once = RateLimit(burst=1, interval_ms=1000)

    async def take(database: Database, *, now_ms: int) -> None:
        await database.transaction(lambda tx: tx.rate_limits.take("mails", "alice", once, now_ms=now_ms))

    async def take_place(database: Database) -> bytes:
        return await database.transaction(
            lambda tx: tx.rate_limits.take_place("visits", "alice", places=2, window_ms=1000, now_ms=START_MS)
        )

    await take(before, now_ms=START_MS)
    with pytest.raises(RateLimited):
        await take(after, now_ms=START_MS)
    await take(after, now_ms=START_MS + 1000)
    with pytest.raises(RateLimited):
        await take(before, now_ms=START_MS + 1000)

    await take_place(before)
    place = await take_place(after)
    with pytest.raises(RateLimited):
        await take_place(after)
    await after.transaction(lambda tx: tx.rate_limits.give_back(place))
    await take_place(before)


async def test_the_journal_knows_its_entries_under_all_keys(tmp_path: Path, before: Database) -> None:
    await before.transaction(lambda tx: tx.audit.add(AuditEvent.BOUND, now_ms=START_MS, about=(ADDRESS,)))

    async def judge(tx: Transaction) -> tuple[bool | None, bool]:
        [entry] = await tx.audit.list(AuditEvent.BOUND)
        return tx.audit.is_genuine(entry), tx.audit.is_about(entry, ADDRESS)

    async def judged(ring: KeyRing) -> tuple[bool | None, bool]:
        async with open_database(tmp_path, ring=ring) as database:
            return await database.read(judge)

    assert await judged(KeyRing(NEW, (OLD,))) == (True, True)
    assert await judged(KeyRing(NEW, retired=(OLD.digest_keys,))) == (True, True)
    assert await judged(KeyRing(NEW)) == (None, False)


def _invite(number: int) -> Invite:
    return Invite(
        id=number,
        threepid=ADDRESS,
        room_id="!room:example.org",
        sender=make.association().user_id,
        token=f"token{number}",
        private_key="private",
        public_key=b"public",
        details={},
        brand=None,
        languages=(),
        created_at_ms=START_MS,
        expires_at_ms=START_MS + 1000,
    )


def test_passphrase_leads_to_the_key_that_it_always_led_to(light_argon2: pytest.MonkeyPatch) -> None:
    light_argon2.undo()
    key = RootKey.from_passphrase("correct horse battery staple", salt=b"s" * 16)
    assert key.fingerprint == "f409a8a1ef97ef56b8c1dbc57abc7967ff5c1b94e8ed88465f93eb9a67472dc3"
