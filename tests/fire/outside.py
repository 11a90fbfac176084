"""The neighbours of a server under fire, all real and on loopback: a homeserver behind TLS, and a mail relay."""

from __future__ import annotations

import asyncio
import email.policy
import re
import ssl
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web
from aiosmtpd.smtp import SMTP

INTERNET = "127.77.0.1"
"""127.77.0.0/16 is what these tests call the internet; the rest of 127.0.0.0/8 is the operator's own network."""

_TOKEN = re.compile(r"/confirm\?token=([0-9A-Za-z_-]+)")


class Homeserver:
    """Vouches for everybody who says so, and takes notices.

    Attributes:
        name: its server name.
        ca_file: vouches for it.
        notices: the bindings that it was told of, with their invites, in the order of their arrival.
        takes_notices: whether it does; else it answers 503.
    """

    def __init__(self, folder: Path) -> None:
        self.name = ""
        self.notices: list[dict[str, Any]] = []
        self.takes_notices = True
        self.ca_file = folder / "homeservers.pem"
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(self.ca_file)

    def user(self, localpart: str) -> str:
        """The Matrix ID of one of its users."""
        return f"@{localpart}:{self.name}"

    def openid(self, localpart: str) -> dict[str, Any]:
        """What a client registers with."""
        return {
            "access_token": localpart,
            "token_type": "Bearer",
            "matrix_server_name": self.name,
            "expires_in": 3600,
        }

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Homeserver]:
        """Answer for as long as the block runs."""
        app = web.Application()
        app.router.add_get("/_matrix/federation/v1/openid/userinfo", self._userinfo)
        app.router.add_route("*", "/_matrix/federation/v1/3pid/onbind", self._on_bind)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert(INTERNET).configure_cert(context)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, INTERNET, 0, ssl_context=context)
        await site.start()
        (host, port), *_ = (address[:2] for address in runner.addresses)
        self.name = f"{host}:{port}"
        try:
            yield self
        finally:
            assert runner.server is not None
            transports = [connection.transport for connection in runner.server.connections]
            await runner.cleanup()
            # TLS is closed by both sides; a server that was killed doesn't do its part.
            for transport in transports:
                if transport is not None:
                    transport.abort()

    async def _userinfo(self, request: web.Request) -> web.Response:
        return web.json_response({"sub": self.user(request.query["access_token"])})

    async def _on_bind(self, request: web.Request) -> web.Response:
        if not self.takes_notices:
            raise web.HTTPServiceUnavailable
        self.notices.append(await request.json())
        return web.json_response({})

    def told_of(self, address: str, user_id: str) -> bool:
        """Whether it knows that this address was bound to this user."""
        return any((notice["address"], notice["mxid"]) == (address, user_id) for notice in self.notices)

    def invited(self, token: str) -> bool:
        """Whether it got an invite with this token."""
        return any(
            invite["signed"]["token"] == token for notice in self.notices for invite in notice.get("invites", ())
        )


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail as the relay took it.

    Attributes:
        arrived: by the loop's clock.
    """

    to: str
    message: EmailMessage
    arrived: float

    @property
    def message_id(self) -> str:
        return str(self.message["Message-ID"])

    @property
    def token(self) -> str | None:
        """The token in the link of a validation mail; None if it is another kind of mail."""
        text = self.message.get_body(("plain",))
        found = _TOKEN.search(text.get_content()) if text is not None else None
        return found and found[1]


Answer = Callable[[SMTP, str], Awaitable[str | None]]


async def accept(_server: SMTP, _recipient: str) -> str | None:
    """As relays usually do."""
    return None


@dataclass
class Relay:
    """A mail relay that does what it is told to.

    Attributes:
        letters: what it took, in that order.
        on_rcpt: says an error to a recipient, or None; it may take its time.
        on_data: likewise to a letter; what it answers in the end stands beside the letter, which is kept before.
        keeps: whether a letter is kept before `on_data` is asked, or only if that has nothing against it.
    """

    letters: list[Letter] = field(default_factory=list)
    on_rcpt: Answer = accept
    on_data: Answer = accept
    keeps: bool = False
    port: int = 0
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: asyncio.Server | None = None
    _connections: weakref.WeakSet[SMTP] = field(default_factory=weakref.WeakSet)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Relay]:
        """Take mail for as long as the block runs."""
        await self.open()
        try:
            yield self
        finally:
            await self.close()

    async def open(self) -> None:
        """Take connections; after `close`, on the same port."""
        loop = asyncio.get_running_loop()

        def make() -> SMTP:
            smtp = _Smtp(self, loop=loop)
            self._connections.add(smtp)
            return smtp

        self._server = await loop.create_server(make, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no more connections, and end those that there are."""
        if self._server is None:
            return
        self._server.close()
        for smtp in self._connections:
            if isinstance(smtp.transport, asyncio.Transport):
                smtp.transport.abort()
        self._connections.clear()
        await self._server.wait_closed()
        self._server = None

    async def handle_RCPT(self, server: SMTP, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Ask whether this recipient is welcome."""
        refusal = await self.on_rcpt(server, address)
        if refusal:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 welcome"

    async def handle_DATA(self, server: SMTP, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Take a letter."""
        message = message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        recipient = envelope.rcpt_tos[0]
        if self.keeps:
            await self._keep(recipient, message)
        refusal = await self.on_data(server, recipient)
        if refusal:
            return refusal
        if not self.keeps:
            await self._keep(recipient, message)
        return "250 kept"

    async def _keep(self, recipient: str, message: EmailMessage) -> None:
        async with self._arrived:
            self.letters.append(Letter(recipient, message, asyncio.get_running_loop().time()))
            self._arrived.notify_all()

    async def token_for(self, address: str, *, seconds: float) -> str:
        """The newest token that was mailed to an address, waited for if there is none.

        Raises:
            TimeoutError: there is none in time.
        """
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: self.tokens_for(address))
        return self.tokens_for(address)[-1]

    def tokens_for(self, address: str) -> list[str]:
        """The tokens that were mailed to an address."""
        return [letter.token for letter in self.letters if letter.to == address and letter.token]

    def others_to(self, address: str) -> list[Letter]:
        """The letters to an address without a token: invites."""
        return [letter for letter in self.letters if letter.to == address and not letter.token]

    def most_repeats(self) -> int:
        """How often the same letter has come again, at most."""
        counted = Counter(letter.message_id for letter in self.letters)
        return max(counted.values(), default=1) - 1


class _Smtp(SMTP):
    line_length_limit = 64 * 1024
