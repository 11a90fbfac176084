"""Connections to the relay are kept for the next mail, and no mail is lost or sent twice by that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, Envelope, Session

from identity_server.domain.ports import DeliveryPostponed, DeliveryRefused
from identity_server.outbound.mail import SmtpTransport
from identity_server.outbound.smtp import TlsMode
from tests.outbound_mail.test_smtp import HOST, Relay, certificate, relay_at, shut, smtp
from tests.rendering.kit import make_mail, make_mails
from tests.support.loop_time import pass_on_loop


@dataclass
class Door(Relay):
    """A relay that knows how often somebody came and left, and how many are in."""

    came: int = 0
    inside: list[asyncio.Transport] = field(default_factory=list)
    most: int = 0
    goodbyes: int = 0

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        self.goodbyes += 1
        return "221 bye"

    def factory(self, **options: Any) -> Callable[[], asyncio.Protocol]:
        make, door = smtp(self, **options), self

        def counted() -> asyncio.Protocol:
            protocol = make()
            made, lost = protocol.connection_made, protocol.connection_lost

            def connection_made(transport: Any) -> None:
                door.came += 1
                door.inside.append(transport)
                door.most = max(door.most, len(door.inside))
                made(transport)

            def connection_lost(error: Exception | None) -> None:
                if door.inside:
                    door.inside.pop()
                lost(error)

            protocol.connection_made = connection_made  # type: ignore[method-assign]
            protocol.connection_lost = connection_lost  # type: ignore[method-assign, assignment]
            return protocol

        return counted

    def throw_everybody_out(self) -> None:
        for transport in [*self.inside]:
            transport.abort()


@asynccontextmanager
async def opened(door: Door, *, port: int = 0, **options: Any) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(door.factory(**options), HOST, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        door.throw_everybody_out()
        await shut(server)


@asynccontextmanager
async def sending(
    port: int, *, idle_seconds: float = 60, timeout_seconds: float = 60, secured: Path | None = None
) -> AsyncIterator[SmtpTransport]:
    tls = TlsMode.NONE if secured is None else TlsMode.STARTTLS
    relay = relay_at(port, tls=tls, ca_file=secured, login=secured is not None)
    relay = replace(relay, idle_seconds=idle_seconds, timeout_seconds=timeout_seconds)
    transport = SmtpTransport(mails=make_mails(), relay=relay)
    try:
        yield transport
    finally:
        await transport.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def to(number: int) -> Any:
    return make_mail(f"n{number}@example.org")


def recipients(door: Door) -> list[str]:
    return [address for envelope in door.taken for address in envelope.rcpt_tos]


async def test_mails_one_after_the_other_share_a_connection() -> None:
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        for number in range(3):
            await transport.send(to(number))
        assert recipients(door) == [f"n{number}@example.org" for number in range(3)]
        assert (door.came, door.goodbyes) == (1, 0)
    assert door.goodbyes == 1, "whoever goes says so"


async def test_mails_at_once_have_connections_of_their_own_up_to_a_number() -> None:
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        await asyncio.gather(*(transport.send(to(number)) for number in range(40)))
        assert sorted(recipients(door)) == sorted(f"n{number}@example.org" for number in range(40))
        assert 2 <= door.came <= 25
    assert door.goodbyes == door.came


async def test_a_connection_that_nobody_needs_is_let_go() -> None:
    door = Door()
    async with opened(door) as port, sending(port, idle_seconds=0.02) as transport:
        await transport.send(to(1))
        await until(lambda: not door.inside)
        assert door.goodbyes == 1
        await transport.send(to(2))
        assert door.came == 2
    assert recipients(door) == ["n1@example.org", "n2@example.org"]


async def test_the_login_is_not_repeated(tmp_path: Path) -> None:
    authority, door = trustme.CA(), Door()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options: dict[str, Any] = {"tls_context": certificate(authority), "authenticator": door.authenticate}
    async with (
        opened(door, auth_required=True, **options) as port,
        sending(port, secured=tmp_path / "ca.pem") as transport,
    ):
        for number in range(3):
            await transport.send(to(number))
    assert (len(door.taken), len(door.logins)) == (3, 1)


async def test_a_relay_that_was_started_anew_gets_the_next_mail() -> None:
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        await transport.send(to(1))
        door.throw_everybody_out()
        await transport.send(to(2))
    async with opened(door, port=port), sending(port) as transport:
        await transport.send(to(3))
    assert recipients(door) == ["n1@example.org", "n2@example.org", "n3@example.org"]


async def test_a_relay_that_was_away_between_two_mails_gets_the_second() -> None:
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        await transport.send(to(1))
        await until(lambda: len(door.inside) == 1)
        kept = [*door.inside]
        # Nothing is read from the connection between the two: what ends it is found by the mail itself.
        asyncio.get_running_loop().call_soon(kept[0].abort)
        await transport.send(to(2))
        assert door.came == 2
    assert recipients(door) == ["n1@example.org", "n2@example.org"]


async def test_a_relay_that_ends_idle_connections_gets_the_next_mail() -> None:
    door = Door()
    async with opened(door, timeout=30) as port, sending(port) as transport:
        await transport.send(to(1))
        pass_on_loop(30)
        await until(lambda: not door.inside)
        await transport.send(to(2))
    assert recipients(door) == ["n1@example.org", "n2@example.org"]


@pytest.mark.parametrize("step", ["MAIL", "RCPT"])
@pytest.mark.parametrize("code", ["421", "451", "452"])
async def test_one_mail_too_many_for_a_connection_goes_by_another(step: str, code: str) -> None:
    class Strict(Door):
        """Takes one mail per connection."""

        async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
            self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            self.answers = {step: f"{code} too many mails on this connection"} if session in self.sessions else {}
            return await super().handle_MAIL(server, session, envelope, address, options)

    door = Strict()
    async with opened(door) as port, sending(port) as transport:
        for number in range(3):
            await transport.send(to(number))
    assert recipients(door) == [f"n{number}@example.org" for number in range(3)]
    assert door.came == 3


async def test_a_mail_that_a_new_connection_cannot_carry_either_waits() -> None:
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        await transport.send(to(1))
        door.answers["MAIL"] = "451 not now"
        with pytest.raises(DeliveryPostponed, match="MAIL: 451"):
            await transport.send(to(2))
        assert door.came == 2
        with pytest.raises(DeliveryPostponed, match="MAIL: 451"):
            await transport.send(to(3))
        assert door.came == 3, "on a new connection, once is enough"


async def test_a_refused_mail_is_not_tried_again() -> None:
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        await transport.send(to(1))
        door.answers["RCPT"] = "550 nobody"
        with pytest.raises(DeliveryRefused, match="RCPT: 550"):
            await transport.send(to(2))
        await until(lambda: not door.inside)
        assert door.came == 1
        door.answers.clear()
        await transport.send(to(3))
    assert recipients(door) == ["n1@example.org", "n3@example.org"]


async def test_a_mail_that_may_have_arrived_is_not_sent_again_at_once() -> None:
    class Forgetful(Door):
        """Takes a mail, and is gone before it says so."""

        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
            answer = await super().handle_DATA(server, session, envelope)
            if len(self.taken) == 2:
                self.throw_everybody_out()
            return answer

    door = Forgetful()
    async with opened(door) as port, sending(port) as transport:
        await transport.send(to(1))
        with pytest.raises(DeliveryPostponed, match="DATA"):
            await transport.send(to(2))
    assert recipients(door) == ["n1@example.org", "n2@example.org"]


async def test_a_relay_that_falls_silent_postpones_within_the_time_limit() -> None:
    class Silent(Door):
        """Answers one mail."""

        async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
            self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
        ) -> str:
            if self.taken:
                pass_on_loop(5)
                await asyncio.sleep(30)
            return await super().handle_MAIL(server, session, envelope, address, options)

    door = Silent()
    async with opened(door) as port, sending(port, timeout_seconds=5) as transport:
        await transport.send(to(1))
        async with asyncio.timeout(60):
            with pytest.raises(DeliveryPostponed, match="MAIL: no answer in time"):
                await transport.send(to(2))


async def test_a_connection_carries_no_more_than_a_number_of_mails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("identity_server.outbound.smtp._MOST_MAILS", 2)
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        for number in range(5):
            await transport.send(to(number))
        assert (door.came, door.goodbyes) == (3, 2)
    assert len(door.taken) == 5


async def test_whoever_knocks_comes_anew_and_leaves() -> None:
    door = Door()
    async with opened(door) as port, sending(port) as transport:
        await transport.send(to(1))
        await transport.knock()
        assert (door.came, door.goodbyes) == (2, 1)
        await transport.send(to(2))
        assert door.came == 2
    with pytest.raises(DeliveryPostponed, match="connect"):
        await SmtpTransport(mails=make_mails(), relay=relay_at(port)).knock()
