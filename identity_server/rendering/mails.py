"""Turns a `Mail` of the domain into the message that goes over the wire.

Rule: values come from users. None of them can add a header or a line, and none reaches an error text.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email import message_from_bytes
from email.generator import BytesGenerator
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from types import MappingProxyType

import structlog

from identity_server.domain.ports import Clock, Mail
from identity_server.rendering.faults import BrandingProblems, TemplateFault
from identity_server.rendering.headers import (
    READING,
    header_names,
    header_text,
    mail_address,
    mail_policy,
    one_line,
    parse_sender,
)
from identity_server.rendering.languages import Language
from identity_server.rendering.letters import Letter, Wording, write_letter
from identity_server.rendering.sydent_files import ALWAYS, RawMail
from identity_server.rendering.sydent_mails import Frame, NotAMessage, bare_content, compose, has_headers
from identity_server.rendering.templates import Templates

_log = structlog.get_logger(__name__)

_TEXT_WIDTH = 72
_MAX_SUBJECT = 200
_EMPTY_LINES = re.compile(r"\n{3,}")

_OPTIONAL_IN_INVITES = (
    "guest_access_token",
    "guest_user_id",
    "org.matrix.web_client_location",
    "room_alias",
    "room_avatar_url",
    "room_join_rules",
    "room_name",
    "room_type",
    "sender_avatar_url",
    "sender_display_name",
)

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
        "privacy": MappingProxyType(
            {
                "address": "alice@example.org",
                "open_url": "https://id.example.org/_matrix/identity/privacy/open?token=sample",
                "expires_at_ms": "1800000000000",
            }
        ),
        "bound": MappingProxyType({"address": "alice@example.org", "user_id": "@alice:example.org"}),
        "unbound": MappingProxyType({"address": "alice@example.org", "user_id": "@alice:example.org"}),
        "terms": MappingProxyType(
            {
                "address": "alice@example.org",
                "user_id": "@alice:example.org",
                "erased_at_ms": "1800000000000",
                "terms_url": "https://id.example.org/_matrix/identity/terms/privacy_policy/1.0/en",
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

`privacy`: `address` whose owner may see what is held about it; `open_url`, the link; `expires_at_ms`, when it stops
working.

`bound`, `unbound`: `address` that can or can no longer be found, `user_id` to whom.

`terms`: `address` that is bound to `user_id`, whose account hasn't accepted the terms in force; `erased_at_ms`, when
it will be erased at the earliest; `terms_url`, where the first of the documents is.

`invite`: `address` that is invited; `sender`, the Matrix ID of who invites; `sender_display_name`, `room_name` and
`room_type`, "" where unknown; `invite_url`, the link; `subject_header_value`, the subject by the configuration, which
counts where `subject_is_set`.
"""


SYDENT_SAMPLES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "verification": MappingProxyType(
            {
                "ipaddress": "192.0.2.1",
                "link": "https://id.example.org/_matrix/identity/v2/validate/email/submitToken?token=sample&sid=1",
                "token": "sample",
            }
        ),
        "invite": MappingProxyType(
            {
                "address": "alice@example.org",
                "bracketed_verified_sender": "(@bob:example.org) ",
                "ephemeral_private_key": "sample",
                "medium": "email",
                "room_id": "!room:example.org",
                "sender": "@bob:example.org",
                "subject_header_value": "Bob has invited you",
                "token": "sample",
                "web_client_location": "https://app.example.org",
                **dict.fromkeys(_OPTIONAL_IN_INVITES, ""),
            }
        ),
        "migration": MappingProxyType({"mxid": "@alice:example.org"}),
    }
)
"""The same for templates in Sydent's form, which have names of their own for things; see `sydent_files.ALWAYS`, too.

`verification`: `link` confirms by itself when it is followed; `ipaddress`, of the client that asked. `invite`: these,
and every other text of the request under its own name. `migration`: `mxid` loses an address to another.
"""


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

    def exists(self, template: str, brand: str | None) -> bool:
        """Whether a brand has this mail: one whose templates are Sydent's has only the mails that Sydent sends."""
        return self._templates.has_mail(template, brand)

    def brand_in_links(self, brand: str | None) -> str | None:
        """The name by which a link asks for a brand; None if there is no such brand, or it is the default."""
        return self._templates.brand_in_links(brand)

    def shows(self, template: str, brand: str | None, name: str) -> bool:
        """Whether a brand's template in Sydent's form may show this value; ours show what `SAMPLES` says."""
        raw = self._templates.sydent.mail(template, brand)
        return raw is not None and raw.form.shows(name)

    def render(self, mail: Mail) -> Letter:
        """Make the whole mail.

        Headers of addresses hold the domain in its ASCII form; the local part stays as it is.

        Raises:
            BadRecipient: `mail.to` is no address.
            TemplateFault: a template is missing, broken, or wants a variable that isn't there.
        """
        recipient = mail_address("", mail.to)
        variables = {name: one_line(value) for name, value in mail.variables.items()}
        raw = self._templates.sydent.mail(mail.template, mail.brand)
        if raw is None:
            return self._ours(mail, recipient, variables)
        return self._render_raw(mail, raw, recipient, variables)

    def _render_raw(self, mail: Mail, raw: RawMail, recipient: Address, variables: Mapping[str, str]) -> Letter:
        text = raw.render(self._raw_variables(mail, recipient, variables))
        if not has_headers(text):
            return self._bare_letter(text, recipient)
        frame = Frame(
            recipient=recipient,
            sender=self._sender,
            message_id=mail.message_id,
            date=self._date(),
            mentions=raw.mentions,
        )
        try:
            return self._letter(compose(text, frame), recipient)
        except NotAMessage as error:
            raise TemplateFault(f"{raw.file}: {error}") from None

    def _letter(self, message: EmailMessage, recipient: Address) -> Letter:
        buffer = io.BytesIO()
        BytesGenerator(buffer, policy=message.policy).flatten(message)
        content = buffer.getvalue()
        # The last line of defence: whoever reads these bytes finds the headers that were set, and no others.
        if header_names(message_from_bytes(content, policy=READING)) != header_names(message):
            raise TemplateFault("a mail that would be read with other headers than it was written with")
        smtputf8 = bool(getattr(message.policy, "utf8", False))
        return Letter(self._sender.addr_spec, recipient.addr_spec, content, smtputf8, lambda: message)

    def _bare_letter(self, text: str, recipient: Address) -> Letter:
        message = EmailMessage(mail_policy(self._sender, recipient))
        message["From"], message["To"] = self._sender, recipient
        message.set_content(text)
        smtputf8 = not (self._sender.addr_spec + recipient.addr_spec).isascii()
        return Letter(self._sender.addr_spec, recipient.addr_spec, bare_content(text), smtputf8, lambda: message)

    def _raw_variables(self, mail: Mail, recipient: Address, variables: Mapping[str, str]) -> dict[str, str]:
        """What a template in Sydent's form is given; what a request calls itself can't stand for our own values."""
        optional = dict.fromkeys(_OPTIONAL_IN_INVITES, "") if mail.template == "invite" else {}
        room_name, verified = (variables.get(name, "") for name in ("room_name", "bracketed_verified_sender"))
        return {
            # A mail may have been written before its brand got this template.
            "link": variables.get("confirm_url", ""),
            **optional,
            **variables,
            # Either ends in a space, so that a sentence can do without it.
            "bracketed_room_name": f"({room_name}) " if room_name else "",
            "bracketed_verified_sender": f"{verified} " if verified else "",
            "messageid": one_line(mail.message_id),
            "date": self._date(),
            "to": recipient.addr_spec,
            "from": str(self._sender),
            # The same on every repeat, and out of reach of whoever chose the values: they came before it.
            "multipart_boundary": hashlib.sha256(f"boundary {mail.message_id}".encode()).hexdigest()[:32],
        }

    def _date(self) -> str:
        return format_datetime(datetime.fromtimestamp(self._clock.now_ms() // 1000, UTC))

    def _ours(self, mail: Mail, recipient: Address, variables: Mapping[str, str]) -> Letter:
        language = self._templates.language_for(mail.language, mail.brand)
        parts = {part: self._part(mail, part, language, variables) for part in ("subject", "txt", "html")}
        headers = (
            ("Date", self._date()),
            ("Message-ID", one_line(mail.message_id)),
            ("From", str(self._sender)),
            ("To", str(recipient)),
            ("Subject", header_text("Subject", parts["subject"])[:_MAX_SUBJECT]),
            ("Auto-Submitted", "auto-generated"),
            # Exchange doesn't know RFC 3834; this keeps its out-of-office replies away.
            ("X-Auto-Response-Suppress", "All"),
        )
        try:
            wording = Wording(text=_wrapped(parts["txt"]), html=parts["html"], language=language.tag)
            return write_letter(headers, wording, sender=self._sender, recipient=recipient)
        except ValueError:
            raise TemplateFault(f"mail {mail.template}: a header that would be read as several") from None

    def check(self, *, brands: Sequence[str | None] | None = None) -> None:
        """Render every mail in every language with sample values, for a start that finds faults early.

        Args:
            brands: for which brands; by default those of which an operator has changed anything.

        Raises:
            BrandingProblems: lists what failed.
        """
        brands = self._templates.changed_brands if brands is None else brands
        problems = [
            f"brand {brand or 'default'}, language {language.tag}: {fault}"
            for template, variables in SAMPLES.items()
            for brand in brands
            if self._templates.sydent.mail(template, brand) is None
            for language in self._templates.languages.all
            if (fault := self._fault(template, variables, brand, language)) is not None
        ]
        for template, raw in self._templates.sydent.list_mails():
            problems += self._faults_of_raw(template, raw)
        if problems:
            raise BrandingProblems(problems)

    def _fault(
        self, template: str, variables: Mapping[str, str], brand: str | None, language: Language
    ) -> TemplateFault | None:
        try:
            self.render(_sample(template, variables, brand=brand, language=(language.tag,)))
        except TemplateFault as fault:
            return fault
        return None

    def _faults_of_raw(self, template: str, raw: RawMail) -> list[str]:
        samples = SYDENT_SAMPLES[template]
        known = ALWAYS | samples.keys() | SAMPLES.get(template, samples).keys()
        # Into an invite's mail goes every text of its request, so any name may be one.
        faults = [] if template == "invite" else list(raw.form.unknown(known))
        mail = _sample(template, samples)
        try:
            letter = self._render_raw(mail, raw, mail_address("", mail.to), samples)
        except TemplateFault as fault:
            return [*faults, str(fault)]
        if "Subject" not in letter.message:
            _log.warning("a mail template has no subject, or no headers at all", file=str(raw.file))
        return faults

    def _part(self, mail: Mail, part: str, language: Language, variables: Mapping[str, str]) -> str:
        name = f"mail/{mail.template}.{part}.j2"
        return self._templates.render(name, language=language, brand=mail.brand, variables=variables)


def _sample(
    template: str, variables: Mapping[str, str], *, brand: str | None = None, language: tuple[str, ...] = ()
) -> Mail:
    return Mail(
        template=template,
        to="alice@example.org",
        message_id="<sample@example.org>",
        language=language,
        brand=brand,
        variables=variables,
    )


def _wrapped(text: str) -> str:
    """Fold long lines at spaces (a link has none, so it stays whole) and leave one empty line between paragraphs."""
    folded = [line for paragraph in text.strip().splitlines() for line in _fold(paragraph)]
    return _EMPTY_LINES.sub("\n\n", "\n".join(folded)) + "\n"


def _fold(paragraph: str) -> list[str]:
    if len(paragraph) <= _TEXT_WIDTH and paragraph.isprintable():
        return [paragraph.rstrip()]
    return textwrap.wrap(paragraph, _TEXT_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
