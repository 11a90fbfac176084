"""Counts what becomes of mails, whatever delivers them."""

from __future__ import annotations

from collections.abc import Callable

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused, Mail, MailTransport


class CountedMail:
    """Hands mails on. Implements `MailTransport`.

    Args:
        count: is told the outcome of each.
    """

    def __init__(self, transport: MailTransport, *, count: Callable[[str], None]) -> None:
        self._transport = transport
        self._count = count

    async def send(self, mail: Mail) -> None:
        """Send one mail; raises what the transport raises."""
        try:
            await self._transport.send(mail)
        except DeliveryRefused:
            self._count("refused")
            raise
        except DeliveryPostponed:
            self._count("postponed")
            raise
        self._count("taken")
