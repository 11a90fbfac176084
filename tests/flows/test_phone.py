"""Phone numbers: a code by SMS, tried, proven, bound and found."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from identity_server.api.visibility import VISIBILITY_PATH
from identity_server.domain.hashing import encode_digest, hash_threepid
from identity_server.domain.identifiers import Medium, Threepid
from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused, DeliveryUnknown
from tests.support.harness import SECRET, Fakes, Harness, Reply, User, running

NUMBER = "07700 900123"
MSISDN = "447700900123"
LINK = "validate/msisdn/submitToken"


async def request_code(
    server: Harness, user: User, number: str = NUMBER, *, secret: str = SECRET, attempt: Any = 1, **more: Any
) -> Reply:
    body = {"client_secret": secret, "country": "GB", "phone_number": number, "send_attempt": attempt, **more}
    return await server.post("validate/msisdn/requestToken", body, as_=user)


async def submit(server: Harness, user: User, sid: str, code: str | None = None, secret: str = SECRET) -> Reply:
    body = {"sid": sid, "client_secret": secret, "token": code or server.sms.last_code}
    return await server.post("validate/msisdn/submitToken", body, as_=user)


async def validated_threepid(server: Harness, user: User, sid: str) -> tuple[int, object]:
    reply = await server.get(f"3pid/getValidated3pid?sid={sid}&client_secret={SECRET}", as_=user)
    return reply.status, reply.errcode or reply.json


def wrong(server: Harness) -> str:
    return f"{(int(server.sms.last_code) + 1) % 1_000_000:06}"


async def find(server: Harness, user: User, msisdn: str) -> object:
    pepper = await server.pepper(user)
    digest = encode_digest(hash_threepid(Threepid(Medium.MSISDN, msisdn), pepper))
    reply = await server.post("lookup", {"algorithm": "sha256", "pepper": pepper, "addresses": [digest]}, as_=user)
    return reply.json["mappings"].get(digest)


async def test_number_is_proven_bound_found_and_unbound(server: Harness, alice: User, bob: User) -> None:
    requested = await request_code(server, alice)
    sid = requested.json["sid"]
    assert requested.json == {"sid": sid, "success": True, "msisdn": MSISDN, "intl_fmt": "+44 7700 900123"}
    (message,) = server.sms.sent
    assert (message.to, message.country_code) == (MSISDN, "44")
    code = server.sms.last_code
    assert message.body == f"Your code is {code}\n\n@id.example.org #{code}"
    assert server.count("jobs") == 0, "the sealed code is wiped once it is sent"
    assert await validated_threepid(server, alice, sid) == (400, "M_SESSION_NOT_VALIDATED")

    server.clock.advance(minutes=9)
    assert (await submit(server, alice, sid)).json == {"success": True}
    proven = {"medium": "msisdn", "address": MSISDN, "validated_at": server.clock.ms}
    server.clock.advance(hours=1)
    assert (await submit(server, alice, sid)).json == {"success": True}, "once more is fine"
    assert await validated_threepid(server, alice, sid) == (200, proven)

    association = (await server.bind(alice, sid)).json
    assert (association["medium"], association["address"], association["mxid"]) == ("msisdn", MSISDN, alice.user_id)
    assert await find(server, bob, MSISDN) == alice.user_id

    threepid = {"medium": "msisdn", "address": MSISDN}
    proof = {"sid": sid, "client_secret": SECRET, "mxid": alice.user_id, "threepid": threepid}
    assert (await server.post("3pid/unbind", proof)).json == {}
    assert await find(server, bob, MSISDN) is None


async def test_text_is_in_the_language_of_whoever_asks(server: Harness, alice: User) -> None:
    headers = {"Accept-Language": "de-CH, fr;q=0.8"}
    body = {"client_secret": SECRET, "country": "GB", "phone_number": NUMBER, "send_attempt": 1}
    assert (await server.post("validate/msisdn/requestToken", body, as_=alice, headers=headers)).status == 200
    assert server.sms.sent[0].body.startswith(f"Ihr Code lautet {server.sms.last_code}\n")


async def bound_phone(server: Harness, user: User, *, secret: str = SECRET) -> dict[str, Any]:
    """Prove a number and bind it an hour later; returns the signed association."""
    sid = (await request_code(server, user, secret=secret)).json["sid"]
    assert (await submit(server, user, sid, secret=secret)).json == {"success": True}
    server.clock.advance(hours=1)
    reply = await server.bind(user, sid, secret=secret)
    assert reply.status == 200
    association: dict[str, Any] = reply.json
    return association


MONTH_MS = 365 * 24 * 3_600_000 // 12
HOUR_MS = 3_600_000


async def test_number_that_is_not_proven_anew_is_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"SMS__MSISDN_REVALIDATE_AFTER_MONTHS": "6"}) as server:
        alice, bob = await server.register(), await server.register("@bob:elsewhere.example")
        proven_at_ms = server.clock.ms
        association = await bound_phone(server, alice)
        await server.bound(alice, "alice@example.com")
        assert association["not_after"] == proven_at_ms + 6 * MONTH_MS, "counted from the proof"
        sweep = server.system.services.associations.sweep_expired

        server.clock.ms = association["not_after"] - 1
        alice, bob = await server.register(alice.user_id), await server.register(bob.user_id)
        assert await find(server, bob, MSISDN) == alice.user_id
        server.clock.ms += 1
        assert await find(server, bob, MSISDN) is None
        assert await sweep() == 0
        assert server.count("associations") == 2, "for a week it can be proven anew and is as it was"

        server.clock.advance(days=7)
        assert await sweep() == 1
        assert server.rows("SELECT medium FROM associations") == [("email",)], "mail addresses stay with their owners"
        assert await server.find(bob, "alice@example.com") == alice.user_id
        assert await sweep() == 0
        assert server.rows("SELECT number FROM audit_pending WHERE event = 'swept'") == [(1,)]


async def test_number_that_is_proven_anew_stays_and_keeps_its_visibility(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"SMS__MSISDN_REVALIDATE_AFTER_MONTHS": "1"}) as server:
        alice = await server.register()
        first = await bound_phone(server, alice)
        body = {"medium": "msisdn", "address": MSISDN, "visibility": "homeserver"}
        assert (await server.request("PUT", VISIBILITY_PATH, as_=alice, json=body)).status == 200
        server.clock.ms = first["not_after"] + HOUR_MS
        alice, dave = await server.register(), await server.register("@dave:example.org")
        assert await find(server, dave, MSISDN) is None
        second = await bound_phone(server, alice, secret="again")
        assert second["not_after"] == server.clock.ms - HOUR_MS + MONTH_MS
        assert await find(server, dave, MSISDN) == alice.user_id
        assert await find(server, await server.register("@bob:elsewhere.example"), MSISDN) is None
        server.clock.advance(days=7)
        assert await server.system.services.associations.sweep_expired() == 0


async def test_numbers_bound_before_stay_as_they_are(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        assert (await bound_phone(server, await server.register()))["not_after"] > fakes.clock.ms + 1000 * MONTH_MS
    fakes.clock.advance(days=400)
    async with running(tmp_path, fakes=fakes, settings={"SMS__MSISDN_REVALIDATE_AFTER_MONTHS": "1"}) as server:
        assert await server.system.services.associations.sweep_expired() == 0
        assert await find(server, await server.register(), MSISDN) == "@alice:example.org"


async def test_nothing_readable_is_stored(server: Harness, alice: User) -> None:
    server.sms.answers.append(DeliveryPostponed("connect: refused"))
    await request_code(server, alice)
    server.clock.advance(seconds=30)
    stored = repr([server.rows(f"SELECT * FROM {table}") for table in ("validation_sessions", "jobs", "rate_limits")])
    await server.system.runner.run_until_idle()
    assert server.sms.last_code not in stored
    assert "7700" not in stored
    assert "$argon2id$" in stored


@pytest.mark.parametrize(
    ("number", "country"),
    [("nonsense", "GB"), ("", "GB"), ("112", "GB"), (NUMBER, "ZZ"), ("\x00", "GB"), ("1" * 900, "GB")],
)
async def test_what_is_no_number_is_refused(server: Harness, alice: User, number: str, country: str) -> None:
    reply = await request_code(server, alice, number, country=country)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_ADDRESS")
    assert server.count("validation_sessions") == 0


async def test_wrong_proofs(server: Harness, alice: User) -> None:
    sid = (await request_code(server, alice)).json["sid"]
    for reply, errcode in (
        (await submit(server, alice, sid, wrong(server)), "M_TOKEN_INCORRECT"),
        (await submit(server, alice, sid, "not a number"), "M_TOKEN_INCORRECT"),
        (await submit(server, alice, sid, secret="other"), "M_INVALID_PARAM"),
        (await submit(server, alice, "nope"), "M_INVALID_PARAM"),
        (await server.submit(alice, sid, server.sms.last_code), "M_INVALID_PARAM"),
    ):
        assert (reply.status, reply.errcode) == (400, errcode)
    by_mail = (await server.request_token(alice, "alice@example.com", secret="mail")).json["sid"]
    other_medium = await submit(server, alice, by_mail, server.mail.last_token, secret="mail")
    assert other_medium.errcode == "M_INVALID_PARAM"


async def test_code_is_good_for_ten_minutes_and_another_can_be_had(server: Harness, alice: User) -> None:
    sid = (await request_code(server, alice)).json["sid"]
    server.clock.advance(minutes=10)
    late = await submit(server, alice, sid)
    assert (late.status, late.errcode) == (400, "M_TOKEN_INCORRECT")
    await server.system.services.validation.cleanup()
    assert server.rows("SELECT code_hash FROM validation_sessions") == [(None,)]
    assert (await submit(server, alice, sid)).errcode == "M_TOKEN_INCORRECT"
    assert (await request_code(server, alice, attempt="2")).json["sid"] == sid
    assert (await submit(server, alice, sid)).status == 200


async def test_only_the_newest_code_counts(server: Harness, alice: User) -> None:
    sid = (await request_code(server, alice, attempt=1)).json["sid"]
    first = server.sms.last_code
    await request_code(server, alice, attempt=2)
    assert server.sms.last_code != first
    assert (await submit(server, alice, sid, first)).errcode == "M_TOKEN_INCORRECT"
    assert (await submit(server, alice, sid)).status == 200


async def test_repeat_sends_nothing(server: Harness, alice: User) -> None:
    one = await request_code(server, alice, attempt="2")
    for spelling, attempt in ((NUMBER, 2), ("+447700900123", "2"), ("(07700)900123", 1)):
        assert (await request_code(server, alice, spelling, attempt=attempt)).json == one.json
    assert len(server.sms.sent) == 1


async def test_five_wrong_codes_end_the_session(server: Harness, alice: User) -> None:
    sid = (await request_code(server, alice)).json["sid"]
    replies = await asyncio.gather(*(submit(server, alice, sid, wrong(server)) for _ in range(20)))
    errcodes = [reply.errcode for reply in replies]
    assert errcodes.count("M_TOKEN_INCORRECT") == 5
    assert errcodes.count("M_SESSION_EXPIRED") == 15
    assert (await submit(server, alice, sid)).errcode == "M_SESSION_EXPIRED"
    assert await validated_threepid(server, alice, sid) == (400, "M_SESSION_EXPIRED")
    assert (await server.bind(alice, sid)).errcode == "M_SESSION_EXPIRED"

    again = await request_code(server, alice, attempt=2)
    assert again.json["sid"] != sid
    assert (await submit(server, alice, sid)).errcode == "M_SESSION_EXPIRED"
    assert (await submit(server, alice, again.json["sid"])).status == 200


# --- sending ------------------------------------------------------------------------------


async def test_refused_message_leaves_nothing(server: Harness, alice: User) -> None:
    server.sms.answers.append(DeliveryRefused("HTTP 400"))
    reply = await request_code(server, alice)
    assert (reply.status, reply.errcode) == (400, "M_SEND_ERROR")
    for table in ("validation_sessions", "jobs"):
        assert server.count(table) == 0


async def test_refused_reminder_leaves_the_session_as_it_was(server: Harness, alice: User) -> None:
    sid = (await request_code(server, alice, next_link="https://a.example/")).json["sid"]
    server.sms.answers.append(DeliveryRefused("HTTP 400"))
    refused = await request_code(server, alice, attempt=2, next_link="https://b.example/")
    assert refused.errcode == "M_SEND_ERROR"
    query = f"sid={sid}&client_secret={SECRET}&token={server.sms.last_code}"
    assert (await server.get(f"{LINK}?{query}")).headers["Location"] == "https://a.example/"
    again = await request_code(server, alice, attempt=2)
    assert (again.json["sid"], len(server.sms.sent)) == (sid, 2), "attempt 2 counts as not made, so it is made now"


async def test_postponed_message_is_tried_again_with_the_same_reference(server: Harness, alice: User) -> None:
    server.sms.answers.append(DeliveryPostponed("HTTP 503"))
    sid = (await request_code(server, alice)).json["sid"]
    assert server.sms.sent == []
    server.clock.advance(seconds=30)
    await server.system.runner.run_until_idle()
    (message,) = server.sms.sent
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", message.reference)
    assert server.count("jobs") == 0
    assert (await submit(server, alice, sid)).status == 200


async def test_provider_is_left_alone_for_as_long_as_it_asks(server: Harness, alice: User) -> None:
    server.sms.answers.append(DeliveryPostponed("HTTP 429", retry_after_seconds=120))
    await request_code(server, alice)
    server.clock.advance(seconds=119)
    await server.system.runner.run_until_idle()
    assert server.sms.sent == []
    server.clock.advance(seconds=1)
    await server.system.runner.run_until_idle()
    assert len(server.sms.sent) == 1


async def test_message_that_could_only_come_too_late_is_refused_at_once(server: Harness, alice: User) -> None:
    server.sms.answers.append(DeliveryPostponed("HTTP 429", retry_after_seconds=600))
    assert (await request_code(server, alice)).errcode == "M_SEND_ERROR"
    assert server.count("validation_sessions") == server.count("jobs") == 0


@pytest.mark.parametrize("fault", [DeliveryUnknown("no answer"), RuntimeError("a fault of ours")])
async def test_message_that_may_have_been_sent_is_not_sent_again(
    server: Harness, alice: User, fault: Exception
) -> None:
    server.sms.answers.append(fault)
    reply = await request_code(server, alice)
    assert reply.status == 200
    assert server.count("jobs") == 0
    again = await request_code(server, alice, attempt=2)
    assert again.json["sid"] == reply.json["sid"]
    assert len(server.sms.sent) == 1


async def test_message_is_not_sent_again_after_a_crash_in_between(server: Harness, alice: User) -> None:
    gone = asyncio.get_running_loop().create_future()
    server.sms.answers.append(gone)
    server.system.runner._patience_seconds = 0.01
    sid = (await request_code(server, alice)).json["sid"]
    assert server.count("jobs") == 1
    # The lease runs out, as it does when the process dies; then someone else finds the job.
    server.clock.advance(minutes=1)
    await server.system.runner.run_due()
    while server.count("jobs"):
        await asyncio.sleep(0.01)
    assert server.sms.sent == []
    gone.set_result(None)
    await server.system.runner.run_until_idle()
    assert len(server.sms.sent) == 1, "the first one was only slow"
    assert (await submit(server, alice, sid)).status == 200


async def test_without_a_provider_nothing_is_promised(tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.offers_sms = False
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        reply = await request_code(server, alice)
        assert (reply.status, reply.errcode) == (400, "M_SEND_ERROR")
        assert (await request_code(server, alice, "nonsense")).errcode == "M_INVALID_ADDRESS"
        assert server.count("validation_sessions") == 0


# --- what the operator decides ------------------------------------------------------------


async def test_text_and_length_of_a_code_are_the_operators(tmp_path: Path) -> None:
    settings = {"SMS__BODYTEMPLATE": "Code: {token}. " + "x" * 130, "SMS__CODE_DIGITS": "8"}
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        sid = (await request_code(server, alice)).json["sid"]
        assert re.fullmatch(r"Code: [0-9]{8}\. x{130}", server.sms.sent[0].body), "no room for the line"
        assert (await submit(server, alice, sid)).status == 200


async def test_countries_may_be_left_out(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"SMS__SMSRULE_44": "reject", "SMS__SMSRULE_1": "allow"}) as server:
        alice = await server.register()
        reply = await request_code(server, alice)
        assert (reply.status, reply.errcode) == (400, "M_DESTINATION_REJECTED")
        assert server.count("validation_sessions") == 0
        assert (await request_code(server, alice, "+1 212 555 0123")).status == 200


def limited(reply: Reply) -> bool:
    return (reply.status, reply.errcode) == (429, "M_LIMIT_EXCEEDED")


async def test_number_gets_five_messages_and_then_one_an_hour(server: Harness, alice: User, bob: User) -> None:
    for attempt in range(1, 5):
        assert (await request_code(server, alice, attempt=attempt)).status == 200
    assert (await request_code(server, bob)).status == 200
    reply = await request_code(server, alice, attempt=5)
    assert limited(reply)
    assert reply.json["retry_after_ms"] == 3_600_000
    assert (await request_code(server, alice, attempt=4)).status == 200, "a repeat costs nothing"
    assert (await request_code(server, alice, "07700 900124")).status == 200, "another number"
    server.clock.advance(hours=1)
    assert (await request_code(server, alice, attempt=5)).status == 200


async def test_country_has_a_limit_over_all_its_numbers(tmp_path: Path) -> None:
    settings = {"SMS__COUNTRY_RATELIMIT_BURST": "2", "SMS__COUNTRY_RATELIMIT_RATE_HZ": "1/60"}
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        for last in (1, 2):
            assert (await request_code(server, alice, f"+1 212 555 012{last}")).status == 200
        over = await request_code(server, alice, "+1 613 555 0123")
        assert limited(over), "Canada shares the calling code"
        assert over.json["retry_after_ms"] == 60_000
        assert (await request_code(server, alice)).status == 200
        assert len(server.sms.sent) == 3


async def test_open_sessions_are_counted_over_both_media(tmp_path: Path) -> None:
    lenient = {"EMAIL__EMAIL_RATELIMIT_SENDER_BURST": "1000"}
    async with running(tmp_path, settings=lenient) as server:
        alice = await server.register()
        for number in range(49):
            assert (await server.request_token(alice, f"a{number}@example.com")).status == 200
        sid = (await request_code(server, alice)).json["sid"]
        assert limited(await request_code(server, alice, "07700 900124"))
        assert limited(await server.request_token(alice, "a49@example.com"))
        await submit(server, alice, sid)
        assert (await request_code(server, alice, "07700 900124")).status == 200


# --- the page -----------------------------------------------------------------------------


async def test_link_validates_at_once_and_shows_a_page(server: Harness, alice: User) -> None:
    sid = (await request_code(server, alice)).json["sid"]
    query = f"sid={sid}&client_secret={SECRET}&token={server.sms.last_code}"
    assert (await server.request("HEAD", f"{LINK}?{query}")).status == 405
    page = await server.get(f"{LINK}?{query}")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"phone number is confirmed" in page.body
    assert (await validated_threepid(server, alice, sid))[0] == 200


async def test_link_goes_on_to_where_the_request_wanted(server: Harness, alice: User) -> None:
    target = "https://app.example.com/done"
    sid = (await request_code(server, alice, next_link=target)).json["sid"]
    query = f"sid={sid}&client_secret={SECRET}&token={server.sms.last_code}&next_link=https://evil.example/"
    reply = await server.get(f"{LINK}?{query}")
    assert (reply.status, reply.headers["Location"]) == (302, target)


async def test_wrong_code_in_a_link_is_a_try(server: Harness, alice: User) -> None:
    sid = (await request_code(server, alice)).json["sid"]
    for _ in range(5):
        page = await server.get(f"{LINK}?sid={sid}&client_secret={SECRET}&token={wrong(server)}")
        assert page.status == 400
        assert b"This code does not work" in page.body
    query = f"sid={sid}&client_secret={SECRET}&token={server.sms.last_code}"
    assert (await server.get(f"{LINK}?{query}")).status == 400
    assert (await server.get(LINK)).status == 400
    assert await validated_threepid(server, alice, sid) == (400, "M_SESSION_EXPIRED")


async def test_synapse_validates_for_its_users_by_v1_where_that_is_switched_on(tmp_path: Path) -> None:
    v1 = "/_matrix/identity/api/v1"
    async with running(tmp_path, settings={"GENERAL__ENABLE_V1_ACCESS": "true"}) as server:
        body = {"client_secret": SECRET, "country": "GB", "phone_number": NUMBER, "send_attempt": 1}
        requested = await server.post(f"{v1}/validate/msisdn/requestToken", body)
        assert requested.json["msisdn"] == MSISDN
        proof = {"sid": requested.json["sid"], "client_secret": SECRET}
        wrong_code = await server.post(f"{v1}/validate/msisdn/submitToken", {**proof, "token": wrong(server)})
        assert (wrong_code.status, wrong_code.errcode) == (400, "M_TOKEN_INCORRECT")
        right_code = await server.post(f"{v1}/validate/msisdn/submitToken", {**proof, "token": server.sms.last_code})
        assert right_code.json == {"success": True}
        reply = await server.get(f"{v1}/3pid/getValidated3pid", params=proof)
        assert (reply.json["medium"], reply.json["address"]) == ("msisdn", MSISDN)
