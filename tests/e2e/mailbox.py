"""A mail server on loopback that keeps what it gets, for people to read.

The one rule: a letter is handed out once, to the one who waits for its address.
"""

from __future__ import annotations

import asyncio
import email.policy
import re
import threading
from email import message_from_bytes
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from tests.e2e.processes import PATIENCE_SECONDS

_URL = re.compile(r"https?://\S+")


class Mailbox:
    """Accepts every letter, and tells who waits."""

    def __init__(self) -> None:
        self._letters: list[tuple[str, EmailMessage]] = []
        self._arrived = threading.Condition()
        self._listener = Listener(self, hostname="127.0.0.1", port=0, ready_timeout=PATIENCE_SECONDS)

    @property
    def port(self) -> int:
        return self._listener.port

    def open(self) -> None:
        self._listener.start()

    def close(self) -> None:
        self._listener.stop()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a letter, once for each of its envelope's recipients."""
        # With an EmailMessage policy the result is one; the stub says only Message.
        letter = message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(letter, EmailMessage)
        with self._arrived:
            self._letters += [(recipient, letter) for recipient in envelope.rcpt_tos]
            self._arrived.notify_all()
        return "250 kept"

    def take(self, address: str, *, seconds: float = PATIENCE_SECONDS) -> EmailMessage:
        """The oldest letter to an address that nobody took yet, waiting for it if need be."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._holds(address), seconds), f"no letter within {seconds} s"
            entry = next(entry for entry in self._letters if entry[0] == address)
            self._letters.remove(entry)
            return entry[1]

    def subjects(self, address: str) -> list[str]:
        """What the letters to an address are about that nobody took yet, the oldest first."""
        with self._arrived:
            return [letter["Subject"] for recipient, letter in self._letters if recipient == address]

    def _holds(self, address: str) -> bool:
        return any(recipient == address for recipient, _ in self._letters)


class Listener(Controller):
    """aiosmtpd's controller, which can't take its port from the kernel by itself."""

    def factory(self) -> SMTP:
        """As the controller's own."""
        return _Smtp(self.handler, **self.SMTP_kwargs)

    def _create_server(self) -> Any:
        return self._listen()

    async def _listen(self) -> asyncio.Server:
        server = await self.loop.create_server(self._factory_invoker, host=self.hostname, port=0)
        self.port = server.sockets[0].getsockname()[1]
        return server


class _Smtp(SMTP):
    """Takes what relays take in practice: Sydent ends its lines with LF alone, so that its letters are one line each."""

    line_length_limit = 64 * 1024


def link_in(letter: EmailMessage) -> str:
    """The first URL of a letter's plain text: what a reader clicks."""
    text = letter.get_body(preferencelist=("plain",))
    assert text is not None, "the letter has no plain text"
    found = _URL.search(text.get_content())
    assert found, "the letter's text has no URL"
    return found[0].rstrip(".,)>")
