"""A mail in bytes, as it goes to the relay, and the writer of those that we word ourselves.

Rule: what is written here is read with the headers that were set, and with no others. Each header is checked as it is
written, and no part can hold the boundary; so nothing needs to be read again to be sure. `email.message` would parse
every header a dozen times over for the same bytes, and was most of what a mail cost.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email import message_from_string
from email.headerregistry import Address
from email.message import EmailMessage

from identity_server.rendering.headers import header_line, mail_policy

_END = b"\r\n"


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail as it goes over the wire.

    Attributes:
        sender: who it is from, for the relay: always `email.from`.
        recipient: the one address it goes to.
        content: the mail.
        smtputf8: whether it needs a relay that can carry addresses beyond ASCII.
        read: see `message`.
    """

    sender: str
    recipient: str
    content: bytes
    smtputf8: bool
    read: Callable[[], EmailMessage] = field(repr=False)

    @property
    def message(self) -> EmailMessage:
        """What its reader gets. Made when it is asked for: a relay takes the bytes."""
        return self.read()


@dataclass(frozen=True, slots=True)
class Wording:
    """What a mail says.

    Attributes:
        text: for those who read no HTML.
        html: the same for everybody else.
        language: BCP 47 tag of both.
    """

    text: str
    html: str
    language: str


def write_letter(
    headers: Iterable[tuple[str, str]], wording: Wording, *, sender: Address, recipient: Address
) -> Letter:
    """Write a mail of two alternatives (RFC 2046, section 5.1.4), text first. The same mail comes out the same.

    Args:
        headers: names and values of all headers but those of the content, each in one line.
        wording: the content.
        sender: who it is from, for the relay.
        recipient: who it goes to.

    Raises:
        ValueError: a header would be read as several.
    """
    policy = mail_policy(sender, recipient)
    text, html = _part("plain", wording.text), _part("html", wording.html)
    # In quoted-printable only digits and line ends follow a "=": no part can hold this (RFC 2045, section 6.7).
    boundary = f"=_{hashlib.sha256(text + html).hexdigest()[:32]}"
    about_content = (
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/alternative; boundary="{boundary}"'),
        ("Content-Language", wording.language),
    )
    head = b"".join(header_line(name, value, policy) for name, value in (*headers, *about_content))
    delimiter = b"\r\n--" + boundary.encode()
    content = b"".join((head, delimiter, _END, text, delimiter, _END, html, delimiter, b"--", _END))

    def read() -> EmailMessage:
        return message_from_string(content.decode().replace("\r\n", "\n"), policy=policy)

    return Letter(sender.addr_spec, recipient.addr_spec, content, policy.utf8, read)


def _part(subtype: str, text: str) -> bytes:
    """A text in quoted-printable, which every relay carries as it is, with its headers."""
    lines = _END.join(text.encode("utf-8", "replace").splitlines()) + _END
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
    return head.encode() + binascii.b2a_qp(lines, istext=True)
