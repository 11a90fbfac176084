"""Mail to real SMTP servers on loopback, with real TLS."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from aiosmtplib.protocol import SMTPProtocol

from identity_server.domain.ports import DeliveryError, DeliveryPostponed, DeliveryRefused, MailTransport
from identity_server.outbound.mail import SmtpTransport
from identity_server.outbound.smtp import SmtpRelay, TlsMode
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, make_mail, make_mails, write
from tests.support.loop_time import pass_on_loop

ADDRESS = "alice@example.org"
HOST = "127.0.0.1"


@dataclass
class Relay:
    """A relay that keeps what it takes, and answers as it is told to."""

    answers: dict[str, str] = field(default_factory=dict)
    taken: list[Envelope] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    logins: list[object] = field(default_factory=list)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return self.answers.get("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        return self.answers.get("RCPT", "250 OK")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if "DATA" not in self.answers:
            self.taken.append(envelope)
            self.sessions.append(session)
        return self.answers.get("DATA", "250 OK")

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        self.logins.append(data)
        login, password = getattr(data, "login", b""), getattr(data, "password", b"")
        # Not handled: aiosmtpd itself answers 535.
        return AuthResult(success=(login, password) == (b"relay-user", b"relay-pass"), handled=False)


async def shut(server: asyncio.Server) -> None:
    """Close a server and see its connections off; before Python 3.12 `wait_closed` doesn't wait for them."""
    server.close()
    async with asyncio.timeout(60):
        while getattr(server, "_active_count", 0):
            await asyncio.sleep(0)
    await server.wait_closed()


@asynccontextmanager
async def listening(factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(factory, HOST, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await shut(server)


def smtp(relay: Relay, **options: Any) -> Callable[[], asyncio.Protocol]:
    def factory() -> asyncio.Protocol:
        server = SMTP(relay, hostname="relay.test", loop=asyncio.get_running_loop(), **options)
        assert isinstance(server, asyncio.Protocol)
        return server

    return factory


@asynccontextmanager
async def conversation(*lines: bytes, silent_seconds: float = 0) -> AsyncIterator[int]:
    """A server that greets with the first line, answers each command with the next, then says nothing more.

    So many seconds of its silence pass at once.
    """
    ends: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        for number, line in enumerate(lines):
            if number and not await reader.readline():
                return
            if line == b"HANG UP":
                writer.close()
                return
            writer.write(line + b"\r\n")
        if lines:
            await reader.readline()
        pass_on_loop(silent_seconds)
        await reader.read()

    server = await asyncio.start_server(talk, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for end in ends:
            end.close()
        await shut(server)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def certificate(authority: trustme.CA, name: str = HOST) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def relay_at(
    port: int, *, tls: TlsMode = TlsMode.NONE, ca_file: Path | None = None, login: bool = False
) -> SmtpRelay:
    # No connection is kept: of that tells test_smtp_connections.py.
    relay = SmtpRelay(
        host=HOST,
        port=port,
        ehlo_name="id.example.org",
        tls=tls,
        ca_file=ca_file,
        timeout_seconds=60,
        idle_seconds=0,
    )
    return replace(relay, username="relay-user", password="relay-pass") if login else relay


def transport(relay: SmtpRelay) -> SmtpTransport:
    return SmtpTransport(mails=make_mails(), relay=relay)


def content(envelope: Envelope) -> EmailMessage:
    assert isinstance(envelope.content, bytes)
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


async def failure(sender: SmtpTransport, to: str = ADDRESS) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await sender.send(make_mail(to))
    told = "".join(traceback.format_exception(caught.value))
    assert to not in told
    assert "relay-pass" not in told
    assert to.partition("@")[0] not in str(caught.value)
    return caught.value


# --- mail that arrives ---------------------------------------------------------------------------


async def test_a_mail_arrives_whole() -> None:
    relay = Relay()
    async with listening(smtp(relay)) as port:
        sender: MailTransport = transport(relay_at(port))
        await sender.send(make_mail(confirm_url="https://id.example.org/c?token=" + "x" * 300))
    assert [(each.mail_from, each.rcpt_tos) for each in relay.taken] == [("noreply@example.org", [ADDRESS])]
    assert relay.sessions[0].host_name == "id.example.org"
    message = content(relay.taken[0])
    assert message["Message-ID"] == "<m1@id.example.org>"
    body = message.get_body(("plain",))
    assert body is not None
    assert "https://id.example.org/c?token=" + "x" * 300 in body.get_content().splitlines()
    raw = relay.taken[0].content
    assert isinstance(raw, bytes)
    assert max(len(line) for line in raw.splitlines()) <= 998


async def test_lines_that_begin_with_a_dot_stay(tmp_path: Path) -> None:
    write(tmp_path, {"dots/mail/verification.txt.j2": ".\n..\nend {{ token }}"})
    mails = make_mails(Templates.load(server_name=SERVER, path=tmp_path))
    relay = Relay()
    async with listening(smtp(relay)) as port:
        await SmtpTransport(mails=mails, relay=relay_at(port)).send(make_mail(brand="dots"))
    body = content(relay.taken[0]).get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines() == [".", "..", "end sample"]


async def test_starttls_with_login(authority: trustme.CA, ca_file: Path) -> None:
    relay = Relay()
    options = {"tls_context": certificate(authority), "require_starttls": True, "authenticator": relay.authenticate}
    async with listening(smtp(relay, auth_required=True, **options)) as port:
        await transport(relay_at(port, tls=TlsMode.STARTTLS, ca_file=ca_file, login=True)).send(make_mail())
    assert len(relay.taken) == len(relay.logins) == 1
    assert relay.sessions[0].ssl is not None


async def test_tls_from_the_start(authority: trustme.CA, ca_file: Path) -> None:
    relay = Relay()
    async with listening(smtp(relay), certificate(authority)) as port:
        await transport(relay_at(port, tls=TlsMode.IMPLICIT, ca_file=ca_file)).send(make_mail())
    assert len(relay.taken) == 1


async def test_a_domain_beyond_ascii_goes_in_ascii_form() -> None:
    relay = Relay()
    async with listening(smtp(relay)) as port:
        await transport(relay_at(port)).send(make_mail("alice@bücher.example"))
    assert relay.taken[0].rcpt_tos == ["alice@xn--bcher-kva.example"]
    assert relay.taken[0].mail_options == []


async def test_a_local_part_beyond_ascii_needs_smtputf8() -> None:
    relay = Relay()
    async with listening(smtp(relay, enable_SMTPUTF8=True)) as port:
        await transport(relay_at(port)).send(make_mail("jürgen@bücher.example"))
    assert relay.taken[0].rcpt_tos == ["jürgen@xn--bcher-kva.example"]
    assert set(relay.taken[0].mail_options) == {"SMTPUTF8", "BODY=8BITMIME"}
    assert content(relay.taken[0])["To"] == "jürgen@xn--bcher-kva.example"


async def test_a_relay_without_smtputf8_cannot_carry_it() -> None:
    relay = Relay()
    async with listening(smtp(relay)) as port:
        assert isinstance(await failure(transport(relay_at(port)), "jürgen@example.org"), DeliveryRefused)
    assert relay.taken == []


async def test_what_follows_the_last_word_does_not_matter() -> None:
    lines = (b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go")
    async with conversation_taking_data(*lines, after=b"HANG UP") as port:
        await transport(relay_at(port)).send(make_mail())


@asynccontextmanager
async def conversation_taking_data(*lines: bytes, after: bytes) -> AsyncIterator[int]:
    """As `conversation`, but after DATA it reads a whole mail, accepts it, then does `after`."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, line in enumerate(lines):
            if number:
                await reader.readline()
            writer.write(line + b"\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 taken\r\n")
        if after != b"HANG UP":
            await reader.readline()
            writer.write(after + b"\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await shut(server)


async def test_an_odd_goodbye_does_not_matter() -> None:
    lines = (b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go")
    async with conversation_taking_data(*lines, after=b"500 what") as port:
        await transport(relay_at(port)).send(make_mail())


# --- mail that doesn't ---------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [("550", DeliveryRefused), ("554", DeliveryRefused), ("451", DeliveryPostponed), ("530", DeliveryPostponed)],
)
async def test_an_answer_about_the_mail_decides(step: str, code: str, kind: type[DeliveryError]) -> None:
    relay = Relay(answers={step: f"{code} <{ADDRESS}> is not wanted"})
    async with listening(smtp(relay)) as port:
        error = await failure(transport(relay_at(port)))
    assert type(error) is kind
    assert str(error) == f"{step}: {code}"


@pytest.mark.parametrize("greeting", [b"554 no service here", b"421 later", b"what is this"])
async def test_a_relay_that_does_not_serve_postpones(greeting: bytes) -> None:
    async with conversation(greeting) as port:
        error = await failure(transport(relay_at(port)))
    assert isinstance(error, DeliveryPostponed)
    assert str(error).startswith("connect: ")


async def test_nobody_listens() -> None:
    async with conversation(b"220 hi") as port:
        pass
    error = await failure(transport(relay_at(port)))
    assert isinstance(error, DeliveryPostponed)
    assert str(error) == "connect: connection refused"


async def test_a_relay_that_does_not_speak_tls_at_once_postpones() -> None:
    async with conversation(b"220 hi") as port:
        error = await failure(transport(relay_at(port, tls=TlsMode.IMPLICIT)))
    assert isinstance(error, DeliveryPostponed)
    assert str(error) == "connect: no TLS that both sides speak"


async def test_a_relay_without_an_address_postpones(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await failure(transport(replace(relay_at(25), host="relay.example.org")))
    assert isinstance(error, DeliveryPostponed)
    assert str(error) == "connect: its name has no address"


@pytest.mark.parametrize(
    ("lines", "step"),
    [
        ((b"220 hi", b"HANG UP"), "EHLO"),
        ((b"220 hi", b"250 hi", b"250 ok", b"HANG UP"), "RCPT"),
        ((b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"HANG UP"), "DATA"),
    ],
)
async def test_a_relay_that_hangs_up_postpones(lines: tuple[bytes, ...], step: str) -> None:
    async with conversation(*lines) as port:
        error = await failure(transport(relay_at(port)))
    assert isinstance(error, DeliveryPostponed)
    assert str(error).startswith(f"{step}: ")


@pytest.mark.parametrize(
    ("lines", "step"),
    [((), "connect"), ((b"220 hi",), "EHLO"), ((b"220 hi", b"250 hi", b"250 ok"), "RCPT")],
)
async def test_silence_postpones_within_the_time_limit(lines: tuple[bytes, ...], step: str) -> None:
    async with conversation(*lines, silent_seconds=10) as port:
        error = await failure(transport(replace(relay_at(port), timeout_seconds=10)))
    assert isinstance(error, DeliveryPostponed)
    assert str(error) == f"{step}: no answer in time"


@pytest.mark.parametrize("answer", [b"220 ", b"250 ", b"354 "])
async def test_a_cancellation_that_comes_with_an_answer_is_not_forgotten(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in = SMTPProtocol.data_received

    def take_in_and_cancel(protocol: SMTPProtocol, data: bytes) -> None:
        take_in(protocol, data)
        if data.startswith(answer):
            sending.cancel()

    relay = Relay()
    async with listening(smtp(relay)) as port:
        monkeypatch.setattr(SMTPProtocol, "data_received", take_in_and_cancel)
        sending = asyncio.create_task(transport(relay_at(port)).send(make_mail(ADDRESS)))
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert relay.taken == []


async def test_a_relay_that_dribbles_does_not_outlast_the_time_limit() -> None:
    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                writer.write(b"220-hi\r\n")
                pass_on_loop(1)
                await asyncio.sleep(0)
        finally:
            writer.close()

    tasks: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(
        lambda reader, writer: tasks.append(asyncio.ensure_future(dribble(reader, writer))), HOST, 0
    )
    try:
        sender = transport(replace(relay_at(server.sockets[0].getsockname()[1]), timeout_seconds=10))
        async with asyncio.timeout(60):
            assert isinstance(await failure(sender), DeliveryPostponed)
    finally:
        for task in tasks:
            task.cancel()
        await shut(server)


# --- TLS and login -------------------------------------------------------------------------------


async def test_nothing_goes_in_clear_where_starttls_is_missing() -> None:
    relay = Relay()
    async with listening(smtp(relay)) as port:
        error = await failure(transport(relay_at(port, tls=TlsMode.STARTTLS, login=True)))
    assert isinstance(error, DeliveryPostponed)
    assert str(error) == "STARTTLS: the relay does not offer it"
    assert relay.taken == relay.logins == []


async def test_nothing_goes_in_clear_where_starttls_is_refused() -> None:
    async with conversation(b"220 hi", b"250-hi\r\n250 STARTTLS", b"454 not now") as port:
        error = await failure(transport(relay_at(port, tls=TlsMode.STARTTLS, login=True)))
    assert isinstance(error, DeliveryPostponed)
    assert str(error).startswith("STARTTLS: ")


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
@pytest.mark.parametrize("fault", ["unknown authority", "other name"])
async def test_a_certificate_that_does_not_fit_postpones(
    mode: TlsMode, fault: str, authority: trustme.CA, ca_file: Path
) -> None:
    relay = Relay()
    theirs = certificate(trustme.CA()) if fault == "unknown authority" else certificate(authority, "other.test")
    factory = smtp(relay, tls_context=theirs) if mode is TlsMode.STARTTLS else smtp(relay)
    async with listening(factory, None if mode is TlsMode.STARTTLS else theirs) as port:
        error = await failure(transport(relay_at(port, tls=mode, ca_file=ca_file, login=True)))
    assert isinstance(error, DeliveryPostponed)
    assert "certificate not trusted" in str(error)
    assert relay.taken == relay.logins == []


async def test_without_a_ca_file_the_systems_authorities_count(authority: trustme.CA) -> None:
    relay = Relay()
    async with listening(smtp(relay), certificate(authority)) as port:
        assert "certificate not trusted" in str(await failure(transport(relay_at(port, tls=TlsMode.IMPLICIT))))


async def test_a_refused_login_postpones(authority: trustme.CA, ca_file: Path) -> None:
    relay = Relay()
    options = {"tls_context": certificate(authority), "authenticator": relay.authenticate}
    async with listening(smtp(relay, **options)) as port:
        settings = replace(relay_at(port, tls=TlsMode.STARTTLS, ca_file=ca_file, login=True), password="wrong")
        error = await failure(transport(settings))
    assert isinstance(error, DeliveryPostponed)
    assert str(error) == "AUTH: 535"
    assert relay.taken == []


def test_the_password_is_not_shown() -> None:
    assert "relay-pass" not in repr(relay_at(25, login=True))


def test_a_missing_ca_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"."):
        transport(relay_at(25, tls=TlsMode.IMPLICIT, ca_file=tmp_path / "absent.pem"))


# --- mail that can't be made ---------------------------------------------------------------------


async def test_an_impossible_address_is_refused_without_a_connection() -> None:
    with pytest.raises(DeliveryRefused, match="cannot be mailed"):
        await transport(relay_at(9)).send(make_mail("a@b@c.example"))


async def test_a_broken_template_postpones(tmp_path: Path) -> None:
    write(tmp_path, {"b/mail/verification.txt.j2": "{{ missing }}"})
    mails = make_mails(Templates.load(server_name=SERVER, path=tmp_path))
    with pytest.raises(DeliveryPostponed, match=r"verification\.txt"):
        await SmtpTransport(mails=mails, relay=relay_at(9)).send(make_mail(brand="b"))


async def test_an_oversize_mail_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"b/mail/verification.html.j2": "{{ 'long line ' * 120000 }}"})
    mails = make_mails(Templates.load(server_name=SERVER, path=tmp_path))
    with pytest.raises(DeliveryRefused, match="larger than"):
        await SmtpTransport(mails=mails, relay=relay_at(9)).send(make_mail(brand="b"))
