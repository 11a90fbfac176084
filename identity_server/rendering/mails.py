"""Turns a `Mail` of the domain into the message that goes over the wire.

Rule: values come from users. None of them can add a header or a line, and none reaches an error text.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from types import MappingProxyType

import email_validator

from identity_server.domain.ports import Clock, Mail
from identity_server.rendering.brands import BrandingProblems
from identity_server.rendering.languages import Language
from identity_server.rendering.templates import TemplateFault, Templates

_TEXT_WIDTH = 72
_MAX_SUBJECT = 200
# Folding must not break a Message-ID or a long address in two: 998 is what SMTP carries.
_MAX_HEADER_LINE = 900
_EMPTY_LINES = re.compile(r"\n{3,}")

SAMPLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "verification": MappingProxyType(
            {
                "address": "alice@example.org",
                "user_id": "@alice:example.org",
                "confirm_url": "https://id.example.org/_matrix/identity/confirm?token=sample",
                "token": "sample",
                "expires_at_ms": "1800000000000",
            }
        ),
        "invite": MappingProxyType(
            {
                "address": "alice@example.org",
                "sender": "@bob:example.org",
                "sender_display_name": "Bob",
                "room_id": "!room:example.org",
                "room_name": "The garden",
                "room_type": "",
                "subject_header_value": "Bob has invited you",
                "subject_is_set": "",
                "invite_url": "https://app.example.org/#/room/!room:example.org?email=alice%40example.org",
            }
        ),
    }
)
"""Every mail there is, with the variables that its templates are given.

`verification`: `address` to be confirmed; `user_id` that asked, "" where none did (v1); `confirm_url`, the link;
`token` in it; `expires_at_ms`, when the link stops working.

`invite`: `address` that is invited; `sender`, the Matrix ID of who invites; `sender_display_name`, `room_name` and
`room_type`, "" where unknown; `invite_url`, the link; `subject_header_value`, the subject by the configuration, which
counts where `subject_is_set`.
"""


class BadRecipient(ValueError):
    """The address can't stand in a mail. The text never holds it."""

    def __init__(self) -> None:
        super().__init__("the address cannot be mailed")


class Mails:
    """Renders mails: subject, text and HTML from `templates/mail/<template>.{subject,txt,html}.j2`."""

    def __init__(self, *, templates: Templates, clock: Clock, sender: str) -> None:
        """Take the parts.

        Args:
            templates: the template engine.
            clock: for `Date`.
            sender: `email.from`, with or without a display name.

        Raises:
            ValueError: the sender is not one address.
        """
        self._templates = templates
        self._clock = clock
        self._sender = parse_sender(sender)

    def render(self, mail: Mail) -> EmailMessage:
        """Make the whole message.

        Headers of addresses hold the domain in its ASCII form; the local part stays as it is, and the
        message's policy is `SMTPUTF8` where that is beyond ASCII.

        Raises:
            BadRecipient: `mail.to` is no address.
            TemplateFault: a template is missing, broken, or wants a variable that isn't there.
        """
        language = self._templates.languages.negotiate(mail.language)
        recipient = _address("", mail.to)
        variables = {name: _one_line(value) for name, value in mail.variables.items()}
        parts = {part: self._part(mail, part, language, variables) for part in ("subject", "txt", "html")}
        ascii_only = recipient.addr_spec.isascii() and self._sender.addr_spec.isascii()
        message = EmailMessage((SMTP if ascii_only else SMTPUTF8).clone(max_line_length=_MAX_HEADER_LINE))
        message["Date"] = format_datetime(datetime.fromtimestamp(self._clock.now_ms() // 1000, UTC))
        message["Message-ID"] = _one_line(mail.message_id)
        message["From"] = self._sender
        message["To"] = recipient
        message["Subject"] = _one_line(parts["subject"])[:_MAX_SUBJECT]
        message["Auto-Submitted"] = "auto-generated"
        # Exchange doesn't know RFC 3834; this keeps its out-of-office replies away.
        message["X-Auto-Response-Suppress"] = "All"
        message.set_content(_wrapped(parts["txt"]), charset="utf-8", cte="quoted-printable")
        message.add_alternative(parts["html"], subtype="html", charset="utf-8", cte="quoted-printable")
        # Last, because making a multipart moves what `Content-*` headers there are into its first part.
        message["Content-Language"] = language.tag
        return message

    def check(self) -> None:
        """Render every mail for every brand and language with sample values, for a start that finds faults early.

        Raises:
            BrandingProblems: lists what failed.
        """
        problems = [
            f"brand {brand or 'default'}, language {language.tag}: {fault}"
            for template, variables in SAMPLES.items()
            for brand in self._templates.brand_names
            for language in self._templates.languages.all
            if (fault := self._fault(template, variables, brand, language)) is not None
        ]
        if problems:
            raise BrandingProblems(problems)

    def _fault(
        self, template: str, variables: Mapping[str, str], brand: str | None, language: Language
    ) -> TemplateFault | None:
        mail = Mail(
            template=template,
            to=variables["address"],
            message_id="<sample@example.org>",
            language=(language.tag,),
            brand=brand,
            variables=variables,
        )
        try:
            self.render(mail)
        except TemplateFault as fault:
            return fault
        return None

    def _part(self, mail: Mail, part: str, language: Language, variables: Mapping[str, str]) -> str:
        name = f"mail/{mail.template}.{part}.j2"
        return self._templates.render(name, language=language, brand=mail.brand, variables=variables)


def parse_sender(value: str) -> Address:
    """Read `email.from`: `name@host` or `Some Name <name@host>`.

    Raises:
        ValueError: it is not one address.
    """
    header = SMTP.header_factory("From", value)
    addresses: tuple[Address, ...] = getattr(header, "addresses", ())
    if getattr(header, "defects", ()) or len(addresses) != 1:
        raise ValueError("email.from must be one address, like: Some Name <noreply@example.org>")
    try:
        return _address(addresses[0].display_name, addresses[0].addr_spec)
    except BadRecipient:
        raise ValueError("email.from does not hold a valid address") from None


def _address(display_name: str, value: str) -> Address:
    """An address with its domain in ASCII form (IDNA)."""
    try:
        parts = email_validator.validate_email(value, check_deliverability=False, globally_deliverable=False)
        # The local part as it was given: what is mailed is what is stored and hashed.
        return Address(display_name=display_name, username=value.rpartition("@")[0], domain=parts.ascii_domain)
    except (email_validator.EmailNotValidError, ValueError):
        raise BadRecipient from None


def _one_line(value: str) -> str:
    """The value without line breaks, controls and invisible direction marks."""
    cleaned = "".join(" " if unicodedata.category(each) in _BREAKING else each for each in value)
    return cleaned.strip()


# Controls, format characters (bidi, zero width), lone surrogates, line and paragraph separators.
_BREAKING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _wrapped(text: str) -> str:
    """Fold long lines at spaces (a link has none, so it stays whole) and leave one empty line between paragraphs."""
    folded = [
        line
        for paragraph in text.strip().splitlines()
        for line in textwrap.wrap(paragraph, _TEXT_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
    ]
    return _EMPTY_LINES.sub("\n\n", "\n".join(folded)) + "\n"
