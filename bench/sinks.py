"""The world that the servers talk to: a relay that takes every mail, and homeservers that take every notice.

The rule: on loopback only, and quick, so that neither server waits for it. Both live in the process that plays the
people, because they look into their mail.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

from aiohttp import web

from bench import world
from bench.databases import CannotPrepare
from tests.e2e.certificates import Authority

# In Sydent's mail, and in the one of ours, there is one link, and this in it.
_TOKEN = re.compile(r"[?&]token=([0-9A-Za-z._=~-]+)")
_RECIPIENT = re.compile(rb"RCPT TO:\s*<([^>]+)>", re.IGNORECASE)


class Mailbox:
    """Keeps what came for addresses that somebody waits for; counts the rest.

    Attributes:
        received: mails so far.
    """

    def __init__(self) -> None:
        self.received = 0
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    def expect(self, address: str) -> asyncio.Future[bytes]:
        """The next mail to an address; await it."""
        self._waiting[address] = future = asyncio.get_running_loop().create_future()
        return future

    def deliver(self, recipients: list[str], content: bytes) -> None:
        """Take a mail."""
        self.received += 1
        for each in recipients:
            waiting = self._waiting.pop(each, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(content)


class _Relay(asyncio.Protocol):
    """One SMTP session (RFC 5321), without extensions: every recipient is welcome."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._buffer = b""
        self._recipients: list[str] = []
        self._in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports aren't subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(b"220 bench\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        """Take one line or one mail from what has come; False if there is no whole one."""
        end = b"\r\n.\r\n" if self._in_data else b"\r\n"
        part, found, rest = self._buffer.partition(end)
        if not found:
            return False
        self._buffer = rest
        if self._in_data:
            self._mailbox.deliver(self._recipients, part)
            self._in_data, self._recipients = False, []
            self._transport.write(b"250 taken\r\n")
        else:
            self._transport.write(self._reply(part))
        return True

    def _reply(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"RCPT" and (found := _RECIPIENT.match(line)):
            self._recipients.append(found[1].decode())
        if verb == b"DATA":
            self._in_data = True
            return b"354 go on\r\n"
        if verb == b"QUIT":
            asyncio.get_running_loop().call_soon(self._transport.close)
            return b"221 bye\r\n"
        return b"250 bench\r\n"


class Homeservers:
    """Take notices of bindings, and count them.

    Attributes:
        notices: how many came.
    """

    def __init__(self) -> None:
        self.notices = Counter[str]()

    async def on_bind(self, request: web.Request) -> web.Response:
        """What Synapse answers."""
        content = await request.json()
        self.notices[content["mxid"]] += 1
        return web.json_response({})


class World:
    """Both, and where the relay listens."""

    def __init__(self, mailbox: Mailbox, homeservers: Homeservers, smtp_port: int) -> None:
        self.mailbox = mailbox
        self.homeservers = homeservers
        self.smtp_port = smtp_port


@asynccontextmanager
async def open_world(folder: Path) -> AsyncIterator[World]:
    """Listen, for as long as the block runs.

    Raises:
        CannotPrepare: the port of the homeservers is taken.
    """
    mailbox, homeservers = Mailbox(), Homeservers()
    async with AsyncExitStack() as stack:
        relay = await asyncio.get_running_loop().create_server(lambda: _Relay(mailbox), "127.0.0.1", 0)
        stack.callback(relay.close)
        app = web.Application()
        for method in ("POST", "PUT"):
            app.router.add_route(method, "/_matrix/federation/v1/3pid/onbind", homeservers.on_bind)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        for number in range(world.HOMESERVERS):
            host = f"127.0.0.{number + 1}"
            await _listen(web.TCPSite(runner, host, world.HOMESERVER_PORT, ssl_context=_certificate(folder)))
        yield World(mailbox, homeservers, relay.sockets[0].getsockname()[1])


async def _listen(site: web.TCPSite) -> None:
    """Take notices; the port stands in the Matrix IDs of the data, so it has to be this one."""
    try:
        await site.start()
    except OSError as error:
        raise CannotPrepare(f"{site.name} can't be listened on: {error.strerror}. Another benchmark?") from None


def _certificate(folder: Path) -> ssl.SSLContext:
    """Any: the servers are told not to verify, as certificates for so many addresses prove nothing here."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if not (folder / "localhost.pem").exists():
        Authority(folder)
    context.load_cert_chain(folder / "localhost.pem", folder / "localhost.key")
    return context


def token_in(content: bytes) -> str | None:
    """The token of the link in a mail; None if there is none."""
    letter = email.message_from_bytes(content, policy=email.policy.default)
    for part in letter.walk():
        if part.get_content_maintype() == "text":
            found = _TOKEN.search(part.get_content())
            if found:
                return found[1]
    return None
