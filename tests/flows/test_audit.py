"""What was done to bindings is in the journal, whoever did it, and names no one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from identity_server.domain.identifiers import Threepid, UserId
from identity_server.observability import redact_text
from identity_server.services.audit.desk import AuditDesk
from tests.support.databases import read_rows
from tests.support.harness import ALICE, SECRET, Harness, User, running
from tests.support.homeserver import UNBIND
from tests.support.make import email

ADDRESS = "alice@example.com"
INTERNAL = "/_matrix/identity/internal"
BINDING = {"medium": "email", "address": ADDRESS, "mxid": ALICE}


async def events(server: Harness, *about: Threepid | UserId) -> list[str]:
    """What the journal has about somebody, or all of it."""
    desk = AuditDesk(database=server.system.database)
    found = await desk.find(*about) if about else await desk.list_newest(event=None, limit=100)
    return [entry.event for _, entry in found]


async def unbind(server: Harness, user: User, sid: str, *, secret: str = SECRET) -> None:
    threepid = {"medium": "email", "address": ADDRESS}
    body = {"sid": sid, "client_secret": secret, "mxid": user.user_id, "threepid": threepid}
    assert (await server.post("3pid/unbind", body)).status == 200


@pytest.fixture
async def sid(server: Harness, alice: User) -> str:
    """Alice's session, once her address is bound."""
    return await server.bound(alice, ADDRESS)


async def test_binding_and_unbinding_by_session(server: Harness, alice: User, sid: str) -> None:
    await unbind(server, alice, sid)
    await unbind(server, alice, sid)
    for about in (email(ADDRESS), UserId(alice.user_id)):
        assert await events(server, about) == ["bound", "unbound"], "what changes nothing isn't told"
    assert await events(server) == ["bound", "unbound"]


async def test_address_that_goes_to_another_user(server: Harness, alice: User, bob: User, sid: str) -> None:
    assert sid
    await server.bound(bob, ADDRESS, secret="b")
    assert await events(server, UserId(alice.user_id)) == ["bound", "replaced"]
    assert await events(server, UserId(bob.user_id)) == ["bound"]
    assert await events(server, email(ADDRESS)) == ["bound", "replaced", "bound"]


async def test_unbinding_by_homeserver(server: Harness, alice: User, sid: str) -> None:
    assert sid
    homeserver = server.homeservers.add_signing("example.org")
    body: dict[str, Any] = {"mxid": alice.user_id, "threepid": {"medium": "email", "address": ADDRESS}}
    headers = {"Authorization": homeserver.authorization(body)}
    assert (await server.post(UNBIND, body, headers=headers)).status == 200
    assert await events(server, email(ADDRESS)) == ["bound", "unbound_by_homeserver"]


async def test_what_the_operators_own_systems_do(server: Harness) -> None:
    async with server.internally() as internal:
        assert (await internal.post(f"{INTERNAL}/bind", BINDING)).status == 200
        assert (await internal.post(f"{INTERNAL}/unbind", BINDING)).status == 200
    assert await events(server, UserId(ALICE)) == ["bound_by_operator", "unbound_by_operator"]


async def test_what_is_refused_is_not_told(server: Harness, alice: User, bob: User, sid: str) -> None:
    reply = await server.bind(bob, sid)
    assert reply.status == 404
    assert await events(server) == ["bound"]


async def test_pepper_that_changes_by_itself(server: Harness) -> None:
    assert await events(server) == [], "the first one replaces none"
    server.clock.advance(days=31)
    await server.system.upkeep.run_due()
    assert await events(server) == ["pepper_rotated"]


@pytest.mark.usefixtures("sid")
async def test_journal_names_no_one(server: Harness) -> None:
    await server.system.services.journal.link()
    tables = ("audit_pending", "audit_chain", "audit_heads")
    rows = [row for table in tables for row in read_rows(server.config.db.file, f"SELECT * FROM {table}")]
    assert len(rows) == 2
    text = repr(rows).replace("id.example.org", "")
    assert "bound" in text
    for name in ("alice", "example", "email"):
        assert name not in text


async def test_running_server_links_and_tells_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path) as server:
        await server.bound(await server.register(), ADDRESS)
        chores = {chore.name: chore for chore in server.system.upkeep._own}
        await chores["link the audit journal"].run()
        await server.system.upkeep.run_due()
        [(hash_,)] = server.rows("SELECT hash FROM audit_chain")
    told = f"hash={hash_.hex(':', 8)} seq=1"
    assert f"audit.head                     {told}" in capsys.readouterr().out
    assert redact_text(told) == told, "no filter takes it for a secret"
