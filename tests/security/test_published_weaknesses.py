"""Each published weakness of servers of this kind, tried on this one.

All are of Sydent (CVE-2019-11842 of Synapse, too); what each is about is in its advisory.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme

from identity_server.domain.ports import DeliveryPostponed
from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.federation import Federation
from identity_server.outbound.mail import SmtpTransport
from identity_server.outbound.smtp import SmtpRelay, TlsMode
from identity_server.outbound.system import SystemClock, SystemRandomness
from tests.outbound_mail.test_smtp import Relay, listening, shut, smtp
from tests.rendering.kit import make_mail, make_mails
from tests.support.harness import SECRET, Harness, User


@pytest.mark.parametrize(
    "address",
    [
        "eve@evil.example@example.com",
        "eve@evil.example <alice@example.com>",
        '"eve@evil.example"@example.com@example.org',
        "alice@example.com, eve@evil.example",
        "eve@evil.example\n@example.com",
    ],
)
async def test_cve_2019_11340_address_that_is_read_in_two_ways(server: Harness, alice: User, address: str) -> None:
    """Of `a@b@c` one parser took the first domain and another the last."""
    reply = await server.request_token(alice, address)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_EMAIL")
    assert server.mail.sent == []


async def test_cve_2019_11842_guessable_tokens(server: Harness, alice: User) -> None:
    """Tokens came from a generator whose earlier output gives away what follows."""
    real = SystemRandomness()
    random.seed(11842)
    first = [real.token_bytes(32) for _ in range(100)]
    random.seed(11842)
    second = [real.token_bytes(32) for _ in range(100)]
    assert len({*first, *second}) == 200

    sid = (await server.request_token(alice, "alice@example.com")).json["sid"]
    # 128 and 256 bits, in base64.
    assert len(sid) >= 22
    assert len(server.mail.last_token) >= 43
    assert len(alice.token) >= 43


async def test_cve_2021_29430_request_without_an_end(server: Harness) -> None:
    """Bodies were read whole, whatever their length."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 256 * 1024 * 1024:
            sent += 65_536
            yield b" " * 65_536

    try:
        reply = await server.post("account/register", data=endless())
    except ConnectionError:
        pass
    else:
        assert (reply.status, reply.errcode) == (413, "M_TOO_LARGE")
    # What fits between here and there, of the network's buffers and ours.
    assert sent < 32 * 1024 * 1024


@pytest.mark.parametrize("name", ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "10.0.0.1"])
async def test_cve_2021_29431_homeserver_in_the_operators_own_network(name: str) -> None:
    """Whoever registered chose where the server sent a request."""
    connections = 0

    async def count(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    inside = await asyncio.start_server(count, "127.0.0.1", 0)
    port = inside.sockets[0].getsockname()[1]
    federation = Federation(clock=SystemClock(), randomness=SystemRandomness(), screen=AddressScreen())
    try:
        with pytest.raises(Exception, match="it has no address that this server connects to"):
            await federation.openid_user_id(f"{name}:{port}", "token")  # type: ignore[arg-type]
    finally:
        await federation.close()
        await shut(inside)
    assert connections == 0


@pytest.mark.parametrize(
    "injected",
    [
        'Free\r\nBcc: everyone@example.com\r\n\r\n<a href="https://evil.example">win</a> https://evil.example/',
        "\r\nBcc: eve@evil.eg",
        "<a href=//evil.eg>",
        "Win at https://evil.example/ this week only",
    ],
)
async def test_cve_2021_29432_mail_that_strangers_write(server: Harness, alice: User, injected: str) -> None:
    """Names of rooms and people went into invitation mails as they came: headers, links and all."""
    reply = await server.post(
        "store-invite",
        {
            "medium": "email",
            "address": "carol@example.com",
            "room_id": "!room:example.org",
            "sender": alice.user_id,
            "room_name": injected,
            "sender_display_name": injected,
            "room_alias": injected,
        },
        as_=alice,
    )
    assert reply.status == 200, reply.json
    [mail] = server.mail.sent
    message = message_from_bytes(make_mails().render(mail).content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert message["Bcc"] is None
    assert message["To"].addresses[0].addr_spec == "carol@example.com"
    html, text = message.get_body(("html",)), message.get_body(("plain",))
    assert html is not None
    assert text is not None
    # Escaped where it is code, and cut short where it would be a message.
    assert "<a href=//evil" not in html.get_content()
    for part in (html, text):
        assert "https://evil.example/" not in part.get_content()


@pytest.mark.parametrize("field", ["client_secret", "email", "next_link"])
async def test_cve_2021_29433_parameters_of_any_length(server: Harness, alice: User, field: str) -> None:
    """They were stored as they came, so a few requests filled the disk."""
    body = {"client_secret": SECRET, "email": "alice@example.com", "send_attempt": 1, field: "a" * 50_000}
    reply = await server.post("validate/email/requestToken", body, as_=alice)
    assert reply.status == 400
    assert server.count("validation_sessions") == 0
    assert server.count("jobs") == 0


@pytest.mark.parametrize("mode", [TlsMode.IMPLICIT, TlsMode.STARTTLS])
@pytest.mark.parametrize("certificate", ["of nobody", "of another name"])
async def test_cve_2023_38686_relay_that_shows_any_certificate(
    tmp_path: Path, mode: TlsMode, certificate: str
) -> None:
    """Mails, with their tokens, were handed to whoever stood in the relay's place."""
    trusted = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    trusted.cert_pem.write_to_path(ca_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority, name = (trusted, "other.example") if certificate == "of another name" else (trustme.CA(), "127.0.0.1")
    authority.issue_cert(name).configure_cert(context)
    relay = Relay()
    factory = smtp(relay, tls_context=context) if mode is TlsMode.STARTTLS else smtp(relay)
    async with listening(factory, None if mode is TlsMode.STARTTLS else context) as port:
        target = SmtpRelay(
            host="127.0.0.1", port=port, ehlo_name="id.example.org", tls=mode, ca_file=ca_file, timeout_seconds=60
        )
        with pytest.raises(DeliveryPostponed, match="certificate not trusted"):
            await SmtpTransport(mails=make_mails(), relay=target).send(make_mail("alice@example.org"))
    assert relay.taken == []
