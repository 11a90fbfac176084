"""The privacy page: people see what is held about their address, take it along, and take it away."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from identity_server.domain.audit import AuditEvent, Subject
from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.domain.ports import DeliveryPostponed
from identity_server.storage.database import Transaction
from tests.flows.test_at_rest import everything_in, forms
from tests.flows.test_invites import invite, settle
from tests.flows.test_statements import all_statements
from tests.support.databases import read_everything
from tests.support.harness import SECRET, Fakes, Harness, Reply, User, running

PAGE = "/_matrix/identity/privacy"
EMAIL = "alice@example.com"
STRANGER = "nobody.here@example.com"
BEHIND_A_PROXY = {"HTTP__TRUSTED_PROXIES": "127.0.0.1"}


@pytest.fixture
async def telling(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path, settings={"EMAIL__EMAIL_NOTICES": "true"}) as harness:
        yield harness


async def ask(server: Harness, email: str = EMAIL, *, network: str | None = None, **fields: str) -> Reply:
    """Enter an address on the page, as a browser does."""
    headers = {} if network is None else {"X-Forwarded-For": network}
    reply = await server.post(PAGE, data={"email": email, "lang": "en", **fields}, headers=headers)
    await settle(server)
    return reply


def visits_mailed(server: Harness) -> list[str]:
    """The tokens of the links that were mailed."""
    urls = [mail.variables["open_url"] for mail in server.mail.sent if mail.template == "privacy"]
    return [parse_qs(urlsplit(url).query)["token"][0] for url in urls]


async def token_for(server: Harness, email: str = EMAIL) -> str:
    """Ask, and take the token from the mail."""
    assert (await ask(server, email)).status == 200
    return visits_mailed(server)[-1]


async def press(server: Harness, button: str, token: str, **fields: str) -> Reply:
    """Press a button of the page: its form shows the token and nothing else."""
    return await server.post(f"{PAGE}/{button}", data={"token": token, "lang": "en", **fields})


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)


def text_of(reply: Reply) -> str:
    """What a reader sees."""
    parser = _Text()
    parser.feed(reply.body.decode())
    return " ".join(" ".join(parser.pieces).split())


def buttons_of(reply: Reply) -> list[str]:
    """Where the forms of a page lead, relative to it."""
    return [unescape(each) for each in re.findall(r'<form method="post" action="([^"]*)"', reply.body.decode())]


async def test_owner_sees_the_binding_and_removes_it(telling: Harness) -> None:
    alice, bob = await telling.register(), await telling.register("@bob:elsewhere.example")
    await telling.bound(alice, EMAIL)
    await settle(telling)
    token = await token_for(telling)
    opened = await telling.get(f"{PAGE}/open?token={token}")
    assert opened.status == 200
    assert buttons_of(opened) == ["open"]
    assert alice.user_id not in text_of(opened), "the page behind the link shows nothing before its button is pressed"
    shown = await press(telling, "open", token)
    assert shown.status == 200
    assert f"Matrix ID {alice.user_id} Since 15 June 2025 at 15:06 UTC" in text_of(shown)
    assert buttons_of(shown) == ["show", "remove", "download", "refuse"]
    assert await telling.find(bob, EMAIL) == alice.user_id, "looking changes nothing"

    removed = await press(telling, "remove", token)
    await settle(telling)
    assert "Done: this address leads to no Matrix account any more." in text_of(removed)
    assert "No Matrix account is connected with this address here." in text_of(removed)
    assert await telling.find(bob, EMAIL) is None
    assert telling.mail.sent[-1].template == "unbound"
    assert telling.mail.sent[-1].variables == {"address": EMAIL, "user_id": alice.user_id}
    again = await press(telling, "remove", token)
    await settle(telling)
    assert again.status == 200, "pressing twice does no harm"
    assert [mail.template for mail in telling.mail.sent].count("unbound") == 1


async def test_answer_and_mail_are_the_same_whether_the_address_is_known_or_not(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    await settle(server)
    known, unknown = await ask(server, EMAIL), await ask(server, STRANGER)
    assert (known.status, known.headers["Content-Security-Policy"]) == (
        unknown.status,
        unknown.headers["Content-Security-Policy"],
    )
    assert known.body.replace(EMAIL.encode(), b"") == unknown.body.replace(STRANGER.encode(), b"")
    mails = server.mail.sent[-2:]
    assert [mail.template for mail in mails] == ["privacy", "privacy"]
    assert mails[0].variables.keys() == mails[1].variables.keys() == {"address", "open_url", "expires_at_ms"}
    shown = await press(server, "open", visits_mailed(server)[-1])
    assert "No Matrix account is connected with this address here." in text_of(shown)
    assert "No invitation waits for this address." in text_of(shown)


async def test_no_statement_of_asking_looks_at_what_is_held(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    for email in (EMAIL, STRANGER):
        # Whether the mailbox had any mail today is counted, and may be seen; what is held about it may not.
        await ask(server, email)
    seen = []
    for email in (EMAIL, STRANGER):
        with all_statements(server) as statements:
            await server.post(PAGE, data={"email": email, "lang": "en"})
            # Until the mail is out; `settle` looks for more to do as often as it has to wait.
            await server.system.runner.close()
        seen.append([re.sub(r"\s+", " ", each) for each in statements])
    assert seen[0] == seen[1]
    assert not [each for each in seen[0] if re.search("associations|invites|validation|refused", each)]


async def test_link_that_a_scanner_follows_changes_nothing(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    token = await token_for(server)
    before = read_everything(server.config.db.file)
    for _ in range(10):
        reply = await server.get(f"{PAGE}/open?token={token}")
        assert reply.status == 200
        assert (await server.request("HEAD", f"{PAGE}/open?token={token}")).status == 200
        for button in ("remove", "refuse", "allow", "download"):
            assert (await server.get(f"{PAGE}/{button}?token={token}")).status == 405
    assert read_everything(server.config.db.file) == before
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "form-action 'self'" in reply.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in reply.headers


async def test_made_up_token_waits_for_nobody_who_writes(server: Harness) -> None:
    """Else whoever sends many keeps those who write from sharing a commit."""
    writes, is_done = asyncio.Event(), asyncio.Event()

    async def write_for_long(_tx: Transaction) -> None:
        writes.set()
        await is_done.wait()

    writing = asyncio.create_task(server.system.database.transaction(write_for_long, bulk=True))
    await writes.wait()
    try:
        async with asyncio.timeout(60):
            replies = [await press(server, button, "A" * 43) for button in ("remove", "refuse", "allow")]
    finally:
        is_done.set()
        await writing
    assert [reply.status for reply in replies] == [400] * 3


async def test_link_is_good_for_an_hour_and_for_nothing_else(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    validation_token = server.mail.last_token
    token = await token_for(server)
    assert len(token) == 43
    assert (await server.get(f"/_matrix/identity/confirm?token={token}")).status == 400
    for wrong in (validation_token, token[:-1], token + "A", "A" * 43, "", "\0", "x" * 300):
        for reply in (
            await server.get(f"{PAGE}/open", params={"token": wrong}),
            await press(server, "open", wrong),
            await press(server, "remove", wrong),
            await press(server, "refuse", wrong),
            await press(server, "download", wrong, form="json"),
        ):
            assert reply.status == 400, wrong
            assert "This link does not work" in text_of(reply)
    server.clock.advance(minutes=59)
    assert (await press(server, "open", token)).status == 200
    server.clock.advance(minutes=1)
    for button in ("open", "remove", "refuse", "allow"):
        assert "This link does not work" in text_of(await press(server, button, token))
    assert await server.find(alice, EMAIL) == alice.user_id


async def test_nothing_stays_of_a_visit(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        token = await token_for(server, STRANGER)
        live = everything_in(server.config.db.file)
        assert server.count("visits") == 1
        server.clock.advance(hours=1)
        await server.system.upkeep.run_due()
        assert server.count("visits") == 0
        assert server.count("jobs") == 0
    afterwards = everything_in(server.config.db.file)
    for secret in (STRANGER, token):
        for form in forms(secret):
            assert form not in live
            assert form not in afterwards


async def test_invites_and_confirmations_are_shown(server: Harness, alice: User, bob: User) -> None:
    assert (await invite(server, alice, EMAIL, guest_access_token="a-guest-token")).status == 200
    assert (await server.request_token(bob, EMAIL)).status == 200
    token = await token_for(server)
    shown = text_of(await press(server, "open", token))
    assert f"From {alice.user_id} ( Alice ) Room The garden" in shown
    assert f"Matrix ID {bob.user_id} Asked" in shown
    assert "Confirmed not yet" in shown


async def test_owner_says_who_may_find_them(server: Harness, alice: User, bob: User) -> None:
    colleague = await server.register("@colleague:example.org")
    await server.bound(alice, EMAIL)
    token = await token_for(server)
    for choice, finders in (("homeserver", {colleague}), ("nobody", set()), ("everyone", {colleague, bob})):
        shown = await press(server, "show", token, visibility=choice)
        assert "Done: your choice holds from now on." in text_of(shown)
        assert f'value="{choice}" checked' in shown.body.decode()
        assert shown.body.count(b" checked") == 1
        found = {user for user in (colleague, bob) if await server.find(user, EMAIL) == alice.user_id}
        assert found == finders
        data = await press(server, "download", token, form="json")
        assert json.loads(data.body)["binding"]["visibility"] == choice
    assert (await press(server, "show", token, visibility="somebody")).status == 400
    await press(server, "remove", token)
    assert (await press(server, "show", token, visibility="nobody")).status == 200, "there is nothing to hide"


async def test_what_strangers_wrote_is_text(server: Harness, alice: User) -> None:
    evil = "<script>alert(1)</script>"
    assert (await invite(server, alice, EMAIL, room_name=evil, sender_display_name=evil)).status == 200
    token = await token_for(server)
    for reply in (await press(server, "open", token), await press(server, "download", token, form="html")):
        assert evil.encode() not in reply.body
        assert evil in text_of(reply)


async def test_download_holds_all_of_it_and_nothing_that_opens_anything(
    server: Harness, alice: User, bob: User
) -> None:
    await server.bound(alice, EMAIL)
    other = "bob@example.com"
    await server.bound(bob, other, secret="bobs-secret")
    assert (await invite(server, bob, "carol@example.com", guest_access_token="a-guest-token")).status == 200
    invite_mail = server.mail.sent[-1].variables
    carol, token = await token_for(server, "carol@example.com"), await token_for(server)

    data = await press(server, "download", token, form="json")
    assert data.headers["Content-Disposition"] == 'attachment; filename="identity-server-data.json"'
    assert data.headers["Content-Type"].startswith("application/json")
    held = json.loads(data.body)
    assert held["identity_server"] == "id.example.org"
    assert (held["medium"], held["address"]) == ("email", EMAIL)
    assert held["binding"] == {
        "mxid": alice.user_id,
        "since": "2025-06-15T15:06:40.000Z",
        "visibility": "everyone",
        "valid_until": "2125-05-22T15:06:40.000Z",
    }
    assert held["invites"] == []
    assert [each["requested_by"] for each in held["confirmations"]] == [alice.user_id]
    assert len(held["visits"]) == 1
    assert held["left_alone_since"] is None

    document = await press(server, "download", token, form="html")
    assert document.headers["Content-Disposition"] == 'attachment; filename="identity-server-data.html"'
    assert alice.user_id in text_of(document)
    assert b"<form" not in document.body
    for file in (data, document):
        for secret in (bob.user_id, other, token, carol, SECRET, alice.token):
            assert secret.encode() not in file.body

    for form in ("json", "html"):
        file = await press(server, "download", carol, form=form)
        assert bob.user_id.encode() in file.body
        assert b"The garden" in file.body
        for secret in ("a-guest-token", invite_mail["token"], invite_mail["ephemeral_private_key"], alice.user_id):
            assert secret.encode() not in file.body
    assert (await press(server, "download", token, form="exe")).status == 400


# --- left alone ---------------------------------------------------------------------------


async def denied(reply: Reply) -> bool:
    return (reply.status, reply.errcode) == (403, "M_THREEPID_DENIED")


async def test_refused_address_is_neither_bound_nor_invited(telling: Harness) -> None:
    server, alice = telling, await telling.register()
    bob = await server.register("@bob:elsewhere.example")
    sid = await server.bound(alice, EMAIL)
    await settle(server)
    token = await token_for(server)
    shown = await press(server, "refuse", token)
    await settle(server)
    assert "Done: from now on, this address is left alone here." in text_of(shown)
    assert buttons_of(shown) == ["download", "allow"]
    assert await server.find(bob, EMAIL) is None
    assert server.mail.sent[-1].template == "unbound"

    assert (await server.bind(alice, sid)).errcode == "M_SESSION_EXPIRED"
    assert await denied(await server.request_token(bob, EMAIL))
    assert await denied(await invite(server, bob, EMAIL))
    async with server.internally() as internal:
        body = {"medium": "email", "address": EMAIL.upper(), "mxid": bob.user_id}
        assert await denied(await internal.post("/_matrix/identity/internal/bind", body))
    assert server.count("associations") == server.count("invites") == 0

    allowed = await press(server, "allow", token)
    assert "Done: this address may be used here again." in text_of(allowed)
    assert buttons_of(allowed) == ["download", "refuse"]
    await server.bound(bob, EMAIL, secret="another")
    assert await server.find(alice, EMAIL) == bob.user_id


async def test_proof_from_before_binds_nothing(server: Harness, alice: User) -> None:
    token = await token_for(server)
    sid = await server.validated(alice, EMAIL)
    await press(server, "refuse", token)
    assert (await server.bind(alice, sid)).status == 400
    await press(server, "allow", token)
    assert (await server.bind(alice, sid)).status == 400, "what was under way before is over for good"


async def test_invites_of_a_refused_address_are_gone_with_their_keys_and_mails(server: Harness, alice: User) -> None:
    server.mail.answers.append(DeliveryPostponed("connect: refused"))
    stored = await invite(server, alice, EMAIL)
    server.mail.answers.append(DeliveryPostponed("connect: refused"))
    assert (await server.request_token(alice, EMAIL)).status == 200
    assert server.mail.sent == []
    key = {"public_key": stored.json["public_keys"][1]["public_key"]}
    assert (await server.get("pubkey/ephemeral/isvalid", params=key)).json == {"valid": True}
    token = await token_for(server)
    await press(server, "refuse", token)
    assert server.count("invites") == 0
    assert (await server.get("pubkey/ephemeral/isvalid", params=key)).json == {"valid": False}
    server.clock.advance(hours=1)
    await settle(server)
    assert [mail.template for mail in server.mail.sent] == ["privacy"]
    assert server.count("jobs") == 0


async def test_homeserver_that_was_down_hears_nothing_of_a_refused_address(server: Harness, alice: User) -> None:
    bob = await server.register("@bob:elsewhere.example")
    await invite(server, bob, EMAIL)
    server.homeservers.notices.answers.append(DeliveryPostponed("HTTP status 503"))
    await server.bound(alice, EMAIL)
    await settle(server)
    await press(server, "refuse", await token_for(server))
    server.clock.advance(hours=1)
    await settle(server)
    assert server.homeservers.notices.delivered == []
    assert server.count("jobs") == server.count("invites") == 0


async def test_waiting_mails_of_others_go_on(server: Harness, alice: User) -> None:
    server.mail.answers.append(DeliveryPostponed("connect: refused"))
    await invite(server, alice, "carol@example.com")
    await press(server, "refuse", await token_for(server))
    server.clock.advance(hours=1)
    await settle(server)
    assert sorted(mail.template for mail in server.mail.sent) == ["invite", "privacy"]


async def test_of_a_refused_address_a_digest_stays_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        alice = await server.register()
        await server.bound(alice, EMAIL)
        await invite(server, alice, "carol@example.com")
        for address in (EMAIL, "carol@example.com"):
            await press(server, "refuse", await token_for(server, address))
        server.clock.advance(days=3)
        await server.system.upkeep.run_due()
        await server.system.upkeep.run_due()
        assert [server.count(each) for each in ("associations", "invites", "validation_sessions", "visits")] == [
            0
        ] * 4
        assert server.count("refused_addresses") == 2
        assert all(len(row[0]) == 32 for row in server.rows("SELECT address_digest FROM refused_addresses"))
        assert await denied(await server.request_token(alice, EMAIL))
    afterwards = everything_in(server.config.db.file)
    for form in forms(EMAIL):
        assert form not in afterwards


async def test_asking_which_addresses_are_refused_is_not_free(server: Harness, alice: User) -> None:
    await press(server, "refuse", await token_for(server))
    replies = [await server.request_token(alice, EMAIL, attempt=number) for number in range(1, 4)]
    replies += [await invite(server, alice, EMAIL) for _ in range(3)]
    assert [reply.status for reply in replies] == [403] * 5 + [429]
    server.clock.advance(days=1)
    assert len(visits_mailed(server)) == 1
    await token_for(server)
    assert len(visits_mailed(server)) == 2, "whoever asks takes no mail from the owner of the address"


async def test_refused_number_gets_no_code(server: Harness, alice: User) -> None:
    threepid = Threepid(Medium.MSISDN, "447700900123")
    await server.system.database.transaction(lambda tx: tx.refusals.add(threepid, now_ms=server.clock.ms))
    body = {"client_secret": SECRET, "country": "GB", "phone_number": "07700 900123", "send_attempt": 1}
    replies = [await server.post("validate/msisdn/requestToken", body, as_=alice) for _ in range(6)]
    assert [reply.errcode for reply in replies[:1]] == ["M_THREEPID_DENIED"]
    assert replies[-1].errcode == "M_LIMIT_EXCEEDED", "being told counts like a text"
    assert server.sms.sent == []


async def test_what_was_done_is_in_the_journal(server: Harness, alice: User) -> None:
    await server.bound(alice, EMAIL)
    token = await token_for(server)
    for button in ("refuse", "refuse", "allow", "allow", "remove"):
        await press(server, button, token)
    threepid = Threepid(Medium.EMAIL, EMAIL)
    expected: dict[AuditEvent, tuple[Subject, ...]] = {
        AuditEvent.ADDRESS_REFUSED: (threepid,),
        AuditEvent.ADDRESS_ALLOWED: (threepid,),
        AuditEvent.UNBOUND: (threepid, UserId(alice.user_id)),
    }

    async def check(tx: Transaction) -> None:
        for event, subjects in expected.items():
            (entry,) = await tx.audit.list(event)
            assert all(tx.audit.is_about(entry, subject) for subject in subjects)

    await server.system.database.read(check)


# --- limits -------------------------------------------------------------------------------


async def test_nobody_is_buried_in_links(tmp_path: Path) -> None:
    """One network gets three through in a day, all of them five; and none of that is told."""
    async with running(tmp_path, settings=BEHIND_A_PROXY) as server:
        for number in range(1, 13):
            for email in (EMAIL, f"a.l.i.c.e+{number}@example.com"):
                reply = await ask(server, email, network=f"198.51.{number // 4}.7")
                assert reply.status == 200
            if number == 2:
                assert len(visits_mailed(server)) == 3
            server.clock.advance(minutes=20)
        assert len(visits_mailed(server)) == 5
        server.clock.advance(days=1)
        await ask(server)
        assert len(visits_mailed(server)) == 6


async def test_who_asks_too_often_locks_nobody_out_of_binding(tmp_path: Path) -> None:
    settings = {**BEHIND_A_PROXY, "EMAIL__EMAIL_RATELIMIT_ADDRESS_PER_DAY": "4"}
    settings["EMAIL__EMAIL_RATELIMIT_ADDRESS_PER_ACCOUNT_AND_DAY"] = "3"
    async with running(tmp_path, settings=settings) as server:
        for day in range(4):
            for number in range(5):
                await ask(server, network=f"198.51.{day * 10 + number}.7")
            server.clock.advance(hours=24)
        for number in range(5):
            await ask(server, network=f"203.0.{number}.7")
        alice = await server.register()
        assert (await server.request_token(alice, EMAIL)).status == 200
        assert (await server.request_token(alice, EMAIL, attempt=2)).status == 200


async def test_whoever_gets_too_many_mails_can_still_ask_to_be_left_alone(server: Harness) -> None:
    for number in range(20):
        user = await server.register(f"@user{number}:example.org")
        assert (await invite(server, user, f"a.l.i.c.e+{number}@example.com")).status == 200
        server.clock.advance(seconds=2)
    full = await server.request_token(user, EMAIL)
    assert (full.status, full.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert (await press(server, "refuse", await token_for(server))).status == 200
    server.clock.advance(days=1)
    assert (await invite(server, user, EMAIL)).errcode == "M_THREEPID_DENIED"


async def test_network_that_asks_for_many_addresses_is_stopped(tmp_path: Path) -> None:
    async with running(tmp_path, settings=BEHIND_A_PROXY) as server:
        replies = [await ask(server, f"user{number}@example.com", network="198.51.100.7") for number in range(11)]
        assert [reply.status for reply in replies] == [200] * 10 + [429]
        assert int(replies[-1].headers["Retry-After"]) == 360
        assert "Too many attempts" in text_of(replies[-1])
        assert (await ask(server, network="203.0.113.7")).status == 200


async def test_form_on_a_strangers_site_asks_for_nothing(server: Harness) -> None:
    for site, status in (("cross-site", 403), ("same-site", 200), ("same-origin", 200), ("none", 200)):
        reply = await server.post(PAGE, data={"email": EMAIL}, headers={"Sec-Fetch-Site": site})
        assert reply.status == status
    await settle(server)
    assert len(visits_mailed(server)) == 3


# --- the form -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed", ["", "alice", "alice@", '"><script>@x', "a@b\u202e.example", "x" * 600 + "@a.example"]
)
async def test_what_is_no_address_is_said_so_on_the_form(server: Harness, typed: str) -> None:
    reply = await ask(server, typed)
    assert reply.status == 400
    assert "This is not a complete email address." in text_of(reply)
    assert "<script" not in reply.body.decode()
    assert server.mail.sent == []


async def test_page_leads_to_the_terms_in_the_readers_language(tmp_path: Path) -> None:
    terms = Path(__file__).parents[2] / "terms"
    async with running(tmp_path, settings={"GENERAL__TERMS_PATH": str(terms)}) as server:
        page = (await server.get(PAGE, headers={"Accept-Language": "fr"})).body.decode()
        assert 'href="https://id.example.org/_matrix/identity/terms/privacy_policy/' in page
        assert page.count('/fr"') == 2
        policy = await server.get(
            re.findall(r'href="https://id.example.org(/_matrix/identity/terms/[^"]*)"', page)[0]
        )
        assert b'href="https://id.example.org/_matrix/identity/privacy"' in policy.body


async def test_chosen_language_goes_along(server: Harness) -> None:
    page = await server.get(f"{PAGE}?lang=de", headers={"Accept-Language": "fr"})
    assert "Ihre Daten auf diesem Server" in text_of(page)
    assert b'<input type="hidden" name="lang" value="de">' in page.body
    sent = await server.post(PAGE, data={"email": EMAIL, "lang": "de"}, headers={"Accept-Language": "fr"})
    assert "Sehen Sie in Ihr Postfach" in text_of(sent)
    await settle(server)
    mail = server.mail.sent[-1]
    assert mail.language[0] == "de"
    path = urlsplit(mail.variables["open_url"])
    opened = await server.get(f"{path.path}?{path.query}", headers={"Accept-Language": "fr"})
    assert opened.headers["Content-Language"] == "de"
    shown = await press(server, "open", visits_mailed(server)[-1], lang="de")
    assert "Was über Ihre Adresse gespeichert ist" in text_of(shown)


async def test_a_brand_that_was_asked_for_is_kept_to_the_end(tmp_path: Path) -> None:
    shop = tmp_path / "res" / "shop"
    shop.mkdir(parents=True)
    (shop / "brand.toml").write_text('name = "The Shop"')
    async with running(tmp_path, settings={"GENERAL__TEMPLATES_PATH": str(shop.parent)}) as server:

        def page_of(reply: Reply) -> Reply:
            assert reply.status in {200, 400}
            assert " The Shop</title>" in reply.body.decode()
            # Nothing on it leads to a page in another dress.
            urls = re.findall(r'(?:href|action)="([^"]+)"', reply.body.decode())
            assert urls
            assert [url for url in urls if "brand=shop" not in url] == []
            return reply

        asked = page_of(await server.get(f"{PAGE}?brand=shop&lang=en"))
        page_of(await server.get(f"{PAGE}/retention?brand=shop"))
        to, by_phone = buttons_of(asked)
        base = f"{PAGE.rpartition('/')[0]}/"
        page_of(await server.post(base + to, data={"email": "nobody", "lang": "en"}))
        page_of(await server.post(base + to, data={"email": EMAIL, "lang": "en"}))
        await settle(server)
        mail = server.mail.sent[-1]
        assert mail.brand == "shop"
        link = urlsplit(mail.variables["open_url"])
        opened = page_of(await server.get(f"{link.path}?{link.query}"))
        (button,) = buttons_of(opened)
        page_of(await server.post(f"{PAGE}/{button}", data={"token": parse_qs(link.query)["token"][0], "lang": "en"}))
        page_of(await server.post(base + by_phone, data={"number": "+447700900123", "lang": "en"}))
        other = await server.get(f"{PAGE}?brand=nobody%22%3E&lang=en")
        assert "brand=" not in other.body.decode(), "there is no such brand"


async def test_brand_of_sydent_is_no_hindrance(tmp_path: Path) -> None:
    """The operator worded no such mail; but somebody has asked for it, and has a right to the answer."""
    brand = tmp_path / "res" / "matrix-org"
    brand.mkdir(parents=True)
    headers = "To: {{ to|safe }}\nFrom: {{ from|safe }}\nSubject: x\nContent-Type: text/plain\n\n"
    (brand / "verification_template.eml.j2").write_text(headers + "{{ link }}\n")
    async with running(tmp_path, settings={"GENERAL__TEMPLATES_PATH": str(brand.parent)}) as server:
        assert (await press(server, "open", await token_for(server))).status == 200


# --- phone numbers ------------------------------------------------------------------------

NUMBER = "+44 7700 900123"
MSISDN = "447700900123"
PHONE = Threepid(Medium.MSISDN, MSISDN)


async def ask_by_phone(server: Harness, number: str = NUMBER, *, network: str | None = None, **fields: str) -> Reply:
    headers = {} if network is None else {"X-Forwarded-For": network}
    reply = await server.post(f"{PAGE}/phone", data={"number": number, "lang": "en", **fields}, headers=headers)
    await settle(server)
    return reply


def token_in(reply: Reply) -> str:
    """The token in the forms of a page."""
    found = re.search(r'name="token" value="([^"]+)"', reply.body.decode())
    assert found is not None
    return found[1]


async def bound_number(server: Harness, user: User) -> None:
    body = {"client_secret": SECRET, "country": "GB", "phone_number": NUMBER, "send_attempt": 1}
    sid = (await server.post("validate/msisdn/requestToken", body, as_=user)).json["sid"]
    proof = {"sid": sid, "client_secret": SECRET, "token": server.sms.last_code}
    assert (await server.post("validate/msisdn/submitToken", proof, as_=user)).status == 200
    assert (await server.bind(user, sid)).status == 200
    await settle(server)


def wrong_code(server: Harness) -> str:
    return f"{(int(server.sms.last_code) + 1) % 1_000_000:06}"


async def is_bound(server: Harness) -> bool:
    return await server.system.database.read(lambda tx: tx.associations.find(PHONE)) is not None


async def test_owner_of_a_number_enters_a_code(server: Harness, alice: User) -> None:
    await bound_number(server, alice)
    asked = await ask_by_phone(server)
    assert asked.status == 200
    assert buttons_of(asked) == ["code"]
    assert server.sms.sent[-1].to == MSISDN
    expected = f"{server.sms.last_code} is the code to see what id.example.org holds about this number."
    assert server.sms.sent[-1].body == f"{expected}\n\n@id.example.org #{server.sms.last_code}"
    token = token_in(asked)
    for button in ("open", "remove", "refuse", "download"):
        reply = await press(server, button, token, form="json")
        assert reply.status == 400, "the token alone opens nothing yet"
    wrong = await press(server, "code", token, code=wrong_code(server))
    assert wrong.status == 400
    assert "This code is wrong." in text_of(wrong)
    shown = await press(server, "code", token, code=f" {server.sms.last_code} ")
    assert shown.status == 200
    assert f"Phone number + {MSISDN}".replace("+ ", "+") in text_of(shown)
    assert alice.user_id in text_of(shown)
    assert (await press(server, "code", token, code="")).status == 200, "reloading the page does no harm"
    assert "leads to no Matrix account" in text_of(await press(server, "remove", token))
    assert not await is_bound(server)
    assert "left alone here" in text_of(await press(server, "refuse", token))
    body = {"client_secret": SECRET, "country": "GB", "phone_number": NUMBER, "send_attempt": 2}
    assert await denied(await server.post("validate/msisdn/requestToken", body, as_=alice))
    assert server.mail.sent == []
    server.clock.advance(hours=5)
    assert (await ask_by_phone(server)).status == 200, "and may take that back"
    assert len(server.sms.sent) == 3


async def test_code_is_tried_five_times_within_ten_minutes(server: Harness) -> None:
    token = token_in(await ask_by_phone(server))
    code = server.sms.last_code
    for _ in range(5):
        assert "This code is wrong." in text_of(await press(server, "code", token, code=wrong_code(server)))
    assert "This code does not work" in text_of(await press(server, "code", token, code=code))
    assert "This link does not work" in text_of(await press(server, "open", token))

    late = token_in(await ask_by_phone(server))
    server.clock.advance(minutes=10)
    assert "This code does not work" in text_of(await press(server, "code", late, code=server.sms.last_code))
    assert (await press(server, "code", "A" * 43, code="123456")).status == 400


async def test_wrong_code_does_not_tell_how_many_texts_a_number_has_had(server: Harness) -> None:
    replies: list[Reply] = []
    while len(replies) == len(server.sms.sent):
        token = token_in(await ask_by_phone(server))
        replies.append(await press(server, "code", token, code=wrong_code(server)))
    assert len(replies) == 3, "half of what a number gets at once is sent"
    assert {reply.status for reply in replies} == {400}
    assert all("This code is wrong." in text_of(reply) for reply in replies)


async def test_code_of_one_visit_opens_no_other(server: Harness) -> None:
    first = token_in(await ask_by_phone(server))
    first_code = server.sms.last_code
    second = token_in(await ask_by_phone(server, "+44 7700 900456"))
    assert server.sms.last_code != first_code
    assert (await press(server, "code", second, code=first_code)).status == 400
    assert (await press(server, "code", first, code=first_code)).status == 200


async def test_texts_are_few_and_lock_nobody_out(tmp_path: Path) -> None:
    settings = {**BEHIND_A_PROXY, "SMS__MSISDN_RATELIMIT_BURST": "4", "SMS__PRIVACY_PAGE_PER_DAY": "3"}
    async with running(tmp_path, settings=settings) as server:
        replies = [await ask_by_phone(server, network="198.51.100.7") for _ in range(4)]
        assert [reply.status for reply in replies] == [200] * 3 + [429]
        assert len(server.sms.sent) == 2, "half of what a number gets at once is kept for those who bind"
        assert len({re.sub(rb'value="[^"]*"', b"", reply.body) for reply in replies[:3]}) == 1, "and nobody is told"
        for number in range(3):
            reply = await ask_by_phone(server, f"+44 7700 90020{number}", network=f"203.0.{number}.7")
            assert reply.status == 200
        assert len(server.sms.sent) == 3, "so many in a day, whoever asks"
        alice = await server.register()
        body = {"client_secret": SECRET, "country": "GB", "phone_number": NUMBER, "send_attempt": 1}
        assert (await server.post("validate/msisdn/requestToken", body, as_=alice)).status == 200
        server.clock.advance(days=1)
        await ask_by_phone(server, network="198.51.100.7")
        assert len(server.sms.sent) == 5


@pytest.mark.parametrize("settings", [{"SMS__PRIVACY_PAGE_PER_DAY": "0"}, {}])
async def test_numbers_are_asked_for_only_where_texts_are_sent(tmp_path: Path, settings: dict[str, str]) -> None:
    fakes = Fakes()
    fakes.offers_sms = bool(settings)
    async with running(tmp_path, settings=settings, fakes=fakes) as server:
        assert b'name="number"' not in (await server.get(PAGE)).body
        assert (await ask_by_phone(server)).status == 400
        assert server.sms.sent == []


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("", "not a complete phone number"),
        ("07700 900123", "not a complete phone number"),
        ("alice", "not a complete phone number"),
        ("+44 7700 900123 ext. 5", "not a complete phone number"),
        ("+33 6 12 34 56 78", "no messages to numbers of this country"),
    ],
)
async def test_what_is_no_number_is_said_so_on_the_form(tmp_path: Path, number: str, problem: str) -> None:
    async with running(tmp_path, settings={"SMS__SMSRULE_33": "reject"}) as server:
        page = await server.get(PAGE)
        assert buttons_of(page) == ["privacy", "privacy/phone"]
        reply = await ask_by_phone(server, number)
        assert reply.status == 400
        assert problem in text_of(reply)
        assert buttons_of(reply) == ["../privacy", "phone"]
        assert server.sms.sent == []
