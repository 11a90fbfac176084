"""A mail server that delivers nothing: it keeps each mail for whoever waits for it.

The one rule: it listens on loopback only, and takes mail by TLS only.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP

from identity_server.server import open_socket


class MailCatcher:
    """Where the mails end up.

    Attributes:
        port: where it takes mail, on `localhost`.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._mails: asyncio.Queue[EmailMessage] = asyncio.Queue()

    async def next_mail(self, *, seconds: float = 5.0) -> EmailMessage:
        """The oldest mail that nobody took yet. Raises TimeoutError if none comes in time."""
        async with asyncio.timeout(seconds):
            return await self._mails.get()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a mail (called by aiosmtpd)."""
        del server, session
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage), "that is what this policy makes"
        self._mails.put_nowait(mail)
        return "250 kept"


@asynccontextmanager
async def running_mail_catcher(tls: ssl.SSLContext) -> AsyncIterator[MailCatcher]:
    """A mail catcher on a free port of loopback, for as long as the block runs."""
    loop = asyncio.get_running_loop()
    with open_socket("127.0.0.1", 0) as listener:
        catcher = MailCatcher(listener.getsockname()[1])
        server = await loop.create_server(
            lambda: SMTP(catcher, hostname="localhost", loop=loop), sock=listener, ssl=tls
        )
        try:
            yield catcher
        finally:
            server.close()
            await server.wait_closed()
