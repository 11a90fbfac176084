"""A homeserver has everything about one of its users erased, and nobody else does in its name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from identity_server.api.erasure import ERASE_PATH
from identity_server.domain.audit import AuditEvent
from identity_server.domain.identifiers import ClientSecret, UserId
from identity_server.domain.ports import DeliveryPostponed
from identity_server.services.validation.email import EmailRequest
from identity_server.storage.database import Transaction
from identity_server.wiring import services as wiring_services
from tests.flows.test_invites import invite, settle
from tests.support.databases import read_everything
from tests.support.harness import Harness, Reply, User
from tests.support.homeserver import SigningHomeserver
from tests.support.leaks import Ledger, everything_in
from tests.support.loop_time import pass_on_loop

ADDRESS = "walter.kestrel@example.com"


@pytest.fixture(autouse=True)
def _settles_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any server is made."""
    monkeypatch.setattr(wiring_services, "SETTLING_SECONDS", 0.0)


@pytest.fixture
def homeserver(server: Harness) -> SigningHomeserver:
    """Alice's homeserver."""
    return server.homeservers.add_signing("example.org")


async def erase(server: Harness, homeserver: SigningHomeserver, user_id: str, **how: str) -> Reply:
    body = {"mxid": user_id}
    headers = {"Authorization": homeserver.authorization(body, **{"uri": ERASE_PATH, **how})}
    return await server.post(ERASE_PATH, body, headers=headers)


async def test_nothing_of_it_is_left(server: Harness, homeserver: SigningHomeserver, alice: User, bob: User) -> None:
    await server.bound(alice, ADDRESS)
    server.mail.answers += [DeliveryPostponed("out of order")]
    assert (await invite(server, alice, "carol@example.com")).status == 200
    before = blobs(server)

    reply = await erase(server, homeserver, alice.user_id)

    assert (reply.status, reply.json) == (200, {})
    assert await server.find(bob, ADDRESS) is None
    assert (await server.get("account", as_=alice)).status == 401
    tables = ("accounts", "associations", "invites", "jobs", "validation_sessions", "access_tokens")
    assert [server.count(table) for table in tables] == [1, 0, 0, 0, 0, 1]
    server.clock.advance(hours=1)
    mailed = len(server.mail.sent)
    await settle(server)
    assert len(server.mail.sent) == mailed, "nobody is told, and what waited is gone"
    gone = before - blobs(server)
    await clear_files(server)
    ledger = Ledger()
    ledger.note("Matrix ID", alice.user_id)
    for blob in gone:
        ledger.note("what was in a row", blob)
    assert ledger.find_in(everything_in(server.config.db.file.parent)) == set()
    assert (await erase(server, homeserver, alice.user_id)).json == {}, "once more is fine"
    assert await entries(server) == [True]


def blobs(server: Harness) -> set[bytes]:
    return {value for row in read_everything(server.config.db.file) for value in row if isinstance(value, bytes)}


async def clear_files(server: Harness) -> None:
    """What the upkeep does in its time."""
    await server.system.index.save()
    server.clock.advance(hours=2)
    await server.system.upkeep.run_due()


async def entries(server: Harness) -> list[bool]:
    """Of each entry of the journal whether it is about Alice."""

    async def use_case(tx: Transaction) -> list[bool]:
        found = await tx.audit.list(AuditEvent.ACCOUNT_ERASED_BY_HOMESERVER)
        return [tx.audit.is_about(each, UserId("@alice:example.org")) for each in found]

    return await server.system.database.read(use_case)


async def test_only_its_own_homeserver_can(server: Harness, homeserver: SigningHomeserver, alice: User) -> None:
    await server.bound(alice, ADDRESS)
    other = server.homeservers.add_signing("elsewhere.example")
    forbidden: list[Any] = [
        await erase(server, other, alice.user_id),
        await erase(server, homeserver, alice.user_id, uri="/_matrix/identity/v2/3pid/unbind"),
        await erase(server, homeserver, alice.user_id, destination="id.elsewhere.example"),
        await server.post(ERASE_PATH, {"mxid": alice.user_id}),
        await server.post(ERASE_PATH, {"mxid": alice.user_id}, as_=alice),
    ]
    assert [(each.status, each.errcode) for each in forbidden] == [(403, "M_FORBIDDEN")] * 5
    assert (await erase(server, homeserver, "alice")).status == 400
    assert server.count("associations") == 1


async def test_limits_that_protect_addresses_stay(
    server: Harness, homeserver: SigningHomeserver, alice: User
) -> None:
    await server.bound(alice, ADDRESS)
    before = {row[0] for row in server.rows("SELECT key_digest FROM rate_limits")}
    await erase(server, homeserver, alice.user_id)
    after = {row[0] for row in server.rows("SELECT key_digest FROM rate_limits")}
    assert len(before) == 5, "of binding, of mails caused, of the mailbox and her share of it, of registrations"
    assert len(before & after) == 3


async def test_who_asks_too_often_has_to_wait(server: Harness, homeserver: SigningHomeserver) -> None:
    replies = [await erase(server, homeserver, f"@n{number}:example.org") for number in range(21)]
    assert [each.status for each in replies] == [200] * 20 + [429]


async def test_what_is_written_in_the_meantime_goes_too(
    server: Harness, homeserver: SigningHomeserver, alice: User
) -> None:
    """A request that was let in before the account went may write for it afterwards."""
    erasing = asyncio.create_task(erase(server, homeserver, alice.user_id))
    server.system.services.erasure_requests._erasure._settling_seconds = 60
    while server.count("accounts"):
        await asyncio.sleep(0.005)
    late = EmailRequest(email=ADDRESS, client_secret=ClientSecret("late"), send_attempt=1)
    await server.system.services.validation.request_email_token(late, requested_by=UserId(alice.user_id))
    assert server.count("validation_sessions") == 1
    pass_on_loop(60)
    assert (await erasing).status == 200
    assert server.count("validation_sessions") == 0
