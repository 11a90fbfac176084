"""Turns the raw message of a template in Sydent's form into one that may be sent.

Rule: the operator decides what a mail looks like; that it goes to one address and is a proper message is decided
here. A template without headers (what the public conformance suite reads) is sent exactly as it stands.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Callable
from dataclasses import dataclass
from email import errors, message_from_string
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart

from identity_server.rendering.headers import (
    READING,
    BadRecipient,
    header_text,
    mail_address,
    mail_policy,
    one_line,
    only_address,
)

_FIRST_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*[ \t]*:")
_MESSAGE_ID = re.compile(r"<[^<>@\s]+@[^<>@\s]+>")
_FOLD = re.compile(r"[\r\n]+[ \t]*")
_MAX_LINE = 998
# Set below, or not for a template to set: one mail goes to one address, and tells nobody of others.
_OURS = frozenset({"to", "cc", "bcc", "from", "date", "message-id", "mime-version", "return-path", "received"})
_RESENT = "resent-"
_ABOUT_CODING = frozenset({"content-type", "content-transfer-encoding"})
_CODED = frozenset({"quoted-printable", "base64"})
# What a mail program would show as an empty or a garbled mail. Lesser defects are mended by writing it anew.
_FATAL = (
    errors.MissingHeaderBodySeparatorDefect,
    errors.FirstHeaderLineIsContinuationDefect,
    errors.NoBoundaryInMultipartDefect,
    errors.StartBoundaryNotFoundDefect,
    errors.MultipartInvariantViolationDefect,
)


class NotAMessage(ValueError):
    """The text is no proper message. The text of the error says what is wrong, and never quotes it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands on a mail whatever its template says, or where that says nothing.

    Attributes:
        recipient: the one address that it goes to.
        sender: for `From`, unless the operator wrote another.
        message_id: for `Message-ID`, unless the template has one.
        date: for `Date`.
        mentions: whether the operator wrote this text himself.
    """

    recipient: Address
    sender: Address
    message_id: str
    date: str
    mentions: Callable[[str], bool]


def has_headers(text: str) -> bool:
    """Whether a raw message begins with a header."""
    return _FIRST_HEADER.match(text.lstrip()) is not None


def bare_content(text: str) -> bytes:
    """A message without headers as it goes over the wire."""
    return "\r\n".join(text.splitlines()).encode() + b"\r\n"


def compose(text: str, frame: Frame) -> EmailMessage:
    """Read a raw message and make it one that may be sent.

    Raises:
        NotAMessage: it can't be read as a message.
    """
    # Line ends of any kind, and empty lines that Jinja2 leaves above the headers.
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip()
    message = message_from_string(text, policy=READING)
    for part in message.walk():
        fatal = next((type(each).__name__ for each in part.defects if isinstance(each, _FATAL)), None)
        if fatal is not None:
            raise NotAMessage(f"not a proper message ({fatal})")
    sender, message_id = _sender(message, frame), _message_id(message, frame)
    # Before the rest is set anew, which is dear.
    for name in {name.lower() for name in message.keys()}:  # noqa: SIM118 - keys() of a message
        if name in _OURS or name.startswith(_RESENT):
            del message[name]
    for part in message.walk():
        _set_headers_anew(part)
        _set_content_anew(part)
    message["Date"] = frame.date
    message["Message-ID"] = message_id
    message["From"] = str(sender)
    message["To"] = str(frame.recipient)
    message["MIME-Version"] = "1.0"
    if "Auto-Submitted" not in message:
        message["Auto-Submitted"] = "auto-generated"
    message.policy = mail_policy(frame.recipient, frame.sender, sender)
    return message


def _sender(raw: EmailMessage, frame: Frame) -> Address:
    """The sender in the template. One that came in by a value, as somebody's name, doesn't count."""
    written = only_address("From", _written(raw, "from"))
    if written is None or not (written.addr_spec == frame.sender.addr_spec or frame.mentions(written.addr_spec)):
        return frame.sender
    try:
        return mail_address(one_line(written.display_name), written.addr_spec)
    except BadRecipient:
        return frame.sender


def _message_id(raw: EmailMessage, frame: Frame) -> str:
    found = _MESSAGE_ID.fullmatch(one_line(_written(raw, "message-id")))
    return found[0] if found else one_line(frame.message_id)


def _written(raw: EmailMessage, wanted: str) -> str:
    """The first header of a name as it stands in the template, in one line; "" where there is none."""
    value = next((str(value) for name, value in raw.raw_items() if name.lower() == wanted), "")
    return _FOLD.sub(" ", value)


def _set_headers_anew(part: MIMEPart) -> None:
    """Take each header once, as one line, so that it is encoded and folded as headers must be."""
    headers: dict[str, tuple[str, str]] = {}
    for name, value in part.raw_items():
        headers.setdefault(name.lower(), (name, _FOLD.sub(" ", str(value)).strip()))
    for name, value in headers.values():
        del part[name]
        part[name] = header_text(name, value)


def _set_content_anew(part: MIMEPart) -> None:
    """Encode what mail systems may not carry: bytes beyond ASCII, and lines that are too long."""
    if part.is_multipart():
        # Nobody sees them, and they can't be encoded.
        part.preamble = part.epilogue = None
        return
    payload = part.get_payload()
    if not isinstance(payload, str) or (
        payload.isascii() and max(map(len, payload.splitlines()), default=0) <= _MAX_LINE
    ):
        return
    coding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    data = _decoded(payload, coding)
    if part.get_content_maintype() == "text":
        # The template is UTF-8, so what isn't coded is, whatever charset the template claims.
        charset = part.get_content_charset("utf-8") if coding in _CODED else "utf-8"
        _set_text(part, _text(data, charset))
        return
    del part["Content-Transfer-Encoding"]
    part["Content-Transfer-Encoding"] = "base64"
    part.set_payload(base64.encodebytes(data).decode("ascii"))


def _set_text(part: MIMEPart, text: str) -> None:
    kept = [
        (name, str(value))
        for name, value in part.items()
        if name.lower().startswith("content-") and name.lower() not in _ABOUT_CODING
    ]
    parameters = dict(part["Content-Type"].params) if "Content-Type" in part else {}
    parameters.pop("charset", None)
    subtype = part.get_content_subtype()
    part.set_content(text, subtype=subtype, charset="utf-8", cte="quoted-printable", params=parameters)
    del part["MIME-Version"]  # it belongs to the whole, not to a part
    for name, value in kept:
        del part[name]
        part[name] = value


def _decoded(payload: str, coding: str) -> bytes:
    raw = payload.encode("utf-8", "replace")
    if coding == "quoted-printable":
        return quopri.decodestring(raw)
    if coding == "base64":
        try:
            return base64.b64decode(raw)
        except binascii.Error:
            raise NotAMessage("a part is not the base64 that it is said to be") from None
    return raw


def _text(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")
