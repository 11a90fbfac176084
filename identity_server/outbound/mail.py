"""Delivers mail: to a relay by SMTP (`outbound/smtp.py`), or to the terminal of somebody who is trying the server out.

Rule: a mail that can't be made is told apart from one that can't be sent now, and no text of an error holds an address.
"""

from __future__ import annotations

import sys
from typing import TextIO

import structlog

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused, Mail
from identity_server.outbound.smtp import SmtpConnections, SmtpRelay, TlsMode
from identity_server.rendering.faults import TemplateFault
from identity_server.rendering.headers import BadRecipient
from identity_server.rendering.letters import Letter
from identity_server.rendering.mails import Mails

_log = structlog.get_logger(__name__)

# Sydent's operators put pictures into their templates.
_MAX_MAIL_BYTES = 1_048_576
_RULE = "─" * 72


class SmtpTransport:
    """Hands mails to a relay. Implements `MailTransport`."""

    def __init__(self, *, mails: Mails, relay: SmtpRelay) -> None:
        """Take the parts and read the trusted authorities.

        Raises:
            OSError: `ca_file` can't be read (`ssl.SSLError` where it holds no certificate).
        """
        self._mails = mails
        self._connections = SmtpConnections(relay)
        if relay.tls is TlsMode.NONE and relay.username:
            _log.warning("the login for mail is sent in clear: set email.tlsmode", relay=relay.host)

    async def knock(self) -> None:
        """Connect and log in as for a mail, and leave again.

        Raises:
            DeliveryPostponed: the relay doesn't let us in.
        """
        await self._connections.knock()

    async def send(self, mail: Mail) -> None:
        """Render one mail and hand it over; returns once the relay has taken it.

        Raises:
            DeliveryRefused: the relay refused this mail for good, or cannot carry its address.
            DeliveryPostponed: everything else, a broken template of the operator's included.
        """
        letter = _render(self._mails, mail)
        if len(letter.content) > _MAX_MAIL_BYTES:
            raise DeliveryRefused(f"the mail is larger than {_MAX_MAIL_BYTES} bytes")
        await self._connections.send(letter)

    async def close(self) -> None:
        """Leave the relay; for when all mails are sent."""
        await self._connections.close()


class ConsoleTransport:
    """Writes mails to the terminal, for trying the server out. Implements `MailTransport`."""

    def __init__(self, *, mails: Mails, stream: TextIO | None = None) -> None:
        """Take the parts; `stream` is standard output unless given."""
        self._mails = mails
        self._stream = stream or sys.stdout

    async def close(self) -> None:
        """Nothing has to be left."""

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
