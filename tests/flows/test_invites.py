"""Invites: stored, mailed, signed for, delivered to whoever proves to own the address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
import signedjson.key
import signedjson.sign
from unpaddedbase64 import decode_base64

from identity_server.domain.audit import AuditEvent
from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused
from identity_server.services.invites.desk import InviteDesk
from identity_server.services.outbox.port import BIND_NOTICE
from identity_server.storage.repositories.jobs import Job
from identity_server.workers.runner import JobKind
from tests.support.harness import SECRET, Harness, Reply, User, running

CAROL = "carol@example.com"
ROOM = "!v248rXnoDomainInRoomVersion12"


async def invite(server: Harness, who: User, address: str = CAROL, **changes: Any) -> Reply:
    body = {
        "medium": "email",
        "address": address,
        "room_id": ROOM,
        "sender": who.user_id,
        "room_alias": "",
        "room_name": "The garden",
        "sender_display_name": "Alice",
        **changes,
    }
    return await server.post("store-invite", body, as_=who)


async def settle(server: Harness) -> None:
    await server.system.runner.run_until_idle()


def desk(server: Harness) -> InviteDesk:
    """What the operator's commands use."""
    mails = server.system.services.invitations._mails
    return InviteDesk(database=server.system.database, clock=server.clock, mails=mails)


def verify(message: dict[str, Any], public_key: str) -> None:
    key = signedjson.key.decode_verify_key_bytes("ed25519:0", decode_base64(public_key))
    signedjson.sign.verify_signed_json(message, "id.example.org", key)


async def test_answer_is_what_the_room_needs(server: Harness, alice: User) -> None:
    reply = await invite(server, alice)
    assert reply.status == 200
    answer = reply.json
    assert len(answer["token"]) == 128
    assert answer["token"].isalpha()
    assert answer["display_name"] == "car...@exa..."
    long_term, ephemeral = answer["public_keys"]
    assert answer["public_key"] == long_term["public_key"]
    for key, url in (
        (long_term, "https://id.example.org/_matrix/identity/v2/pubkey/isvalid"),
        (ephemeral, "https://id.example.org/_matrix/identity/v2/pubkey/ephemeral/isvalid"),
    ):
        assert key["key_validity_url"] == url
        valid = await server.get(urlsplit(url).path, params={"public_key": key["public_key"]})
        assert valid.json == {"valid": True}
        wrong = await server.get(urlsplit(url).path, params={"public_key": "A" * 43})
        assert wrong.json == {"valid": False}


async def test_mail_carries_what_clients_act_upon(server: Harness, alice: User) -> None:
    more: dict[str, Any] = {
        "room_type": "m.space",
        "org.matrix.web_client_location": "https://chat.example.org/",
        "number": 5,
    }
    answer = (await invite(server, alice, **more)).json
    (mail,) = server.mail.sent
    assert (mail.template, mail.to) == ("invite", CAROL)
    link = urlsplit(mail.variables["invite_url"])
    assert link.netloc == "chat.example.org"
    place, _, query = link.fragment.partition("?")
    assert place == f"/room/{ROOM}"
    fields = {name: values[0] for name, values in parse_qs(query).items()}
    assert fields["email"] == CAROL
    assert (fields["room_name"], fields["inviter_name"], fields["room_type"]) == ("The garden", "Alice", "m.space")
    sign = urlsplit(fields["signurl"])
    assert sign.path == "/_matrix/identity/api/v1/sign-ed25519"
    assert parse_qs(sign.query)["token"] == [answer["token"]]


@pytest.mark.parametrize(
    "location",
    [
        "javascript:alert(1)",
        "https://chat.example.org@evil.example/",
        "https://chat.example.org\\\\@evil.example/",
        "https://[",
    ],
)
async def test_link_to_no_host_or_past_one_is_left_out(server: Harness, alice: User, location: str) -> None:
    """Else a reader would take what stands before the @ for where it leads."""
    assert (await invite(server, alice, **{"org.matrix.web_client_location": location})).status == 200
    (mail,) = server.mail.sent
    assert urlsplit(mail.variables["invite_url"]).netloc == urlsplit(mail.variables["web_client_location"]).netloc
    assert mail.variables["web_client_location"] == server.config.email.default_web_client_location


async def test_long_names_are_cut(server: Harness, alice: User) -> None:
    await invite(server, alice, sender_display_name="x" * 21, room_name="y" * 31)
    variables = server.mail.sent[-1].variables
    assert variables["sender_display_name"] == "x" * 19 + "…"
    assert variables["room_name"] == "y" * 25 + "…"


async def test_binding_takes_the_invites_of_this_address_along(server: Harness, alice: User, bob: User) -> None:
    first = (await invite(server, alice)).json
    server.clock.advance(seconds=1)
    second = (await invite(server, alice, room_id="!other:example.org")).json
    await invite(server, alice, address="dave@example.com")
    sid = await server.validated(bob, CAROL)
    association = (await server.bind(bob, sid)).json
    assert [each["token"] for each in association["invites"]] == [first["token"], second["token"]]
    verify(association, first["public_key"])
    for each in association["invites"]:
        verify(each["signed"], first["public_key"])
        assert each["signed"]["mxid"] == each["mxid"] == bob.user_id
        assert (each["sender"], each["medium"], each["address"]) == (alice.user_id, "email", CAROL)
    await settle(server)
    assert server.homeservers.notices.delivered == [("elsewhere.example", association)]
    assert server.count("invites") == 1, "Dave's"
    valid = await server.get("pubkey/ephemeral/isvalid", params={"public_key": first["public_keys"][1]["public_key"]})
    assert valid.json == {"valid": True}, "the room's event outlives the invite"


async def test_two_users_get_their_own_invites_only(server: Harness, alice: User, bob: User) -> None:
    await invite(server, alice)
    carol = await server.register("@carol:example.org")
    await server.bound(bob, "bob@example.com", secret="b")
    await server.bound(carol, CAROL, secret="c")
    await settle(server)
    bodies = {body["address"]: body for _, body in server.homeservers.notices.delivered}
    assert "invites" not in bodies["bob@example.com"]
    assert [each["address"] for each in bodies[CAROL]["invites"]] == [CAROL]


async def test_notice_is_delivered_as_often_as_it_failed_plus_once(server: Harness, alice: User, bob: User) -> None:
    await invite(server, alice)
    notices = server.homeservers.notices
    notices.answers.extend([DeliveryPostponed("HTTP status 503")] * 3)
    await server.bound(bob, CAROL)
    for _ in range(5):
        await settle(server)
        server.clock.advance(hours=1)
    assert notices.tries == 4
    assert len(notices.delivered) == 1
    assert server.count("invites") == server.count("jobs") == 0


async def test_notice_survives_a_crash(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        await invite(server, alice)
        server.homeservers.notices.answers.append(DeliveryPostponed("HTTP status 503"))
        await server.bound(await server.register("@bob:elsewhere.example"), CAROL)
        await settle(server)
    async with running(tmp_path) as server:
        server.clock.advance(hours=1)
        await settle(server)
        ((name, body),) = server.homeservers.notices.delivered
        assert name == "elsewhere.example"
        assert len(body["invites"]) == 1


@pytest.mark.parametrize("refused", [True, False])
async def test_notice_given_up_leaves_the_invites_waiting(
    server: Harness, alice: User, bob: User, *, refused: bool
) -> None:
    await invite(server, alice)
    notices = server.homeservers.notices
    if refused:
        notices.answers.append(DeliveryRefused("HTTP status 403"))
    else:
        notices.answers.extend([DeliveryPostponed("down")] * 200)
    await server.bound(bob, CAROL)
    for _ in range(100):
        await settle(server)
        server.clock.advance(hours=6)
    notices.answers.clear()
    assert notices.delivered == []
    audit = await server.system.database.read(lambda tx: tx.audit.list(AuditEvent.NOTICE_GIVEN_UP))
    assert [entry.server_name for entry in audit] == ["elsewhere.example"]
    if refused:
        await server.bound(bob, CAROL, secret="again")
        await settle(server)
        assert len(notices.delivered[-1][1]["invites"]) == 1


async def test_nobody_is_told_of_a_binding_that_is_no_more(server: Harness, alice: User, bob: User) -> None:
    await invite(server, alice)
    server.homeservers.notices.answers.append(DeliveryPostponed("HTTP status 503"))
    sid = await server.bound(bob, CAROL)
    await settle(server)
    body = {"mxid": bob.user_id, "threepid": {"medium": "email", "address": CAROL}}
    assert (await server.post("3pid/unbind", {**body, "sid": sid, "client_secret": SECRET})).status == 200
    server.clock.advance(minutes=3)
    await settle(server)
    assert server.homeservers.notices.delivered == []
    assert server.count("jobs") == 0
    await server.bound(alice, CAROL, secret="another")
    await settle(server)
    ((_, association),) = server.homeservers.notices.delivered
    assert [each["mxid"] for each in association["invites"]] == [alice.user_id], "the invite has waited again"


async def test_invites_of_a_notice_that_is_not_true_any_more_go_to_the_owner(
    server: Harness, alice: User, bob: User
) -> None:
    await invite(server, alice)
    server.homeservers.notices.answers.append(DeliveryPostponed("HTTP status 503"))
    await server.bound(bob, CAROL)
    await settle(server)
    await server.bound(alice, CAROL, secret="another")
    await settle(server)
    ((_, first),) = server.homeservers.notices.delivered
    assert "invites" not in first, "they were with the notice to another homeserver"
    server.clock.advance(minutes=3)
    await settle(server)
    _, (_, second) = server.homeservers.notices.delivered
    assert [each["mxid"] for each in second["invites"]] == [alice.user_id]
    assert server.count("jobs") == server.count("invites") == 0
    audit = await server.system.database.read(lambda tx: tx.audit.list(AuditEvent.NOTICE_GIVEN_UP))
    assert audit == []


async def test_homeserver_that_was_down_hears_nothing_of_a_revoked_invite(
    server: Harness, alice: User, bob: User
) -> None:
    for room in ("!kept", "!revoked"):
        await invite(server, alice, room_id=room)
    server.homeservers.notices.answers.append(DeliveryPostponed("HTTP status 503"))
    await server.bound(bob, CAROL)
    await settle(server)
    ((revoked, _),) = [each for each in await desk(server).list(limit=9) if each[0].room_id == "!revoked"]
    assert await desk(server).revoke(revoked.id)
    server.clock.advance(minutes=3)
    await settle(server)
    ((_, association),) = server.homeservers.notices.delivered
    assert [each["room_id"] for each in association["invites"]] == ["!kept"]
    verify(dict(association), (await server.get("pubkey/ed25519:0")).json["public_key"])
    assert server.count("invites") == 0


async def test_invites_of_a_notice_that_lapses_while_its_address_is_bound_anew_are_told_of(
    server: Harness, alice: User, bob: User
) -> None:
    await invite(server, alice)
    server.homeservers.notices.answers.append(DeliveryPostponed("HTTP status 503"))
    sid = await server.bound(bob, CAROL)
    body = {"mxid": bob.user_id, "threepid": {"medium": "email", "address": CAROL}}
    assert (await server.post("3pid/unbind", {**body, "sid": sid, "client_secret": SECRET})).status == 200
    kinds = cast("dict[str, JobKind]", server.system.runner._kinds)
    usual = kinds[BIND_NOTICE]

    async def bound_meanwhile(job: Job) -> None:
        kinds[BIND_NOTICE] = usual
        try:
            await usual.handler(job)
        finally:
            assert (await server.bind(bob, sid)).status == 200

    kinds[BIND_NOTICE] = replace(usual, handler=bound_meanwhile)
    server.clock.advance(minutes=3)
    await settle(server)
    assert kinds[BIND_NOTICE] is usual
    await settle(server)
    invites = [each for _, told in server.homeservers.notices.delivered for each in told.get("invites", ())]
    assert [each["mxid"] for each in invites] == [bob.user_id]
    assert server.count("jobs") == server.count("invites") == 0
    audit = await server.system.database.read(lambda tx: tx.audit.list(AuditEvent.NOTICE_GIVEN_UP))
    assert audit == []


async def test_dead_homeserver_delays_no_other(server: Harness, alice: User, bob: User) -> None:
    server.homeservers.notices.answers.append(DeliveryPostponed("down"))
    await server.bound(bob, "bob@example.com", secret="b")
    await server.bound(alice, "alice@example.com", secret="a")
    await settle(server)
    assert [name for name, _ in server.homeservers.notices.delivered] == ["example.org"]


async def test_invites_stay_where_the_operator_keeps_them(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"GENERAL__DELETE_TOKENS_ON_BIND": "false"}) as server:
        alice = await server.register()
        await invite(server, alice)
        await server.bound(alice, CAROL)
        await settle(server)
        assert server.count("invites") == 1
        await server.bound(alice, CAROL, secret="again")
        await settle(server)
        assert ["invites" in body for _, body in server.homeservers.notices.delivered] == [True, False]


async def test_invites_are_over_after_thirty_days(server: Harness, alice: User, bob: User) -> None:
    key = (await invite(server, alice)).json["public_keys"][1]["public_key"]
    server.clock.advance(days=30)
    await server.system.services.invitations.cleanup()
    await server.system.services.public_keys.cleanup()
    assert server.count("invites") == 0
    assert (await server.get("pubkey/ephemeral/isvalid", params={"public_key": key})).json == {"valid": True}
    server.clock.advance(days=335)
    assert (await server.get("pubkey/ephemeral/isvalid", params={"public_key": key})).json == {"valid": False}
    again = await server.register(bob.user_id)
    assert "invites" not in (await server.bind(again, await server.validated(again, CAROL))).json


# --- what is refused ----------------------------------------------------------------------


def refusal(reply: Reply) -> tuple[int, str | None]:
    return reply.status, reply.errcode


async def test_refusals_leave_nothing(server: Harness, alice: User, bob: User) -> None:
    await server.bound(bob, "bob@example.com")
    sent = len(server.mail.sent)
    in_use = await invite(server, alice, address="Bob@example.com")
    assert refusal(in_use) == (400, "M_THREEPID_IN_USE")
    assert in_use.json["mxid"] == bob.user_id
    assert refusal(await invite(server, alice, medium="msisdn", address="1")) == (400, "M_UNRECOGNIZED")
    assert refusal(await invite(server, alice, address="nonsense")) == (400, "M_INVALID_EMAIL")
    assert refusal(await invite(server, alice, sender=bob.user_id)) == (403, "M_UNAUTHORIZED")
    assert refusal(await invite(server, alice, room_id=5)) == (400, "M_INVALID_PARAM")
    assert refusal(await invite(server, alice, note="x" * 3000)) == (400, "M_INVALID_PARAM")
    server.mail.answers.append(DeliveryRefused("RCPT: 550"))
    assert refusal(await invite(server, alice)) == (400, "M_EMAIL_SEND_ERROR")
    assert len(server.mail.sent) == sent
    for table in ("invites", "ephemeral_keys"):
        assert server.count(table) == 0


async def test_binding_of_a_clock_that_is_ahead_is_there_all_the_same(
    server: Harness, alice: User, bob: User
) -> None:
    """Or this one is behind, because its request had to wait: an invite that waits for the binding is told to nobody."""
    await server.bound(bob, "bob@example.com")
    server.clock.advance(seconds=-1)
    assert refusal(await invite(server, alice, address="bob@example.com")) == (400, "M_THREEPID_IN_USE")
    assert server.count("invites") == 0


async def test_operator_blocks_servers_rooms_and_words(tmp_path: Path) -> None:
    settings = {
        "EMAIL__EMAIL_THIRD_PARTY_INVITE_HOMESERVER_BLOCKLIST": "bad.example",
        "EMAIL__EMAIL_THIRD_PARTY_INVITE_ROOM_BLOCKLIST": "!bad:example.org",
        "EMAIL__EMAIL_THIRD_PARTY_INVITE_KEYWORD_BLOCKLIST": "Casino",
    }
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        for changes in ({"room_id": "!bad:example.org"}, {"room_name": "The CASINO"}):
            assert refusal(await invite(server, alice, **changes)) == (403, "M_FORBIDDEN")
        bad = await server.register("@x:bad.example")
        assert refusal(await invite(server, bad)) == (403, "M_FORBIDDEN")
        location = {"org.matrix.web_client_location": "https://casino.example/"}
        assert (await invite(server, alice, **location)).status == 200


async def test_invites_share_the_allowance_of_validation_mails(server: Harness, alice: User) -> None:
    for number in range(5):
        assert (await invite(server, alice, address=f"n{number}@example.com")).status == 200
    assert refusal(await invite(server, alice)) == (429, "M_LIMIT_EXCEEDED")
    assert refusal(await server.request_token(alice, CAROL)) == (429, "M_LIMIT_EXCEEDED")


# --- signing ------------------------------------------------------------------------------


async def test_signing_for_an_invite(server: Harness, alice: User, bob: User) -> None:
    answer = (await invite(server, alice)).json
    body = {
        "mxid": bob.user_id,
        "token": answer["token"],
        "private_key": server.mail.sent[-1].variables["ephemeral_private_key"],
    }
    for _ in range(2):
        signed = (await server.post("sign-ed25519", body, as_=bob)).json
        assert (signed["mxid"], signed["sender"], signed["token"]) == (bob.user_id, alice.user_id, answer["token"])
        verify(signed, answer["public_keys"][1]["public_key"].replace("-", "+").replace("_", "/"))
    unknown = await server.post("sign-ed25519", {**body, "token": "x"}, as_=bob)
    assert refusal(unknown) == (404, "M_UNRECOGNIZED")
    no_key = await server.post("sign-ed25519", {**body, "private_key": "x"}, as_=bob)
    assert refusal(no_key) == (400, "M_INVALID_PARAM")


# --- for the operator ---------------------------------------------------------------------


async def test_operator_revokes_and_resends(server: Harness, alice: User, bob: User) -> None:
    key = (await invite(server, alice)).json["public_keys"][1]["public_key"]
    invitations = desk(server)
    ((stored, taken),) = await invitations.list(limit=10)
    assert (stored.sender, taken) == (alice.user_id, False)
    assert await invitations.resend(stored.id)
    server.clock.advance(minutes=1)
    await settle(server)
    assert [mail.variables["token"] for mail in server.mail.sent] == [stored.token] * 2
    assert await invitations.revoke(stored.id)
    assert not await invitations.revoke(stored.id)
    assert not await invitations.resend(stored.id)
    assert (await server.get("pubkey/ephemeral/isvalid", params={"public_key": key})).json == {"valid": False}
    assert "invites" not in (await server.bind(bob, await server.validated(bob, CAROL))).json
