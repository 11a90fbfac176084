"""Speaks SMTP with the relay that takes our mail, over connections that are kept for the next mail.

Rule: an answer that is about this one mail (to MAIL, RCPT or DATA) decides its fate; whatever goes wrong before
that is about us and the relay, and can be put right while the mail waits. So a certificate that doesn't fit, a
refused login, a relay without the STARTTLS that we were told to use, and even a 5xx greeting all postpone: refusing
would tell a user that a good address is bad. Nothing is ever sent in clear where TLS was asked for.
Error texts hold the step and the reply code. Replies are left out, because relays quote addresses in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import aiosmtplib

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused
from identity_server.rendering.letters import Letter

_QUIT_SECONDS = 1.0
_PERMANENT = 500
# 5xx replies that speak of the connection, not of the mail: no service, login or TLS wanted first, login refused.
_ABOUT_US = frozenset({530, 534, 535, 538})
# Relays take 50 from one client (Postfix), and what waits for one of these still ends within the lease of its job.
_MOST_AT_ONCE = 25
# Some relays count the mails of a connection; none is known to stop before this.
_MOST_MAILS = 100


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
        idle_seconds: how long a connection is kept for another mail; with 0 each mail has its own. Postfix under
            stress waits 10 s for the next command.
    """

    host: str
    port: int
    ehlo_name: str
    tls: TlsMode = TlsMode.NONE
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    timeout_seconds: float = 10.0
    idle_seconds: float = 5.0


class SmtpConnections:
    """Connections to one relay: opened when there is a mail and no connection is free, so many at most."""

    def __init__(self, relay: SmtpRelay) -> None:
        """Read the trusted authorities; nothing is connected yet.

        Raises:
            OSError: `ca_file` can't be read (`ssl.SSLError` where it holds no certificate).
        """
        self._relay = relay
        self._tls = _tls_context(relay.ca_file) if relay.tls is not TlsMode.NONE else None
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)
        self._kept: dict[_Connection, asyncio.TimerHandle] = {}
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def send(self, letter: Letter) -> None:
        """Hand one letter over; returns once the relay has taken it.

        Raises:
            DeliveryRefused: the relay refused this mail for good, or cannot carry its address.
            DeliveryPostponed: everything else.
        """
        async with self._places:
            kept = self._take_kept()
            if kept is not None:
                try:
                    await self._send_on(kept, letter)
                except _Stale:
                    # The relay has not begun to take this mail, so it can't be sent twice.
                    pass
                else:
                    return
            await self._send_on(_Connection(self._relay, self._tls), letter)

    async def knock(self) -> None:
        """Connect and log in as for a mail, and leave again.

        Raises:
            DeliveryPostponed: the relay doesn't let us in.
        """
        async with self._places:
            connection = _Connection(self._relay, self._tls)
            await self._within_time(connection, connection.open())
            await connection.say_goodbye()

    async def close(self) -> None:
        """Leave the relay; for when all mails are sent."""
        for connection, timer in self._kept.items():
            timer.cancel()
            self._leave(connection)
        self._kept.clear()
        while self._goodbyes:
            await asyncio.wait(self._goodbyes)

    async def _send_on(self, connection: _Connection, letter: Letter) -> None:
        await self._within_time(connection, connection.carry_out(letter))
        if self._relay.idle_seconds <= 0 or connection.mails >= _MOST_MAILS:
            await connection.say_goodbye()
            return
        let_go = asyncio.get_running_loop().call_later(self._relay.idle_seconds, self._let_go, connection)
        self._kept[connection] = let_go

    async def _within_time(self, connection: _Connection, action: Awaitable[None]) -> None:
        """Wait for something to be done; a connection on which anything went wrong is closed."""
        try:
            async with asyncio.timeout(self._relay.timeout_seconds):
                await action
        except TimeoutError:
            connection.close()
            raise DeliveryPostponed(f"{connection.step}: no answer in time") from None
        except BaseException:
            connection.close()
            raise

    def _take_kept(self) -> _Connection | None:
        """The connection that was used last, so that those that aren't needed are let go; None if there is none."""
        if not self._kept:
            return None
        connection, timer = self._kept.popitem()
        timer.cancel()
        return connection

    def _let_go(self, connection: _Connection) -> None:
        del self._kept[connection]
        self._leave(connection)

    def _leave(self, connection: _Connection) -> None:
        goodbye = asyncio.create_task(connection.say_goodbye())
        self._goodbyes.add(goodbye)
        goodbye.add_done_callback(self._goodbyes.discard)


class _Stale(Exception):
    """The relay doesn't go on with a connection that was kept."""


class _Connection:
    """One connection with any number of mails, one after the other.

    Attributes:
        step: how far the present mail has come.
        mails: how many have been taken.
    """

    def __init__(self, relay: SmtpRelay, tls: ssl.SSLContext | None) -> None:
        self.step = "connect"
        self.mails = 0
        self._relay = relay
        self._tls = tls
        self._client = aiosmtplib.SMTP(
            hostname=relay.host,
            port=relay.port,
            local_hostname=relay.ehlo_name,
            # Here `asyncio.timeout` limits everything; the library's `wait_for` of Python 3.11 may swallow a cancellation.
            timeout=None,
            use_tls=relay.tls is TlsMode.IMPLICIT,
            start_tls=False,  # done below, as a step of its own
            tls_context=tls,
        )

    async def carry_out(self, letter: Letter) -> None:
        """Hand a letter over.

        Raises:
            _Stale: the relay doesn't want another mail on this connection, and has taken nothing of this one.
            DeliveryRefused, DeliveryPostponed: as for `SmtpConnections`.
        """
        if self.mails == 0:
            await self.open()
        options, encoding = self._options(unicode_addresses=letter.smtputf8)
        try:
            await self._about_mail("MAIL", self._client.mail(letter.sender, options=options, encoding=encoding))
            await self._about_mail("RCPT", self._client.rcpt(letter.recipient, encoding=encoding))
        except DeliveryPostponed:
            # 421, the end of the connection, or whatever a relay says to one mail too many.
            if self.mails > 0:
                raise _Stale from None
            raise
        await self._about_mail("DATA", self._client.data(letter.content))
        self.mails += 1

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

    async def say_goodbye(self) -> None:
        """Send QUIT, and close. The relay has what it was given already, so nothing that happens here matters."""
        try:
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                async with asyncio.timeout(_QUIT_SECONDS):
                    await self._client.quit()
        finally:
            self.close()

    def close(self) -> None:
        """Close it without a word."""
        self._client.close()

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


_WORDS: Final[Mapping[type[Exception], str]] = {
    ssl.SSLError: "no TLS that both sides speak",
    TimeoutError: "no answer in time",
    socket.gaierror: "its name has no address",
    ConnectionRefusedError: "connection refused",
}


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _reason(error: Exception) -> str:
    """What failed, in words that can't hold an address: the kind of error, with the certificate's fault."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({error.verify_message})"
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError | OSError) and cause is not error:
        return _reason(cause)
    return type(error).__name__
