"""Delivers mail: to a relay by SMTP, or to the terminal of somebody who is trying the server out.

Rule: an answer that is about this one mail (to MAIL, RCPT or DATA) decides its fate; whatever goes wrong before
that is about us and the relay, and can be put right while the mail waits. So a certificate that doesn't fit, a
refused login, a relay without the STARTTLS that we were told to use, and even a 5xx greeting all postpone: refusing
would tell a user that a good address is bad. Nothing is ever sent in clear where TLS was asked for.
Error texts hold the step and the reply code. Replies are left out, because relays quote addresses in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Awaitable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TextIO

import aiosmtplib
import structlog

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused, Mail
from identity_server.rendering.faults import TemplateFault
from identity_server.rendering.headers import BadRecipient
from identity_server.rendering.letters import Letter
from identity_server.rendering.mails import Mails

_log = structlog.get_logger(__name__)

# Sydent's operators put pictures into their templates.
_MAX_MAIL_BYTES = 1_048_576
_QUIT_SECONDS = 1.0
_PERMANENT = 500
# 5xx replies that speak of the connection, not of the mail: no service, login or TLS wanted first, login refused.
_ABOUT_US = frozenset({530, 534, 535, 538})
_RULE = "─" * 72


class TlsMode(StrEnum):
    """How the connection to the relay is protected."""

    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


@dataclass(frozen=True, slots=True)
class SmtpRelay:
    """The relay that takes our mail, and how to talk to it.

    Attributes:
        host: its name; with TLS, what its certificate must be for.
        port: its port.
        ehlo_name: the name that we give in EHLO, in ASCII.
        tls: plain, STARTTLS or TLS from the start.
        username: for the login; empty means none.
        password: for the login.
        ca_file: PEM file of authorities to trust beside the system's, or None.
        timeout_seconds: for the whole delivery of one mail.
    """

    host: str
    port: int
    ehlo_name: str
    tls: TlsMode = TlsMode.NONE
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    timeout_seconds: float = 10.0


class SmtpTransport:
    """Hands mails to a relay, one connection each. Implements `MailTransport`."""

    def __init__(self, *, mails: Mails, relay: SmtpRelay) -> None:
        """Take the parts and read the trusted authorities.

        Raises:
            OSError: `ca_file` can't be read (`ssl.SSLError` where it holds no certificate).
        """
        self._mails = mails
        self._relay = relay
        self._tls = _tls_context(relay.ca_file) if relay.tls is not TlsMode.NONE else None
        if relay.tls is TlsMode.NONE and relay.username:
            _log.warning("the login for mail is sent in clear: set email.tlsmode", relay=relay.host)

    async def knock(self) -> None:
        """Connect and log in as for a mail, and leave again.

        Raises:
            DeliveryPostponed: the relay doesn't let us in.
        """
        delivery = _Delivery(self._relay, self._tls)
        try:
            async with asyncio.timeout(self._relay.timeout_seconds):
                await delivery.open()
        except TimeoutError:
            raise DeliveryPostponed(f"{delivery.step}: no answer in time") from None
        else:
            await delivery.say_goodbye()
        finally:
            delivery.close()

    async def send(self, mail: Mail) -> None:
        """Render one mail and hand it over; returns once the relay has taken it.

        Raises:
            DeliveryRefused: the relay refused this mail for good, or cannot carry its address.
            DeliveryPostponed: everything else, a broken template of the operator's included.
        """
        letter = _render(self._mails, mail)
        if len(letter.content) > _MAX_MAIL_BYTES:
            raise DeliveryRefused(f"the mail is larger than {_MAX_MAIL_BYTES} bytes")
        delivery = _Delivery(self._relay, self._tls)
        try:
            async with asyncio.timeout(self._relay.timeout_seconds):
                await delivery.carry_out(letter)
        except TimeoutError:
            raise DeliveryPostponed(f"{delivery.step}: no answer in time") from None
        else:
            await delivery.say_goodbye()
        finally:
            delivery.close()


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class _Delivery:
    """One connection with one mail. `step` says how far it has come."""

    def __init__(self, relay: SmtpRelay, tls: ssl.SSLContext | None) -> None:
        self.step = "connect"
        self._relay = relay
        self._tls = tls
        self._client = aiosmtplib.SMTP(
            hostname=relay.host,
            port=relay.port,
            local_hostname=relay.ehlo_name,
            timeout=relay.timeout_seconds,
            use_tls=relay.tls is TlsMode.IMPLICIT,
            start_tls=False,  # done below, as a step of its own
            tls_context=tls,
        )

    async def carry_out(self, letter: Letter) -> None:
        await self.open()
        options, encoding = self._options(unicode_addresses=letter.smtputf8)
        await self._about_mail("MAIL", self._client.mail(letter.sender, options=options, encoding=encoding))
        await self._about_mail("RCPT", self._client.rcpt(letter.recipient, encoding=encoding))
        await self._about_mail("DATA", self._client.data(letter.content))

    async def open(self) -> None:
        """Everything up to the login."""
        await self._about_us("connect", self._client.connect())
        await self._about_us("EHLO", self._client.ehlo())
        if self._relay.tls is TlsMode.STARTTLS:
            self.step = "STARTTLS"
            if not self._client.supports_extension("starttls"):
                raise DeliveryPostponed("STARTTLS: the relay does not offer it")
            await self._about_us("STARTTLS", self._client.starttls(tls_context=self._tls))
            await self._about_us("EHLO", self._client.ehlo())
        if self._relay.username:
            await self._about_us("AUTH", self._client.login(self._relay.username, self._relay.password))

    def _options(self, *, unicode_addresses: bool) -> tuple[list[str], str]:
        if not unicode_addresses:
            return [], "ascii"
        if not self._client.supports_extension("smtputf8"):
            raise DeliveryRefused("MAIL: the relay cannot carry addresses beyond ASCII (SMTPUTF8)")
        # RFC 6531 lets SMTPUTF8 come with 8BITMIME only.
        return ["SMTPUTF8", "BODY=8BITMIME"], "utf-8"

    async def _about_us(self, step: str, action: Awaitable[object]) -> None:
        """A step before the mail itself: whatever fails, the mail waits."""
        self.step = step
        try:
            await action
        except aiosmtplib.SMTPResponseException as error:
            raise DeliveryPostponed(f"{step}: {error.code}") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryPostponed(f"{step}: {_reason(error)}") from None

    async def _about_mail(self, step: str, action: Awaitable[object]) -> None:
        """A step of the mail: a 5xx is the relay's last word."""
        self.step = step
        try:
            await action
        except aiosmtplib.SMTPResponseException as error:
            final = error.code >= _PERMANENT and error.code not in _ABOUT_US
            raise (DeliveryRefused if final else DeliveryPostponed)(f"{step}: {error.code}") from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise DeliveryPostponed(f"{step}: {_reason(error)}") from None

    async def say_goodbye(self) -> None:
        """Send QUIT. The relay has the mail already, so nothing that happens here changes the outcome."""
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            await self._client.quit(timeout=_QUIT_SECONDS)

    def close(self) -> None:
        self._client.close()


class ConsoleTransport:
    """Writes mails to the terminal, for trying the server out. Implements `MailTransport`."""

    def __init__(self, *, mails: Mails, stream: TextIO | None = None) -> None:
        """Take the parts; `stream` is standard output unless given."""
        self._mails = mails
        self._stream = stream or sys.stdout

    async def send(self, mail: Mail) -> None:
        """Show one mail as its reader would see it, the link on a line of its own.

        Raises:
            DeliveryRefused: the address can't stand in a mail.
            DeliveryPostponed: a template is broken.
        """
        message = _render(self._mails, mail).message
        body = message.get_body(("plain", "html"))
        text = body.get_content() if body is not None else ""
        heading = "\n".join(f"{name + ':':<9}{message[name]}" for name in ("To", "From", "Subject"))
        # One write, so that mails of several workers don't mix.
        self._stream.write(f"\n{_RULE}\n{heading}\n{_RULE}\n{text.rstrip()}\n{_RULE}\n\n")
        self._stream.flush()


def _render(mails: Mails, mail: Mail) -> Letter:
    try:
        return mails.render(mail)
    except BadRecipient as error:
        raise DeliveryRefused(str(error)) from None
    except TemplateFault as error:
        # The operator can mend a template while the mail waits.
        raise DeliveryPostponed(str(error)) from None


def _reason(error: Exception) -> str:
    """What failed, in words that can't hold an address: the kind of error, with the certificate's fault."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError | OSError) and cause is not error:
        return _reason(cause)
    return type(error).__name__
