"""Who may know of a binding: its owner decides, lookups and invites keep to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from identity_server.api.visibility import VISIBILITY_PATH
from identity_server.domain.audit import AuditEvent
from identity_server.domain.identifiers import UserId
from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused
from identity_server.services.associations.bind_notices import HANDOVER_MS
from identity_server.storage.database import Transaction
from tests.flows.test_invites import ROOM, invite, settle
from tests.support import make
from tests.support.harness import SECRET, Fakes, Harness, Reply, User, running

EMAIL = "alice@example.com"
NEIGHBOUR, STRANGER = "@dave:example.org", "@carol:elsewhere.example"
V1 = "/_matrix/identity/api/v1"


async def hide(server: Harness, user: User, visibility: str, address: str = EMAIL, medium: str = "email") -> Reply:
    body = {"medium": medium, "address": address, "visibility": visibility}
    return await server.request("PUT", VISIBILITY_PATH, as_=user, json=body)


async def own(server: Harness, user: User) -> dict[str, str]:
    """What somebody is shown of their own bindings."""
    reply = await server.get(VISIBILITY_PATH, as_=user)
    assert reply.status == 200
    return {each["address"]: each["visibility"] for each in reply.json["bindings"]}


# --- lookups ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visibility", "finders"),
    [
        ("everyone", {"owner", "neighbour", "stranger"}),
        ("homeserver", {"owner", "neighbour"}),
        ("nobody", {"owner"}),
    ],
)
@pytest.mark.parametrize("algorithm", ["sha256", "none"])
async def test_lookups_keep_to_what_the_owner_has_decided(
    tmp_path: Path, visibility: str, finders: set[str], algorithm: str
) -> None:
    async with running(tmp_path, settings={"LOOKUP__ALGORITHMS": "sha256,none"}) as server:
        alice = await server.register()
        people = {"owner": alice, "neighbour": await server.register(NEIGHBOUR)}
        people["stranger"] = await server.register(STRANGER)
        await server.bound(alice, EMAIL)
        assert (await hide(server, alice, visibility)).json == {}
        assert await own(server, alice) == {EMAIL: visibility}

        async def find(user: User) -> str | None:
            if algorithm == "sha256":
                return await server.find(user, EMAIL)
            body = {"algorithm": "none", "pepper": await server.pepper(user), "addresses": [f"{EMAIL} email"]}
            found: dict[str, str] = (await server.post("lookup", body, as_=user)).json["mappings"]
            return found.get(f"{EMAIL} email")

        assert {name for name, user in people.items() if await find(user) == alice.user_id} == finders


async def test_lookups_without_an_account_find_what_everyone_may_know(tmp_path: Path) -> None:
    v1 = {"GENERAL__ENABLE_V1_ACCESS": "true", "LOOKUP__ENABLE_V1": "true"}
    async with running(tmp_path, settings=v1) as server:
        alice = await server.register()
        await server.bound(alice, EMAIL)
        for visibility, found in (("everyone", True), ("homeserver", False), ("nobody", False)):
            await hide(server, alice, visibility)
            one = await server.get(f"{V1}/lookup?medium=email&address={EMAIL}")
            many = await server.post(f"{V1}/bulk_lookup", {"threepids": [["email", EMAIL]]})
            assert (one.json != {}, many.json["threepids"] != []) == (found, found)


async def test_hidden_stays_hidden_through_restarts_and_peppers(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        await server.bound(alice, EMAIL)
        await hide(server, alice, "homeserver")
    fakes.clock.advance(days=31)
    async with running(tmp_path, fakes=fakes) as server:
        await server.system.services.peppers.rotate_if_due()
        await server.system.index.settled()
        assert await server.find(await server.register(STRANGER), EMAIL) is None
        assert await server.find(await server.register(NEIGHBOUR), EMAIL) == alice.user_id


# --- deciding -----------------------------------------------------------------------------


async def test_owner_sees_all_that_is_bound_and_nobody_elses(server: Harness, alice: User, bob: User) -> None:
    assert await own(server, alice) == {}
    await server.bound(alice, EMAIL)
    bound_at = server.clock.ms
    server.clock.advance(minutes=1)
    await server.bound(alice, "a@example.com", secret="another")
    await server.bound(bob, "bob@example.com")
    reply = await server.get(VISIBILITY_PATH, as_=alice)
    first, second = reply.json["bindings"]
    assert first == {
        "medium": "email",
        "address": EMAIL,
        "ts": bound_at,
        "not_after": bound_at + 100 * 365 * 24 * 3_600_000,
        "visibility": "everyone",
    }
    assert second["address"] == "a@example.com"
    assert (await server.get(VISIBILITY_PATH)).status == 401


async def test_only_the_owner_decides(server: Harness, alice: User, bob: User) -> None:
    await server.bound(alice, EMAIL)
    changes = server.count("association_changes")
    for user, address in ((bob, EMAIL), (alice, "nobody@example.com")):
        refused = await hide(server, user, "nobody", address)
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND"), "bound or not, the answer is the same"
    unknown = await server.request(
        "PUT", VISIBILITY_PATH, json={"medium": "email", "address": EMAIL, "visibility": "nobody"}
    )
    assert unknown.status == 401
    assert server.count("association_changes") == changes
    assert await server.find(bob, EMAIL) == alice.user_id


@pytest.mark.parametrize(
    ("change", "errcode"),
    [
        ({"visibility": "friends"}, "M_INVALID_PARAM"),
        ({"visibility": 0}, "M_INVALID_PARAM"),
        ({"visibility": None}, "M_INVALID_PARAM"),
        ({"visibility": ["nobody"]}, "M_INVALID_PARAM"),
        ({"medium": "post"}, "M_INVALID_PARAM"),
        ({"address": "nonsense"}, "M_INVALID_PARAM"),
        ({"address": "x" * 513}, "M_INVALID_PARAM"),
        ({"medium": "msisdn", "address": "+44 7700"}, "M_INVALID_PARAM"),
    ],
)
async def test_bad_input_is_refused(server: Harness, alice: User, change: dict[str, Any], errcode: str) -> None:
    body = {"medium": "email", "address": EMAIL, "visibility": "nobody", **change}
    reply = await server.request("PUT", VISIBILITY_PATH, as_=alice, json=body)
    assert (reply.status, reply.errcode) == (400, errcode)
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "nonsense" not in reply.json["error"]
    missing = await server.request("PUT", VISIBILITY_PATH, as_=alice, json={"visibility": "nobody"})
    assert (missing.status, missing.errcode) == (400, "M_MISSING_PARAMS")


async def test_deciding_the_same_again_changes_nothing(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    await hide(server, alice, "nobody", "Alice@Example.com")
    before = server.count("association_changes")
    assert (await hide(server, alice, "nobody")).status == 200
    assert server.count("association_changes") == before


async def test_journal_says_that_something_was_changed_and_about_whom_to_those_who_ask(
    server: Harness, alice: User, bob: User
) -> None:
    await server.bound(alice, EMAIL)
    await hide(server, alice, "nobody")
    await hide(server, alice, "nobody")
    await hide(server, bob, "nobody")

    async def use_case(tx: Transaction) -> list[tuple[bool, ...]]:
        about = (UserId(alice.user_id), make.email(EMAIL), UserId(bob.user_id))
        entries = await tx.audit.list(AuditEvent.VISIBILITY_CHANGED)
        return [tuple(tx.audit.is_about(entry, each) for each in about) for entry in entries]

    assert await server.system.database.read(use_case) == [(True, True, False)]


async def test_changes_of_mind_are_limited(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    replies = [await hide(server, alice, ("nobody", "everyone")[number % 2]) for number in range(21)]
    assert [reply.status for reply in replies] == [200] * 20 + [429]
    server.clock.advance(minutes=1)
    assert (await hide(server, alice, "nobody")).status == 200


async def test_signed_association_says_nothing_of_it(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"LOOKUP__DEFAULT_VISIBILITY": "Nobody"}) as server:
        alice = await server.register()
        association = (await server.bind(alice, await server.validated(alice, EMAIL))).json
        assert "nobody" not in str(association)
        await settle(server)
        assert server.homeservers.notices.delivered == [("example.org", association)]


async def test_default_counts_from_the_next_binding(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        await server.bound(alice, EMAIL)
    async with running(tmp_path, fakes=fakes, settings={"LOOKUP__DEFAULT_VISIBILITY": "homeserver"}) as server:
        await server.bound(alice, "new@example.com", secret="new")
        async with server.internally() as inside:
            binding = {"medium": "email", "address": "inside@example.com", "mxid": alice.user_id}
            await inside.post("/_matrix/identity/internal/bind", binding)
        await server.bound(alice, EMAIL, secret="again")
        expected = {"new@example.com": "homeserver", "inside@example.com": "homeserver", EMAIL: "everyone"}
        assert await own(server, alice) == expected


async def test_decision_outlives_binding_again_but_not_the_owner(server: Harness, alice: User, bob: User) -> None:
    sid = await server.bound(alice, EMAIL)
    await hide(server, alice, "nobody")
    await server.bound(alice, EMAIL, secret="again")
    assert await own(server, alice) == {EMAIL: "nobody"}
    await server.bound(bob, EMAIL, secret="taken-over")
    assert await own(server, bob) == {EMAIL: "everyone"}
    assert await own(server, alice) == {}
    await server.bound(alice, EMAIL, secret="taken-back")
    assert await own(server, alice) == {EMAIL: "everyone"}
    await hide(server, alice, "nobody")
    threepid = {"medium": "email", "address": EMAIL}
    unbound = await server.post(
        "3pid/unbind", {"mxid": alice.user_id, "sid": sid, "client_secret": SECRET, "threepid": threepid}
    )
    assert unbound.json == {}
    assert await own(server, alice) == {}


async def test_terms_need_not_be_accepted_to_hide(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        await server.bound(alice, EMAIL)
    terms = tmp_path / "terms"
    terms.mkdir()
    text = '---\nid: privacy\nversion: "1"\nlanguage: en\ntitle: Privacy\n---\nText.\n'
    (terms / "privacy.en.md").write_text(text)
    async with running(tmp_path, fakes=fakes, settings={"GENERAL__TERMS_PATH": str(terms)}) as server:
        assert (await server.get("account", as_=alice)).errcode == "M_TERMS_NOT_SIGNED"
        assert (await hide(server, alice, "nobody")).status == 200
        assert await own(server, alice) == {EMAIL: "nobody"}


# --- invites ------------------------------------------------------------------------------


def without_secrets(reply: Reply) -> tuple[int, object]:
    """An answer to an invite without what is random in it."""
    answer = dict(reply.json)
    ephemeral = answer["public_keys"][1].pop("public_key")
    return reply.status, {**answer, "token": len(answer["token"]), "ephemeral": len(ephemeral)}


@pytest.mark.parametrize(
    ("visibility", "inviter", "is_told"),
    [
        ("everyone", STRANGER, True),
        ("homeserver", NEIGHBOUR, True),
        ("homeserver", STRANGER, False),
        ("nobody", NEIGHBOUR, False),
        ("nobody", STRANGER, False),
    ],
)
async def test_inviting_tells_no_more_than_looking_up(
    server: Harness, alice: User, visibility: str, inviter: str, is_told: bool
) -> None:
    await server.bound(alice, EMAIL)
    await hide(server, alice, visibility)
    await settle(server)
    who, sent = await server.register(inviter), len(server.mail.sent)
    unbound = await invite(server, who, "aline@example.com")
    reply = await invite(server, who, EMAIL)
    if is_told:
        assert (reply.status, reply.errcode, reply.json["mxid"]) == (400, "M_THREEPID_IN_USE", alice.user_id)
    else:
        assert without_secrets(reply) == without_secrets(unbound)
    assert [mail.to for mail in server.mail.sent[sent:]] == ["aline@example.com", *([] if is_told else [EMAIL])]


async def test_invite_to_a_hidden_binding_reaches_its_owner(server: Harness, alice: User, bob: User) -> None:
    await server.bound(bob, EMAIL)
    await hide(server, bob, "nobody")
    await settle(server)
    server.homeservers.notices.delivered.clear()
    answer = (await invite(server, alice, EMAIL)).json
    (mail,) = [mail for mail in server.mail.sent if mail.template == "invite"]
    assert mail.to == EMAIL
    await settle(server)
    assert server.homeservers.notices.delivered == [], "the room doesn't know of the invite yet"
    server.clock.advance(seconds=HANDOVER_MS / 1000)
    await settle(server)
    ((homeserver, body),) = server.homeservers.notices.delivered
    assert (homeserver, body["mxid"], body["address"]) == ("elsewhere.example", bob.user_id, EMAIL)
    (delivered,) = body["invites"]
    assert (delivered["token"], delivered["room_id"]) == (answer["token"], ROOM)
    assert delivered["signed"]["mxid"] == bob.user_id
    assert server.count("invites") == 0
    key = answer["public_keys"][1]["public_key"]
    valid = await server.get("pubkey/ephemeral/isvalid", params={"public_key": key})
    assert valid.json == {"valid": True}


async def test_mail_that_is_refused_takes_the_notice_back(server: Harness, alice: User, bob: User) -> None:
    await server.bound(bob, EMAIL)
    await hide(server, bob, "nobody")
    await settle(server)
    server.homeservers.notices.delivered.clear()
    for address in (EMAIL, "nobody@example.com"):
        server.mail.answers.append(DeliveryRefused("RCPT: 550"))
        refused = await invite(server, alice, address)
        assert (refused.status, refused.errcode) == (400, "M_EMAIL_SEND_ERROR")
    assert [server.count(table) for table in ("invites", "ephemeral_keys", "jobs")] == [0, 0, 0]
    server.clock.advance(minutes=1)
    await settle(server)
    assert server.homeservers.notices.delivered == []


async def test_homeserver_that_is_down_gets_the_invite_later(server: Harness, alice: User, bob: User) -> None:
    await server.bound(bob, EMAIL)
    await hide(server, bob, "nobody")
    await settle(server)
    server.homeservers.notices.delivered.clear()
    await invite(server, alice, EMAIL)
    server.homeservers.notices.answers.append(DeliveryPostponed("HTTP status 503"))
    for _ in range(3):
        server.clock.advance(minutes=3)
        await settle(server)
    assert len(server.homeservers.notices.delivered) == 1


async def test_invites_to_hidden_bindings_count_as_to_others(server: Harness, alice: User, bob: User) -> None:
    await server.bound(bob, EMAIL)
    await hide(server, bob, "nobody")
    replies = [await invite(server, alice, EMAIL) for _ in range(6)]
    assert [reply.status for reply in replies] == [200] * 5 + [429]
    stranger = await server.register("@x:third.example")
    assert (await invite(server, stranger, EMAIL)).status == 200


async def test_v1_is_told_of_what_everyone_may_know_alone(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"GENERAL__ENABLE_V1_ACCESS": "true"}) as server:
        alice = await server.register()
        await server.bound(alice, EMAIL)
        body = {"medium": "email", "address": EMAIL, "room_id": ROOM, "sender": alice.user_id}
        assert (await server.post(f"{V1}/store-invite", body)).errcode == "M_THREEPID_IN_USE"
        await hide(server, alice, "homeserver")
        assert (await server.post(f"{V1}/store-invite", body)).status == 200


async def test_whoever_may_not_look_up_is_not_told_by_an_invite(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"GENERAL__HOMESERVER_LOOKUP_DENY_LIST": "elsewhere.example"}) as server:
        alice, stranger = await server.register(), await server.register(STRANGER)
        await server.bound(alice, EMAIL)
        assert (await invite(server, await server.register(NEIGHBOUR), EMAIL)).errcode == "M_THREEPID_IN_USE"
        assert (await invite(server, stranger, EMAIL)).status == 200
        server.clock.advance(seconds=HANDOVER_MS / 1000)
        await settle(server)
        assert "invites" in server.homeservers.notices.delivered[-1][1]
