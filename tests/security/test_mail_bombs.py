"""Nobody can be buried in validation mails, whatever form of their address a stranger finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from identity_server.domain.mailboxes import mailbox_of
from identity_server.domain.ports import DeliveryRefused
from tests.flows.test_invites import invite
from tests.support.harness import Harness, User, running

GENEROUS = {"EMAIL__EMAIL_RATELIMIT_SENDER_BURST": "1000"}
PER_DAY = 20


async def mails_from_strangers(server: Harness, addresses: list[str]) -> int:
    """How many mails go out when each address is asked for by a new stranger."""
    for number, address in enumerate(addresses):
        stranger = await server.register(f"@stranger{number}:example.org")
        reply = await server.request_token(stranger, address)
        assert (reply.status, reply.errcode) in {(200, None), (429, "M_LIMIT_EXCEEDED")}
        server.clock.advance(seconds=2)
    return len(server.mail.sent)


@pytest.mark.parametrize("pattern", ["victim+{}@example.com", "v.i.c.t.i.m+{}@example.com"])
async def test_subaddresses_of_one_mailbox_share_its_limit(tmp_path: Path, pattern: str) -> None:
    async with running(tmp_path, settings=GENEROUS) as server:
        assert await mails_from_strangers(server, [pattern.format(number) for number in range(30)]) == PER_DAY


@pytest.mark.parametrize("pattern", ["victim@example.com", "v.i.c.t.i.m+{}@example.com"])
async def test_one_stranger_leaves_half_of_a_mailbox_to_others(tmp_path: Path, pattern: str) -> None:
    async with running(tmp_path, settings=GENEROUS) as server:
        stranger = await server.register("@stranger:example.org")
        for number in range(30):
            address = pattern.format(number)
            reply = await server.request_token(stranger, address, secret=f"s{number}")
            if reply.status == 429:
                reply = await invite(server, stranger, address)
            assert (reply.status, reply.errcode) in {(200, None), (429, "M_LIMIT_EXCEEDED")}
        assert len(server.mail.sent) == PER_DAY // 2
        for number in range(PER_DAY // 2):
            owner = await server.register(f"@victim{number}:example.org")
            assert (await server.request_token(owner, "victim@example.com")).status == 200


async def test_the_mailbox_recovers(tmp_path: Path) -> None:
    async with running(tmp_path, settings=GENEROUS) as server:
        await mails_from_strangers(server, [f"victim+{number}@example.com" for number in range(30)])
        server.clock.advance(days=1)
        owner = await server.register("@victim:example.org")
        assert (await server.request_token(owner, "victim@example.com")).status == 200


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("alice@example.com", "alice@example.com"),
        ("al.ice+a+b@example.com", "alice@example.com"),
        ("alice@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.de", "alice@xn--bcher-kva.de"),
        ("alice@xn--bcher-kva.de", "alice@xn--bcher-kva.de"),
        ("alice@\N{FULLWIDTH LATIN SMALL LETTER E}xample.com", "alice@example.com"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}lice@example.com", "alice@example.com"),
        ("+1555@example.com", "+1555@example.com"),
        ("+@example.com", "+@example.com"),
    ],
)
def test_mailboxes(address: str, mailbox: str) -> None:
    assert mailbox_of(address) == mailbox


async def test_a_refused_mail_takes_nothing_from_a_later_one(server: Harness, alice: User) -> None:
    """Two requests for one session: the first mail is refused only after the second has been taken."""
    second_is_out = False

    async def refused_late() -> None:
        nonlocal second_is_out
        reply = await server.request_token(alice, "alice@example.com", attempt=2)
        assert reply.status == 200
        second_is_out = True
        raise DeliveryRefused("RCPT: 550")

    server.mail.answers.append(refused_late())
    first = await server.request_token(alice, "alice@example.com", attempt=1)
    assert second_is_out
    assert (first.status, first.errcode) == (400, "M_EMAIL_SEND_ERROR")
    again = await server.request_token(alice, "alice@example.com", attempt=2)
    assert (await server.submit(alice, again.json["sid"])).json == {"success": True}
    assert len(server.mail.sent) == 1, "the session of the second request still stood"
