"""A brand directory that an operator brings from Sydent: its mails and its page, through the whole server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from identity_server.domain.ports import Mail
from identity_server.outbound.mail import SmtpTransport
from identity_server.outbound.smtp import SmtpRelay
from identity_server.rendering.faults import BrandingProblems
from identity_server.rendering.mails import Mails
from identity_server.rendering.sydent_files import SydentOverrides
from identity_server.rendering.templates import Templates
from tests.outbound_mail.test_smtp import Relay, content, listening, smtp
from tests.support.fakes import FakeClock, FakeMail
from tests.support.harness import SECRET, Fakes, Harness, running

VERIFICATION = """\
From: {{ from|safe }}
To: {{ to|safe }}
Date: {{ date|safe }}
Message-ID: {{ messageid|safe }}
Subject: Der Laden: deine Adresse bestätigen
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="{{ multipart_boundary|safe }}"

--{{ multipart_boundary|safe }}
Content-Type: text/plain; charset=UTF-8

Grüß dich! Von {{ ipaddress|safe }} aus: {{ link|safe }}
--{{ multipart_boundary|safe }}
Content-Type: text/html; charset=UTF-8

<p>Grüß dich! <a href="{{ link }}">Bestätigen</a></p>
--{{ multipart_boundary|safe }}--
"""
INVITE = """\
From: %(from)s
To: %(to)s
Message-ID: %(messageid)s
Subject: %(subject_header_value)s

%(sender_display_name)s %(bracketed_verified_sender)sbids you %(bracketed_room_name)sto
%(web_client_location)s/#/room/%(room_id_forurl)s?email=%(to_forurl)s&token=%(token)s&key=%(ephemeral_private_key)s
"""
PAGE = "<!doctype html>\r\n<style>p { width: 100%% }</style><p>%(message)s</p>\r\n"
ENDPOINT = "validate/email/submitToken"


class Forwarding(FakeMail):
    """The fake port, with the real one behind it."""

    def __init__(self, transport: SmtpTransport) -> None:
        super().__init__()
        self._transport = transport

    async def send(self, mail: Mail) -> None:
        await super().send(mail)
        await self._transport.send(mail)


@asynccontextmanager
async def shop(
    directory: Path, files: dict[str, str], settings: dict[str, str] | None = None
) -> AsyncIterator[tuple[Harness, Relay]]:
    """A server with an operator's brand, and a real relay behind it."""
    brand = directory / "res" / "shop"
    brand.mkdir(parents=True)
    for name, text in files.items():
        (brand / name).write_bytes(text.encode())
    templates = Templates.load(server_name="id.example.org", path=directory / "res", default_brand="shop")
    mails = Mails(templates=templates, clock=FakeClock(), sender="Laden <noreply@shop.example>")
    chosen = {"GENERAL__TEMPLATES_PATH": str(directory / "res"), "GENERAL__BRAND_DEFAULT": "shop", **(settings or {})}
    relay, fakes = Relay(), Fakes()
    async with listening(smtp(relay)) as port:
        to_relay = SmtpRelay(host="127.0.0.1", port=port, ehlo_name="id.example.org", idle_seconds=0)
        fakes.mail = Forwarding(SmtpTransport(mails=mails, relay=to_relay))
        async with running(directory, settings=chosen, fakes=fakes) as harness:
            yield harness, relay


def last(relay: Relay) -> EmailMessage:
    return content(relay.taken[-1])


def link_in(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    found = re.search(r"https://\S+", body.get_content())
    assert found is not None
    return found[0]


def path_of(link: str) -> str:
    parts = urlsplit(link)
    return f"{parts.path}?{parts.query}"


async def test_the_link_in_the_mail_confirms_and_shows_the_operators_page(tmp_path: Path) -> None:
    files = {"verification_template.eml.j2": VERIFICATION, "verify_response_template.html": PAGE}
    async with shop(tmp_path, files) as (server, relay):
        alice = await server.register()
        sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
        envelope, message = relay.taken[-1], last(relay)
        assert (envelope.mail_from, envelope.rcpt_tos) == ("noreply@shop.example", ["alice@example.com"])
        assert message["Subject"] == "Der Laden: deine Adresse bestätigen"
        body = message.get_body(("plain",))
        assert body is not None
        assert body.get_content().startswith("Grüß dich! Von 127.0.0.1 aus: https://id.example.org/")
        link = link_in(message)
        assert urlsplit(link).path == "/_matrix/identity/v2/validate/email/submitToken"
        query = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
        assert query == {"sid": sid, "client_secret": SECRET, "token": server.mail.last_token}
        for _ in range(2):
            page = await server.get(path_of(link))
            assert page.status == 200
            before, after = PAGE.replace("%%", "%").encode().split(b"%(message)s")
            assert page.body.startswith(before)
            assert page.body.endswith(after)
            assert b"confirmed" in page.body[len(before) : -len(after)]
            assert page.headers["Content-Type"] == "text/html; charset=utf-8"
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.headers["Referrer-Policy"] == "no-referrer"
            assert page.headers["Cache-Control"] == "no-store"
            assert "default-src" not in page.headers["Content-Security-Policy"]
        assert (await server.bind(alice, sid)).status == 200


@pytest.mark.parametrize("query", ["", "?sid=x&client_secret=y&token=z"])
async def test_a_link_that_is_wrong_shows_the_operators_page_too(tmp_path: Path, query: str) -> None:
    async with shop(tmp_path, {"verify_response_template.html": "[%(message)s]"}) as (server, _):
        page = await server.get(f"{ENDPOINT}{query}")
    assert page.status == 400
    assert re.fullmatch(rb"\[This link is wrong[^\]]*\]", page.body)


async def test_a_template_without_a_place_for_the_message_is_shown_to_the_byte(tmp_path: Path) -> None:
    async with shop(tmp_path, {"verify_response_template.html": "thanks\n"}) as (server, _):
        alice = await server.register()
        sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
        query = {"sid": sid, "client_secret": SECRET, "token": server.mail.last_token}
        for version in ("v2", "api/v1"):
            page = await server.get(f"/_matrix/identity/{version}/{ENDPOINT}", params=query)
            assert (page.status, page.body) == (200, b"thanks\n")


async def test_next_link_is_followed_as_ever(tmp_path: Path) -> None:
    files = {"verification_template.eml.j2": VERIFICATION, "verify_response_template.html": PAGE}
    settings = {"GENERAL__NEXT_LINK_DOMAIN_WHITELIST": "chat.example"}
    async with shop(tmp_path, files, settings) as (server, relay):
        alice = await server.register()
        await server.request_token(alice, "alice@example.com", next_link="https://chat.example/done")
        reply = await server.get(path_of(link_in(last(relay))))
        assert (reply.status, reply.headers["Location"]) == (302, "https://chat.example/done")
        await server.request_token(alice, "bob@example.com", next_link="https://elsewhere.example/done")
        reply = await server.get(path_of(link_in(last(relay))))
        assert reply.status == 200
        assert b"elsewhere.example" in reply.body, "where it leads is named, which the operator's page can't"


async def test_an_invite_in_the_legacy_form(tmp_path: Path) -> None:
    async with shop(tmp_path, {"invite_template.eml": INVITE}) as (server, relay):
        alice = await server.register()
        body = {
            "medium": "email",
            "address": "carol@example.com",
            "room_id": "!room:example.org",
            "sender": alice.user_id,
            "room_name": "Gärten",
            "bracketed_verified_sender": "(@ceo:bank.example) ",
            "bracketed_room_name": "(Bank) ",
            "sender_display_name": "Zoë\r\nBcc: victim@example.com",
        }
        token = (await server.post("store-invite", body, as_=alice)).json["token"]
        assert relay.taken[-1].rcpt_tos == ["carol@example.com"]
        assert last(relay)["Bcc"] is None
        assert "Zoë" in last(relay)["Subject"]
        text = last(relay).get_content()
        assert "(@alice:example.org) bids you (Gärten) to" in text
        assert f"/#/room/%21room%3Aexample.org?email=carol%40example.com&token={token}&key=" in text


def only(server: Harness) -> Mail:
    (mail,) = server.mail.sent
    return mail


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({}, set()),
        ({"verification_template.eml": "Subject: x\n\n%(link_forhtml)s\n"}, {"link"}),
        ({"verification_template.eml.j2": "Subject: x\n\n{{ token }}\n"}, set()),
        ({"verification_template.eml.j2": VERIFICATION}, {"link", "ipaddress"}),
    ],
)
async def test_a_job_holds_only_what_the_template_shows(
    tmp_path: Path, files: dict[str, str], shown: set[str]
) -> None:
    async with shop(tmp_path, files) as (server, _):
        alice = await server.register()
        await server.request_token(alice, "alice@example.com")
        assert only(server).variables.keys() & {"link", "ipaddress"} == shown
        held = " ".join(only(server).variables.values())
        assert (SECRET in held) is ("link" in shown)


async def test_a_brand_that_is_not_there_gets_the_default_ones_mail(tmp_path: Path) -> None:
    async with shop(tmp_path, {"verification_template.eml.j2": VERIFICATION}) as (server, relay):
        alice = await server.register()
        reply = await server.post(
            "validate/email/requestToken?brand=nobody",
            {"client_secret": SECRET, "email": "alice@example.com", "send_attempt": 1},
            as_=alice,
        )
        assert reply.status == 200
        assert last(relay)["Subject"].startswith("Der Laden")


async def test_single_files_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mail.eml").write_text("Subject: single\n\n%(link)s\n")
    (tmp_path / "page.html").write_text("single: %(message)s")
    settings = {
        "EMAIL__EMAIL_TEMPLATE": str(tmp_path / "mail.eml"),
        "HTTP__VERIFY_RESPONSE_TEMPLATE": str(tmp_path / "page.html"),
    }
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        await server.request_token(alice, "alice@example.com")
        page = await server.get(path_of(only(server).variables["link"]))
    assert page.body.startswith(b"single: Your email address is confirmed.")
    overrides = SydentOverrides(verification=tmp_path / "mail.eml")
    templates = Templates.load(server_name="id.example.org", sydent_overrides=overrides)
    mails = Mails(templates=templates, clock=FakeClock(), sender="noreply@shop.example")
    assert mails.render(only(server)).message["Subject"] == "single"


async def test_a_broken_file_stops_the_start_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrandingProblems, match=r"verify_response_template\.html, line 2"):
        async with shop(tmp_path, {"verify_response_template.html": "<p>\n100%"}):
            pass


async def test_the_link_of_a_brand_from_sydent_stays_the_specifications(tmp_path: Path) -> None:
    brand = tmp_path / "res" / "shop"
    brand.mkdir(parents=True)
    (brand / "verification_template.eml.j2").write_text(VERIFICATION)
    async with running(tmp_path, settings={"GENERAL__TEMPLATES_PATH": str(brand.parent)}) as server:
        alice = await server.register()
        body = {"client_secret": SECRET, "email": "alice@example.com", "send_attempt": 1}
        assert (await server.post("validate/email/requestToken?brand=shop", body, as_=alice)).status == 200
        link = urlsplit(only(server).variables["link"])
        assert parse_qs(link.query).keys() == {"token", "client_secret", "sid"}
