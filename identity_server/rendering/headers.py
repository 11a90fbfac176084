"""Values that stand in the headers of mails: addresses, and text in one line.

Rule: whatever a value holds, it stays the one header it was put in. Python decodes encoded words (RFC 2047) when a
header is set and, up to 3.11 at least, writes the line breaks that stood in them; so that is prevented here.
"""

from __future__ import annotations

import re
import unicodedata
from email.headerregistry import Address, HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from functools import lru_cache
from typing import Any

import email_validator

# Folding must not break a Message-ID or a long address in two: 998 is what SMTP carries.
_MAX_LINE = 900
# Controls, format characters (bidi, zero width), lone surrogates, line and paragraph separators.
_BREAKING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_ENCODED_WORD = "=?"
# What relays may take for the way to another address, as Postfix does by default: `somebody%elsewhere@here`.
_ROUTES = re.compile(r"[%!]")
# The end of a header: a line end that no folded line follows.
_HEADER_END = re.compile(rb"\r\n(?![ \t]+[^ \t\r\n])|\r(?!\n)|(?<!\r)\n")
_REMEMBERED = 256
_MAX_REMEMBERED = 1_000


class BadRecipient(ValueError):
    """The address can't stand in a mail. The text never holds it."""

    def __init__(self) -> None:
        super().__init__("the address cannot be mailed")


def one_line(value: str) -> str:
    """The value without line breaks, controls and invisible direction marks."""
    # Nothing that is to go can be printed.
    if value.isprintable():
        return value.strip()
    cleaned = "".join(" " if unicodedata.category(each) in _BREAKING else each for each in value)
    return cleaned.strip()


def header_text(name: str, value: str) -> str:
    """The value as it can be given to a header: in one line, and in one line still once it is decoded."""
    line = one_line(value)
    if _ENCODED_WORD not in line:
        return line
    decoded = str(READING.header_factory(name, line))
    # What a reader's program can't take for an encoded word is nothing to decode.
    return line if one_line(decoded) == decoded.strip() else line.replace(_ENCODED_WORD, "= ?")


def mail_address(display_name: str, value: str) -> Address:
    """An address with its domain in ASCII form (IDNA).

    Raises:
        BadRecipient: it isn't one.
    """
    if _ENCODED_WORD in value or _ROUTES.search(value):
        # It would be decoded where it is written, and be another address there, or several headers.
        raise BadRecipient
    try:
        parts = email_validator.validate_email(value, check_deliverability=False, globally_deliverable=False)
        # The local part as it was given: what is mailed is what is stored and hashed.
        return Address(display_name=display_name, username=value.rpartition("@")[0], domain=parts.ascii_domain)
    except (email_validator.EmailNotValidError, ValueError):
        raise BadRecipient from None


def parse_sender(value: str) -> Address:
    """Read `email.from`: `name@host` or `Some Name <name@host>`.

    Raises:
        ValueError: it is not one address.
    """
    found = only_address("From", value)
    if found is None:
        raise ValueError("email.from must be one address, like: Some Name <noreply@example.org>")
    try:
        return mail_address(one_line(found.display_name), found.addr_spec)
    except BadRecipient:
        raise ValueError("email.from does not hold a valid address") from None


def only_address(name: str, value: str) -> Address | None:
    """The one address in a header as it is written there; None where there is none, several, or anything else."""
    header = READING.header_factory(name, value)
    addresses: tuple[Address, ...] = getattr(header, "addresses", ())
    return None if getattr(header, "defects", ()) or len(addresses) != 1 else addresses[0]


def mail_policy(*addresses: Address) -> EmailPolicy[EmailMessage]:
    """How a mail with these addresses is written: only those beyond ASCII need SMTPUTF8."""
    return _IN_ASCII if all(each.addr_spec.isascii() for each in addresses) else _IN_UTF8


def header_line(name: str, value: str, policy: EmailPolicy[EmailMessage]) -> bytes:
    """A header as it stands in a mail, folded and encoded where it must be, with its line end.

    Raises:
        ValueError: it would be read as more than one header, or end them all.
    """
    # What is printable ASCII, and no encoded word, stands for itself.
    plain = value.isascii() and value.isprintable() and _ENCODED_WORD not in value
    if value and plain and len(name) + len(value) + 2 <= _MAX_LINE:
        return f"{name}: {value}\r\n".encode("ascii")
    folded = policy.fold_binary(name, policy.header_factory(name, value))
    end = _HEADER_END.search(folded)
    if "\r" in value or "\n" in value or end is None or end.end() != len(folded):
        raise ValueError("a header that would be read as several")
    return folded


def header_names(message: EmailMessage) -> list[list[str]]:
    """The names of all headers, part by part: by it a message that was read again is told from another."""
    return [[name.lower() for name in part.keys()] for part in message.walk()]  # noqa: SIM118 - keys() repeats


class _Headers(HeaderRegistry):
    """Parses headers, and remembers the last: a message does so whenever one of its headers is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self._type = lru_cache(maxsize=_REMEMBERED)(super().__getitem__)
        self._parse = lru_cache(maxsize=_REMEMBERED)(lambda name, value: self._type(name)(name, value))

    def __getitem__(self, name: str) -> Any:
        return self._type(name)

    def __call__(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and len(value) <= _MAX_REMEMBERED:
            return self._parse(name, value)
        return self._type(name)(name, value)


READING = SMTP.clone(header_factory=_Headers())
"""How mails are read."""
_IN_ASCII = READING.clone(max_line_length=_MAX_LINE)
_IN_UTF8 = READING.clone(max_line_length=_MAX_LINE, utf8=True)
