"""What becomes of an operator's raw messages: proper mail to one address, whatever the values."""

from __future__ import annotations

import email
import email.policy
import json
import re
from email.message import EmailMessage, MIMEPart
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity_server.domain.ports import Mail
from identity_server.rendering.letters import Letter
from identity_server.rendering.mails import Mails
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, make_mail, make_mails
from tests.support.properties import examples

LINK = "https://id.example.org/_matrix/identity/v2/validate/email/submitToken?token=t0&client_secret=s&sid=1"
JINJA = """\
{# Our shop. #}
Date: {{ date|safe }}
From: {{ from|safe }}
To: {{ to|safe }}
Message-ID: {{ messageid|safe }}
Subject: Zugang für {{ sender_display_name|safe }}
MIME-Version: 1.0
Content-Type: multipart/alternative;
    boundary="{{ multipart_boundary|safe }}"

--{{ multipart_boundary|safe }}
Content-Type: text/plain; charset=UTF-8
Content-Disposition: inline

Grüße aus dem Laden, {{ room_name|safe }}!
Hier entlang: {{ link|safe }}
--{{ multipart_boundary|safe }}
Content-Type: text/html; charset=UTF-8

<p>{{ room_name }} <a href="{{ link }}&amp;via={{ room_name|urlencode }}">hier</a></p>
--{{ multipart_boundary|safe }}--
"""
LEGACY = """\
From: %(from)s
To: "Kundin" <%(to)s>
Cc: archive@shop.example
Bcc: archive@shop.example
Reply-To: Laden <laden@shop.example>
Subject: %(sender_display_name)s
Content-Type: multipart/alternative; boundary="OurShopsOwnBoundary"

--OurShopsOwnBoundary
Content-Type: text/plain

%(room_name)s
100%% %(link)s
--OurShopsOwnBoundary
Content-Type: text/html

<p>%(room_name_forhtml)s <a href="%(link_forhtml)s&via=%(room_name_forurl)s">x</a></p>
"""


def mails(root: Path, text: str | bytes, *, file: str = "verification_template.eml.j2") -> Mails:
    (root / "shop").mkdir(exist_ok=True)
    (root / "shop" / file).write_bytes(text.encode() if isinstance(text, str) else text)
    return make_mails(Templates.load(server_name=SERVER, path=root, default_brand="shop"))


def render(root: Path, text: str | bytes, *, file: str = "verification_template.eml.j2", **variables: str) -> Letter:
    return mails(root, text, file=file).render(with_link(**variables))


def with_link(**variables: str) -> Mail:
    mail = make_mail()
    object.__setattr__(mail, "variables", {**mail.variables, "link": LINK, **variables})
    return mail


def legacy(root: Path, text: str | bytes, **variables: str) -> Letter:
    return render(root, text, file="verification_template.eml", **variables)


def read(letter: Letter) -> EmailMessage:
    """The mail as a receiver reads it."""
    message = email.message_from_bytes(letter.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def content(part: MIMEPart) -> str:
    """Its text, with line ends as Python has them."""
    return str(part.get_content()).replace("\r\n", "\n")


def parts(message: EmailMessage) -> dict[str, str]:
    return {part.get_content_type(): content(part) for part in message.walk() if not part.is_multipart()}


def test_a_multipart_in_jinja(tmp_path: Path) -> None:
    message = read(render(tmp_path, JINJA, room_name="a&b", sender_display_name="Zoë"))
    assert message["Date"] == "Mon, 23 Nov 2026 14:20:00 +0000"
    assert message["From"] == "Sydent Validation <noreply@example.org>"
    assert message["To"] == "alice@example.org"
    assert message["Message-ID"] == "<m1@id.example.org>"
    assert message["Subject"] == "Zugang für Zoë"
    assert message.get_content_type() == "multipart/alternative"
    text, html = parts(message)["text/plain"], parts(message)["text/html"]
    assert text.startswith("Grüße aus dem Laden, a&b!\n")
    assert LINK in text
    assert LINK.replace("&", "&amp;") + "&amp;via=a%26b" in html
    assert [part["Content-Disposition"] for part in message.iter_parts()] == ["inline", None]


def test_a_multipart_in_the_legacy_form(tmp_path: Path) -> None:
    letter = legacy(tmp_path, LEGACY, room_name="a<b", sender_display_name="Zoë")
    message = read(letter)
    assert (letter.sender, letter.recipient) == ("noreply@example.org", "alice@example.org")
    assert message["Subject"] == "Zoë"
    assert message["Reply-To"] == "Laden <laden@shop.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert f"a<b\n100% {LINK}" in parts(message)["text/plain"]
    assert f'a&lt;b <a href="{LINK.replace("&", "&amp;")}&via=a%3Cb">' in parts(message)["text/html"]


def test_it_goes_to_one_address_only(tmp_path: Path) -> None:
    message = read(legacy(tmp_path, LEGACY))
    assert message.get_all("To") == ["alice@example.org"]
    assert message["Cc"] is None
    assert message["Bcc"] is None


@pytest.mark.parametrize("to", ["other@example.net", "a@example.net, b@example.net", "", "=?utf-8?q?x?=", "{{ to }}"])
def test_the_recipient_is_ours_to_say(tmp_path: Path, to: str) -> None:
    text = f"To: {to}\nResent-To: c@example.net\nTo: d@example.net\nSubject: x\n\nbody\n"
    letter = mails(tmp_path, text).render(make_mail("o'brien@example.org"))
    assert letter.recipient == "o'brien@example.org"
    assert read(letter).get_all("To") == ["o'brien@example.org"]
    assert read(letter)["Resent-To"] is None


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("Shop <shop@shop.example>", "Shop <shop@shop.example>"),
        ("=?utf-8?q?L=C3=A4den?= <SHOP@shop.example>", "Läden <SHOP@shop.example>"),
        ("Läden <shop@läden.example>", "Läden <shop@xn--lden-loa.example>"),
        ("{{ sender_display_name|safe }} <shop@shop.example>", "Sydent Validation <noreply@example.org>"),
        ("{{ sender_display_name|safe }}", "Sydent Validation <noreply@example.org>"),
        ("a@shop.example, b@shop.example", "Sydent Validation <noreply@example.org>"),
        ("nobody", "Sydent Validation <noreply@example.org>"),
    ],
)
def test_the_sender_is_the_operators(tmp_path: Path, sender: str, expected: str) -> None:
    letter = render(tmp_path, f"From: {sender}\nSubject: x\n\nbody\n", sender_display_name="Bank <bank@bank.example>")
    assert read(letter).get_all("From") == [expected]
    assert letter.sender == "noreply@example.org"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Message-ID: {{ messageid|safe }}\n", "<m1@id.example.org>"),
        ("Message-ID: <{{ token }}.mine@shop.example>\n", "<sample.mine@shop.example>"),
        ("Message-ID: {{ messageid }}\n", "<m1@id.example.org>"),
        ("Message-ID: nonsense\n", "<m1@id.example.org>"),
        ("", "<m1@id.example.org>"),
    ],
)
def test_message_id(tmp_path: Path, line: str, expected: str) -> None:
    assert read(render(tmp_path, f"{line}Subject: x\n\nbody\n")).get_all("Message-ID") == [expected]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("lead", ["", "\n\n", "\ufeff"])
def test_line_ends_are_put_right(tmp_path: Path, ending: bytes, lead: str) -> None:
    text = (lead + "Subject: folded\n  subject\nX-Shop: 1\n\none\n\ntwo\n").encode().replace(b"\n", ending)
    letter = legacy(tmp_path, text)
    assert b"\n" not in letter.content.replace(b"\r\n", b"")
    assert b"\r" not in letter.content.replace(b"\r\n", b"")
    assert read(letter)["Subject"] == "folded subject"
    assert read(letter).get_content().splitlines() == ["one", "", "two"]


def test_eight_bit_text_and_long_lines_are_encoded(tmp_path: Path) -> None:
    text = (
        "Subject: Grüße\nX-Ort: Köln\nContent-Type: text/plain; charset=iso-8859-1; format=flowed\n"
        "Content-Language: de\n\nGrüße\n" + "lang " * 400 + "\n"
    )
    letter = legacy(tmp_path, text)
    assert letter.content.isascii()
    assert max(map(len, letter.content.splitlines())) <= 998
    message = read(letter)
    assert (message["Subject"], message["X-Ort"], message["Content-Language"]) == ("Grüße", "Köln", "de")
    assert message["Content-Type"].params == {"charset": "utf-8", "format": "flowed"}
    assert content(message) == "Grüße\n" + "lang " * 400 + "\n"


def test_what_is_coded_already_is_read_as_such(tmp_path: Path) -> None:
    text = (
        'Subject: x\nContent-Type: multipart/mixed; boundary="a-boundary"\n\n--a-boundary\n'
        "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe\n"
        "--a-boundary\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
        "=C3=A4%(room_name)s\n--a-boundary\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n"
        "--a-boundary--\n"
    )
    text_part, html_part, image = read(legacy(tmp_path, text, room_name="ö")).iter_parts()
    assert content(text_part) == "Grüße"
    assert content(html_part) == "äö\n"
    assert image.get_content() == b"\x89PNG\r\n\x1a\n"


def test_eight_bits_that_are_no_text_are_encoded_too(tmp_path: Path) -> None:
    message = read(legacy(tmp_path, "Subject: x\nContent-Type: application/x-shop\n\nKöln\n"))
    assert message["Content-Transfer-Encoding"] == "base64"
    assert message.get_payload(decode=True) == "Köln\n".encode()


def test_a_missing_value_is_empty(tmp_path: Path) -> None:
    text = "Subject: [{{ nothing }}]\n\n{{ room_name.split()|length }}{{ bracketed_room_name }}|\n"
    mail = make_mail(template="invite")
    object.__setattr__(mail, "variables", {})
    message = read(mails(tmp_path, text, file="invite_template.eml.j2").render(mail))
    assert message["Subject"] == "[]"
    assert content(message) == "0|\n"


def test_an_invites_values_are_those_of_the_request_and_ours(tmp_path: Path) -> None:
    text = (
        "Subject: {{ subject_header_value|safe }}\n\n{{ bracketed_room_name }}joins {{ anything }} {{ room_alias }}\n"
    )
    mail = make_mail(
        template="invite",
        room_name="Garden",
        anything="goes",
        bracketed_room_name="forged",
        subject_header_value="Zoë has invited you",
        to="victim@example.net",
        messageid="<forged@example.net>",
    )
    letter = mails(tmp_path, text, file="invite_template.eml.j2").render(mail)
    assert read(letter)["Subject"] == "Zoë has invited you"
    assert read(letter)["To"] == "alice@example.org"
    assert read(letter)["Message-ID"] == "<m1@id.example.org>"
    assert content(read(letter)) == "(Garden) joins goes \n"


def test_the_boundary_is_new_in_every_mail_and_the_same_on_a_repeat(tmp_path: Path) -> None:
    shop = mails(tmp_path, JINJA)
    first, other = make_mail(link=LINK), make_mail(link=LINK)
    object.__setattr__(other, "message_id", "<m2@id.example.org>")
    boundaries = [read(shop.render(mail)).get_boundary() for mail in (first, first, other)]
    assert boundaries[0] == boundaries[1] != boundaries[2]
    assert re.fullmatch("[0-9a-f]{32}", str(boundaries[0]))


def test_a_mail_from_before_the_template_leads_to_our_own_page(tmp_path: Path) -> None:
    assert b"https://id.example.org/_matrix/identity/confirm?token=sample" in (
        mails(tmp_path, "Subject: x\n\n{{ link|safe }}\n").render(make_mail()).content
    )


EVIL = [
    "x\r\nBcc: victim@example.net",
    "x\n\nforged body",
    "x\r\n--OurShopsOwnBoundary--\r\n",
    "--OurShopsOwnBoundary--",
    "--OurShopsOwnBOurShopsOwnBoundaryoundary--",
    "=?utf-8?q?x=0D=0ABcc:_victim@example.net?=",
    "=?utf-8?b?eA0KQmNjOiB2aWN0aW1AZXhhbXBsZS5uZXQ=?= y",
    "x\u2028Bcc: victim@example.net\u2029\x85\x0b\x0c\x1c",
    "\ud800\x00\ufeff",
    "{{ token }}{% include '/etc/passwd' %}%(token)s%",
    'a" <b@example.net>, ',
    "a@example.net (",
    "<script>alert(1)</script>",
]


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("form", ["jinja", "legacy"])
def test_no_value_adds_a_header_a_line_or_a_part(tmp_path: Path, form: str, evil: str) -> None:
    make, text = (render, JINJA) if form == "jinja" else (legacy, LEGACY)
    values = ("room_name", "sender_display_name")
    harmless = read(make(tmp_path, text, **dict.fromkeys(values, "harmless")))
    letter = make(tmp_path, text, **dict.fromkeys(values, evil))
    message = read(letter)
    assert [part.keys() for part in message.walk()] == [part.keys() for part in harmless.walk()]
    assert letter.recipient == message["To"] == "alice@example.org"
    assert [line for line in letter.content.splitlines() if line.lower().startswith(b"bcc")] == []
    assert "sample" not in parts(message)["text/plain"]
    assert "root:" not in parts(message)["text/plain"]
    assert "<script" not in parts(message)["text/html"]
    for kind, content in parts(message).items():
        assert len(content.splitlines()) == len(parts(harmless)[kind].splitlines())


@settings(max_examples=examples(60))
@given(value=st.text(alphabet=st.sampled_from('a=?utf-8qb\r\n:;<>@,"()\\ .-_0DA%{}é\u2028')))
def test_whatever_the_value_the_shape_stays(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    root = tmp_path_factory.mktemp("shop")
    message = read(legacy(root, LEGACY, room_name=value, sender_display_name=value))
    headers = ["Reply-To", "Subject", "Content-Type", "Date", "Message-ID", "From", "To", "MIME-Version"]
    assert message.keys() == [*headers, "Auto-Submitted"]
    assert len(list(message.walk())) == 3


def test_a_recipient_beyond_ascii_needs_smtputf8_and_a_sender_does_not_by_its_domain(tmp_path: Path) -> None:
    shop = mails(tmp_path, "From: Läden <shop@läden.example>\nSubject: ü\n\nbody\n")
    assert not shop.render(make_mail()).smtputf8
    letter = shop.render(make_mail("jürgen@bücher.example"))
    assert letter.smtputf8
    assert "To: jürgen@xn--bcher-kva.example\r\n".encode() in letter.content


# --- without headers -----------------------------------------------------------------------------


def test_what_has_no_headers_goes_out_as_it_stands(tmp_path: Path) -> None:
    letter = legacy(tmp_path, "<<<%(token)s>>>\n")
    assert letter.content == b"<<<sample>>>\r\n"
    assert letter.recipient == "alice@example.org"
    file = "invite_template.eml.j2"
    mail = make_mail(template="invite", room_name='a "b"', room_alias="#a:b")
    text = '{"room_name": {{ room_name|tojson }}, "alias": "{{ room_alias }}"}\n'
    content = mails(tmp_path, text, file=file).render(mail).content
    assert json.loads(content) == {"room_name": 'a "b"', "alias": "#a:b"}


def test_the_terminal_shows_it_nevertheless(tmp_path: Path) -> None:
    message = legacy(tmp_path, "<<<%(token)s>>>\n").message
    assert message["To"] == "alice@example.org"
    assert content(message) == "<<<sample>>>\n"
