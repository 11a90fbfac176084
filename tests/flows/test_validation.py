"""Validation sessions: mails, tokens, repeats, expiry, limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import pytest_asyncio

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused
from tests.support.harness import ALICE, SECRET, Harness, Reply, User, running


async def validated_threepid(server: Harness, user: User, sid: str, secret: str = SECRET) -> tuple[int, object]:
    reply = await server.get(f"3pid/getValidated3pid?sid={sid}&client_secret={secret}", as_=user)
    return reply.status, reply.errcode or reply.json


async def test_mail_goes_to_the_folded_address_and_names_who_asked(server: Harness, alice: User) -> None:
    reply = await server.request_token(alice, "Straße@Example.COM")
    assert reply.status == 200
    assert isinstance(reply.json["sid"], str)
    (mail,) = server.mail.sent
    assert mail.to == "strasse@example.com"
    assert mail.variables["user_id"] == ALICE
    link = mail.variables["confirm_url"]
    assert link == f"https://id.example.org/_matrix/identity/confirm?token={server.mail.last_token}"
    assert SECRET not in link
    assert reply.json["sid"] not in link
    assert server.count("jobs") == 0, "the sealed token is wiped once it is sent"


async def test_session_reports_the_time_of_its_validation(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
    assert await validated_threepid(server, alice, sid) == (400, "M_SESSION_NOT_VALIDATED")
    server.clock.advance(minutes=10)
    assert (await server.submit(alice, sid)).json == {"success": True}
    validated_at = server.clock.ms
    server.clock.advance(minutes=10)
    assert (await server.submit(alice, sid)).json == {"success": True}, "once more is fine"
    expected = {"medium": "email", "address": "alice@example.com", "validated_at": validated_at}
    assert await validated_threepid(server, alice, sid) == (200, expected)


async def test_wrong_proofs(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
    wrong_token = await server.submit(alice, sid, "nonsense")
    assert (wrong_token.status, wrong_token.errcode) == (400, "M_TOKEN_INCORRECT")
    wrong_secret = await server.submit(alice, sid, secret="other")
    assert (wrong_secret.status, wrong_secret.errcode) == (400, "M_INVALID_PARAM")
    wrong_sid = await server.submit(alice, "nope")
    assert (wrong_sid.status, wrong_sid.errcode) == (400, "M_INVALID_PARAM")
    assert await validated_threepid(server, alice, sid, "other") == (404, "M_NO_VALID_SESSION")


async def test_token_is_good_for_its_own_session_only(server: Harness, alice: User) -> None:
    await server.request_token(alice, "one@example.com", secret="one")
    token = server.mail.last_token
    sid = (await server.request_token(alice, "two@example.com", secret="two")).json["sid"]
    reply = await server.submit(alice, sid, token, secret="two")
    assert (reply.status, reply.errcode) == (400, "M_TOKEN_INCORRECT")


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 1), ("1", 1), (1, "1")])
async def test_repeat_sends_nothing(server: Harness, alice: User, first: object, second: object) -> None:
    one = await server.request_token(alice, "alice@example.com", attempt=first)
    two = await server.request_token(alice, "ALICE@example.com", attempt=second)
    assert one.json == two.json
    assert len(server.mail.sent) == 1


async def test_reminder_mails_a_fresh_token_and_the_first_stays_good(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com", attempt="1")).json["sid"]
    first = server.mail.last_token
    again = await server.request_token(alice, "alice@example.com", attempt="2")
    assert again.json["sid"] == sid
    assert len({mail.variables["token"] for mail in server.mail.sent}) == 2
    assert (await server.submit(alice, sid, first)).status == 200


async def test_each_account_has_a_session_of_its_own(server: Harness, alice: User, bob: User) -> None:
    one = await server.request_token(alice, "shared@example.com")
    two = await server.request_token(bob, "shared@example.com")
    assert one.json["sid"] != two.json["sid"]
    assert len(server.mail.sent) == 2


async def test_session_expires_and_says_so_for_a_day(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
    server.clock.advance(hours=24)
    for sweep in (False, True):
        if sweep:
            await server.system.services.validation.cleanup()
        reply = await server.submit(alice, sid)
        assert (reply.status, reply.errcode) == (400, "M_SESSION_EXPIRED")
        assert await validated_threepid(server, alice, sid) == (400, "M_SESSION_EXPIRED")
    assert server.rows("SELECT address_blind, sealed_address FROM validation_sessions") == [(None, None)]
    assert server.count("validation_tokens") == 0
    server.clock.advance(hours=24)
    await server.system.services.validation.cleanup()
    assert await validated_threepid(server, alice, sid) == (404, "M_NO_VALID_SESSION")


async def test_validation_gives_a_day_of_its_own_and_no_more(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
    server.clock.advance(hours=23)
    await server.submit(alice, sid)
    server.clock.advance(hours=23)
    assert (await validated_threepid(server, alice, sid))[0] == 200
    await server.request_token(alice, "alice@example.com", attempt=2)
    server.clock.advance(hours=1)
    assert await validated_threepid(server, alice, sid) == (400, "M_SESSION_EXPIRED"), "a reminder prolongs nothing"


async def test_expired_session_makes_way_for_a_new_one(server: Harness, alice: User) -> None:
    old = (await server.request_token(alice, "alice@example.com")).json["sid"]
    server.clock.advance(hours=24)
    new = (await server.request_token(alice, "alice@example.com")).json["sid"]
    assert new != old
    assert len(server.mail.sent) == 2
    assert (await server.submit(alice, old)).errcode == "M_SESSION_EXPIRED"
    assert (await server.submit(alice, new)).status == 200


# --- delivery -----------------------------------------------------------------------------


async def test_refused_mail_leaves_nothing(server: Harness, alice: User) -> None:
    server.mail.answers.append(DeliveryRefused("RCPT: 550"))
    reply = await server.request_token(alice, "nobody@example.com")
    assert (reply.status, reply.errcode) == (400, "M_EMAIL_SEND_ERROR")
    for table in ("validation_sessions", "validation_tokens", "jobs"):
        assert server.count(table) == 0


async def test_refused_reminder_leaves_the_session_as_it_was(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com", next_link="https://a.example/")).json["sid"]
    token = server.mail.last_token
    server.mail.answers.append(DeliveryRefused("RCPT: 550"))
    refused = await server.request_token(alice, "alice@example.com", attempt=2, next_link="https://b.example/")
    assert refused.errcode == "M_EMAIL_SEND_ERROR"
    assert server.count("validation_tokens") == 1
    again = await server.request_token(alice, "alice@example.com", attempt=2)
    assert (again.status, again.json["sid"]) == (200, sid)
    assert len(server.mail.sent) == 2, "attempt 2 counts as not made, so it is made now"
    assert (await server.submit(alice, sid, token)).status == 200


async def test_postponed_mail_is_tried_again_with_the_same_message_id(server: Harness, alice: User) -> None:
    server.mail.answers.append(DeliveryPostponed("connect: refused"))
    assert (await server.request_token(alice, "alice@example.com")).status == 200
    assert server.mail.sent == []
    await server.system.runner.run_until_idle()
    assert server.mail.sent == [], "not before its time"
    server.clock.advance(seconds=30)
    await server.system.runner.run_until_idle()
    (mail,) = server.mail.sent
    assert mail.message_id.endswith("@id.example.org>")
    assert server.count("jobs") == 0


async def test_slow_relay_does_not_hold_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        server.system.runner._patience_seconds = 0.05
        relay = asyncio.Event()
        server.mail.answers.append(relay.wait())  # type: ignore[arg-type]  # awaited all the same
        assert (await server.request_token(alice, "alice@example.com")).status == 200
        assert server.count("jobs") == 1
        relay.set()
        await server.system.runner.run_until_idle()
        assert len(server.mail.sent) == 1
        assert server.count("jobs") == 0


async def test_mail_survives_a_crash_before_its_delivery(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        server.mail.answers.append(DeliveryPostponed("connect: refused"))
        sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
        clock_ms = server.clock.ms
    async with running(tmp_path) as server:
        server.clock.ms = clock_ms
        server.clock.advance(minutes=2)
        await server.system.runner.run_until_idle()
        assert (await server.submit(alice, sid)).status == 200


# --- limits -------------------------------------------------------------------------------


def limited(reply: object) -> bool:
    return (reply.status, reply.errcode) == (429, "M_LIMIT_EXCEEDED")  # type: ignore[attr-defined]


async def test_account_asks_for_five_mails_and_then_one_every_five_minutes(server: Harness, alice: User) -> None:
    for number in range(5):
        assert (await server.request_token(alice, f"a{number}@example.com")).status == 200
    reply = await server.request_token(alice, "a5@example.com")
    assert limited(reply)
    assert reply.json["retry_after_ms"] == 300_000
    repeat = await server.request_token(alice, "a0@example.com")
    assert repeat.status == 200, "a repeat sends nothing and costs nothing"
    server.clock.advance(minutes=5)
    assert (await server.request_token(alice, "a5@example.com")).status == 200


async def test_limit_holds_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        for number in range(5):
            await server.request_token(alice, f"a{number}@example.com")
    async with running(tmp_path) as server:
        assert limited(await server.request_token(alice, "a5@example.com"))


async def test_address_gets_five_mails_a_day_from_one_account_and_twenty_in_all(tmp_path: Path) -> None:
    lenient = {"EMAIL__EMAIL_RATELIMIT_SENDER_BURST": "1000"}
    async with running(tmp_path, settings=lenient) as server:
        for number in range(4):
            user = await server.register(f"@user{number}:example.org")
            for attempt in range(1, 6):
                assert (await server.request_token(user, "x@example.com", attempt=attempt)).status == 200
            assert limited(await server.request_token(user, "x@example.com", attempt=6))
            assert (await server.request_token(user, f"other{number}@example.com")).status == 200
        last = await server.register("@last:example.org")
        assert limited(await server.request_token(last, "x@example.com"))
        server.clock.advance(hours=24)
        assert (await server.request_token(last, "x@example.com")).status == 200


async def test_account_has_fifty_open_sessions(tmp_path: Path) -> None:
    lenient = {"EMAIL__EMAIL_RATELIMIT_SENDER_BURST": "1000"}
    async with running(tmp_path, settings=lenient) as server:
        alice = await server.register()
        for number in range(50):
            assert (await server.request_token(alice, f"a{number}@example.com")).status == 200
        assert limited(await server.request_token(alice, "a50@example.com"))


# --- pages --------------------------------------------------------------------------------

CONFIRM = "/_matrix/identity/confirm"


async def test_looking_at_the_confirm_page_changes_nothing(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
    page = await server.get(f"{CONFIRM}?token={server.mail.last_token}")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    for shown in (b"alice@example.com", ALICE.encode()):
        assert shown in page.body
    assert await validated_threepid(server, alice, sid) == (400, "M_SESSION_NOT_VALIDATED")

    done = await server.post(CONFIRM, data={"token": server.mail.last_token, "lang": "fr"})
    assert done.status == 200
    assert b'lang="fr"' in done.body
    assert (await validated_threepid(server, alice, sid))[0] == 200
    twice = await server.post(CONFIRM, data={"token": server.mail.last_token})
    assert twice.status == 200


async def test_link_that_is_no_good_shows_a_page(server: Harness, alice: User) -> None:
    await server.request_token(alice, "alice@example.com")
    for reply in (
        await server.get(f"{CONFIRM}?token=wrong"),
        await server.get(CONFIRM),
        await server.post(CONFIRM, data={"token": "wrong"}),
        await server.get("validate/email/submitToken?sid=1&client_secret=a&token=b"),
        await server.get("validate/email/submitToken"),
    ):
        assert reply.status == 400
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
    server.clock.advance(hours=24)
    assert (await server.get(f"{CONFIRM}?token={server.mail.last_token}")).status == 400


async def test_link_of_the_specification_validates_at_once(server: Harness, alice: User) -> None:
    sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
    query = f"sid={sid}&client_secret={SECRET}&token={server.mail.last_token}"
    assert (await server.get(f"validate/email/submitToken?{query}")).status == 200
    assert (await validated_threepid(server, alice, sid))[0] == 200


@pytest.mark.parametrize("by", ["link", "button"])
async def test_next_link_is_followed(server: Harness, alice: User, by: str) -> None:
    target = "https://app.example.com/done?x=1"
    sid = (await server.request_token(alice, "alice@example.com", next_link=target)).json["sid"]
    token = server.mail.last_token
    if by == "link":
        reply = await server.get(f"validate/email/submitToken?sid={sid}&client_secret={SECRET}&token={token}")
        assert reply.status == 302
    else:
        page = await server.get(f"{CONFIRM}?token={token}")
        assert b"app.example.com" in page.body
        assert "form-action 'self' https://app.example.com" in page.headers["Content-Security-Policy"]
        reply = await server.post(CONFIRM, data={"token": token})
        assert reply.status == 303
    assert reply.headers["Location"] == target


@pytest.mark.parametrize("link", ["javascript:alert(1)", "file:///etc/passwd", "element://done", "https://", "//x"])
async def test_next_link_that_is_no_web_address_is_left_out(server: Harness, alice: User, link: str) -> None:
    sid = (await server.request_token(alice, "alice@example.com", next_link=link)).json["sid"]
    query = f"sid={sid}&client_secret={SECRET}&token={server.mail.last_token}"
    assert (await server.get(f"validate/email/submitToken?{query}")).status == 200


async def test_next_link_to_a_host_that_is_not_listed_is_named_instead(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"GENERAL__NEXT_LINK_DOMAIN_WHITELIST": "good.example"}) as server:
        alice = await server.register()
        for host, status in (("good.example", 303), ("bad.example", 200)):
            link = f"https://{host}/done"
            await server.request_token(alice, "alice@example.com", secret=host, next_link=link)
            reply = await server.post(CONFIRM, data={"token": server.mail.last_token})
            assert reply.status == status
            assert (reply.headers.get("Location") == link) is (status == 303)
        assert b"bad.example" in reply.body


# --- brands -------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def branded(tmp_path: Path) -> AsyncIterator[Harness]:
    """A server with a brand beside its default one, which is called `ours`."""
    for name, title in (("ours", "Ours"), ("shop", "The Shop")):
        (tmp_path / "res" / name).mkdir(parents=True)
        (tmp_path / "res" / name / "brand.toml").write_text(f'name = "{title}"')
    settings = {"GENERAL__TEMPLATES_PATH": str(tmp_path / "res"), "GENERAL__BRAND_DEFAULT": "ours"}
    async with running(tmp_path, settings=settings) as server:
        yield server


async def mailed_link(server: Harness, brand: str | None, *, secret: str = SECRET) -> str:
    """The path and query of the link in a mail that was asked for in a brand."""
    body = {"client_secret": secret, "email": "alice@example.com", "send_attempt": 1}
    query = "" if brand is None else f"?{urlencode({'brand': brand})}"
    assert (await server.post(f"validate/email/requestToken{query}", body, as_=await server.register())).status == 200
    link = urlsplit(server.mail.sent[-1].variables["confirm_url"])
    return f"{link.path}?{link.query}"


def dress_of(reply: Reply) -> str:
    """The brand that a page shows."""
    found = re.search(r"<title>.+ [^\w\s] (.+)</title>", reply.body.decode())
    assert found is not None
    return found[1]


async def test_the_brand_of_a_mail_is_kept_to_the_end(branded: Harness) -> None:
    link = await mailed_link(branded, "shop")
    assert link == f"{CONFIRM}?token={branded.mail.last_token}&brand=shop"
    page = await branded.get(link, headers={"Accept-Language": "en"})
    assert (page.status, dress_of(page)) == (200, "The Shop")
    urls = re.findall(r'(?:href|action)="([^"]+)"', page.body.decode())
    assert [url for url in urls if "brand=shop" not in url] == []
    (button,) = re.findall(r'action="([^"]+)"', page.body.decode())
    done = await branded.post(
        f"{CONFIRM.rpartition('/')[0]}/{button}", data={"token": branded.mail.last_token, "lang": "en"}
    )
    assert (done.status, dress_of(done)) == (200, "The Shop")
    assert b"is confirmed" in done.body
    wrong = await branded.get(f"{CONFIRM}?token=wrong&brand=shop")
    assert (wrong.status, dress_of(wrong)) == (400, "The Shop")


async def test_a_mail_in_the_default_brand_has_a_link_without_one(branded: Harness) -> None:
    for number, brand in enumerate([None, "ours", "nobody", 'no"body&x=y']):
        link = await mailed_link(branded, brand, secret=f"{SECRET}{number}")
        assert link == f"{CONFIRM}?token={branded.mail.last_token}", brand
        assert dress_of(await branded.get(link)) == "Ours"


async def test_a_link_without_a_brand_of_ours_leads_to_the_default_one(branded: Harness) -> None:
    """Those of mails that were sent before links had brands, or before a brand was given up."""
    for number, query in enumerate(["", "&brand=nobody", "&brand=", "&brand=../shop"]):
        link = (await mailed_link(branded, "shop", secret=f"{SECRET}{number}")).removesuffix("&brand=shop") + query
        page = await branded.get(link)
        assert (page.status, dress_of(page)) == (200, "Ours"), query
        assert "brand=" not in page.body.decode()
        done = await branded.post(
            CONFIRM + query.replace("&", "?"), data={"token": branded.mail.last_token, "lang": "en"}
        )
        assert (done.status, dress_of(done)) == (200, "Ours"), query
