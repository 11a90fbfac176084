"""Invites are mails that a stranger causes, and answers that a stranger could collect."""

from __future__ import annotations

from pathlib import Path

from tests.support.harness import BOB, Harness, Reply, User, running


async def invite(server: Harness, who: User, address: str) -> Reply:
    body = {"medium": "email", "address": address, "room_id": "!room:example.org", "sender": who.user_id}
    return await server.post("store-invite", body, as_=who)


async def test_invites_and_validation_mails_share_the_limit_of_a_mailbox(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        for number in range(30):
            stranger = await server.register(f"@stranger{number}:example.org")
            if number % 2:
                await invite(server, stranger, f"victim+{number}@example.com")
            else:
                await server.request_token(stranger, f"victim+{number}@example.com")
            server.clock.advance(seconds=2)
        assert len(server.mail.sent) == 20
        assert server.count("invites") == 10, "what was not mailed is not kept"


async def test_asking_who_is_bound_is_counted(server: Harness, alice: User) -> None:
    bob = await server.register(BOB)
    await server.bound(bob, "bob@example.com")
    answers = [(await invite(server, alice, "bob@example.com")).errcode for _ in range(7)]
    assert answers == ["M_THREEPID_IN_USE"] * 5 + ["M_LIMIT_EXCEEDED"] * 2


async def test_answers_below_the_application_tell_no_versions(server: Harness) -> None:
    reply = await server.get("/_matrix/identity/versions", headers={"X-Long": "a" * 20_000})
    assert reply.status == 400
    assert reply.headers["Server"] == "matrix-identity-server"
