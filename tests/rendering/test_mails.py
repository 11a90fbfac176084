from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from html.parser import HTMLParser

import pytest

from identity_server.domain.ports import Mail
from identity_server.rendering.faults import TemplateFault
from identity_server.rendering.headers import BadRecipient, parse_sender
from identity_server.rendering.mails import SAMPLES
from tests.rendering.kit import make_mail, make_mails


def render(mail: Mail) -> EmailMessage:
    return make_mails().render(mail).message


def parse(message: EmailMessage) -> EmailMessage:
    """The message as a receiver reads it."""
    read = email.message_from_bytes(message.as_bytes(), policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    return read


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_a_reader_gets_text_and_html_with_the_whole_link() -> None:
    url = "https://id.example.org/_matrix/identity/confirm?token=" + "aB3-_" * 20
    message = parse(render(make_mail(confirm_url=url)))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    text, html = body(message, "plain"), body(message, "html")
    assert url in text.splitlines()
    assert max(len(line) for line in text.splitlines() if line != url) <= 72
    assert f'href="{url}"' in html
    assert f">{url}</a>" in html
    for part in (text, html):
        assert "@alice:example.org" in part
        assert "id.example.org" in part
        assert "15 January 2027 at 08:00 UTC" in part
        assert "ignore this" in part


def test_headers() -> None:
    message = parse(render(make_mail()))
    assert message["From"] == "Sydent Validation <noreply@example.org>"
    assert message["To"] == "alice@example.org"
    assert message["Date"] == "Mon, 23 Nov 2026 14:20:00 +0000"
    assert message["Message-ID"] == "<m1@id.example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Content-Language"] == "en"
    assert message["Subject"] == "Confirm your email address for id.example.org"


def test_french() -> None:
    message = parse(render(make_mail(language=("fr-CA", "en"))))
    assert message["Content-Language"] == "fr"
    assert "Confirmez votre adresse e-mail" in message["Subject"]
    assert "au 15 janvier 2027 à 08:00 UTC" in body(message, "plain")
    assert '<html lang="fr">' in body(message, "html")


def test_without_a_matrix_id_the_mail_does_not_name_one() -> None:
    message = parse(render(make_mail(user_id="")))
    assert "somebody asked" in body(message, "plain")
    assert "Matrix ID" not in body(message, "html")


def test_no_value_adds_a_header_or_a_line() -> None:
    evil = "@eve:example.org\r\nBcc: victim@example.org\r\n\r\nforged\u2028line\u202e"
    mail = make_mail(user_id=evil, address=evil, confirm_url="https://x.example/\r\nX-Bad: 1", token=evil)
    message = render(mail)
    read = parse(message)
    assert read["Bcc"] is None
    assert read["X-Bad"] is None
    assert {name.lower() for name in read.keys()} == {  # noqa: SIM118 - a message is no dict; keys() repeats
        *("date", "message-id", "from", "to", "subject", "auto-submitted", "x-auto-response-suppress"),
        *("mime-version", "content-type", "content-language"),
    }
    assert not any(line.startswith(("Bcc:", "forged", "X-Bad")) for line in body(read, "plain").splitlines())
    assert "\u202e" not in body(read, "plain")


def test_a_line_break_in_the_message_id_or_subject_adds_no_header(tmp_path: object) -> None:
    mail = make_mail()
    object.__setattr__(mail, "message_id", "<a@b>\r\nBcc: victim@example.org")
    assert parse(render(mail))["Bcc"] is None


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_html_escapes_values_and_loads_nothing() -> None:
    html = body(render(make_mail(user_id="@<img src=x onerror=alert(1)>:example.org")), "html")
    tags = Tags()
    tags.feed(html)
    assert not {"img", "script", "link", "iframe", "table"} & set(tags.seen)
    assert "&lt;img" in html


def test_values_in_text_are_not_escaped() -> None:
    assert "@a&b:example.org" in body(render(make_mail(user_id="@a&b:example.org")), "plain")


@pytest.mark.parametrize(
    ("address", "header"),
    [
        ("alice@bücher.example", "alice@xn--bcher-kva.example"),
        ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example"),
        ("a.very.long.local.part.that.goes.on.and.on.until.it.is.so@" + "long-label." * 12 + "example", None),
    ],
)
def test_addresses_beyond_ascii_and_long_ones_stay_whole(address: str, header: str | None) -> None:
    message = render(make_mail(address))
    assert message["To"].addresses[0].addr_spec == (header or address)
    raw = message.as_bytes().split(b"\r\n\r\n")[0]
    assert b"=?" not in raw.split(b"To:")[1].split(b"\r\n")[0]
    assert f"To: {header or address}\r\n".encode() in raw + b"\r\n"
    # Only what can't do without SMTPUTF8 asks for it.
    assert vars(message.policy).get("utf8", False) is (not (header or address).isascii())


@pytest.mark.parametrize(
    "address",
    [
        *("", "a", "a@b@c.example", "A <a@b.example>", "a@b.example, c@d.example", "a@b.example\r\nBcc: x@y.example"),
        # An address by its grammar, which readers would decode: as another one, or as another header.
        # Some relays would take these to x.example.
        *("bob%x.example@b.example", "x.example!bob@b.example"),
        *("=?utf-8?q?bob?=@b.example", "=?utf-8?q?=0d=0abcc:_x=40y.example?=@b.example"),
    ],
)
def test_what_is_no_address_is_refused_and_not_quoted(address: str) -> None:
    with pytest.raises(BadRecipient) as caught:
        render(make_mail(address))
    assert str(caught.value) == "the address cannot be mailed"


def test_a_long_message_id_stays_whole() -> None:
    mail = make_mail()
    object.__setattr__(mail, "message_id", "<" + "m" * 120 + "@id.example.org>")
    assert mail.message_id.encode() in render(mail).as_bytes()


@pytest.mark.parametrize("name", ["gettext", "ngettext", "_", "range", "self"])
def test_a_text_of_an_invite_may_have_any_name(name: str) -> None:
    """Templates call some of these; what stands in for one would keep the mail, and not the invite, from its owner."""
    mail = Mail(
        template="invite",
        to="alice@example.org",
        message_id="<m1@id.example.org>",
        variables={**SAMPLES["invite"], name: "chosen by whoever invites"},
    )
    assert "invited you" in body(render(mail), "plain")


def test_an_unknown_mail_is_a_fault() -> None:
    mail = make_mail()
    object.__setattr__(mail, "template", "../../etc/passwd")
    with pytest.raises(TemplateFault, match="TemplateNotFound"):
        render(mail)


@pytest.mark.parametrize(
    "sender", ["", "no address", "a@b.example, c@d.example", "X <a@b.example>\r\nBcc: c@d.example"]
)
def test_a_sender_that_is_not_one_address_is_refused(sender: str) -> None:
    with pytest.raises(ValueError, match=r"email\.from"):
        parse_sender(sender)


def test_a_sender_name_beyond_ascii_is_encoded() -> None:
    message = make_mails(sender="Identité <noreply@bücher.example>").render(make_mail()).message
    assert b"From: =?utf-8?" in message.as_bytes()
    assert parse(message)["From"].addresses[0].display_name == "Identité"
    assert parse(message)["From"].addresses[0].addr_spec == "noreply@xn--bcher-kva.example"
