"""What homeservers answer, and what becomes of it."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trustme

from identity_server.domain.errors import (
    HomeserverMisbehaved,
    HomeserverUnreachable,
    IdentityServerError,
    OpenIdTokenRefused,
)
from identity_server.domain.identifiers import ServerName, parse_server_name
from identity_server.domain.ports import Homeservers
from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.federation import DEFAULT_LIMITS, Federation, FederationLimits
from identity_server.outbound.https import make_tls_context
from identity_server.outbound.system import SystemClock, SystemRandomness
from tests.outbound.support import PUBLIC, USERINFO, Internet, TlsServer, Writer, brief_id, http, http_json
from tests.support.loop_time import pass_on_loop

TOKEN = "opaque+token/ with&=?#ü%00"
SUB = b'{"sub": "@alice:%s"}'


@pytest.fixture
async def homeserver(internet: Internet) -> TlsServer:
    internet.dns.add("hs.test", "A", PUBLIC)
    return await internet.tls_server("hs.test")


@pytest.fixture
def name(homeserver: TlsServer) -> ServerName:
    return parse_server_name(f"hs.test:{homeserver.port}")


@pytest.fixture
def federation(internet: Internet) -> Federation:
    return internet.federation(limits=FederationLimits(total_seconds=60))


def sub_of(name: ServerName) -> bytes:
    return SUB % name.encode()


async def error_of(federation: Homeservers, name: ServerName) -> IdentityServerError:
    """What the call raises; checked to say the homeserver's name, and the token nowhere."""
    with pytest.raises(IdentityServerError) as caught:
        await federation.openid_user_id(name, TOKEN)
    error: BaseException | None = caught.value
    while error is not None:  # Even a context that no traceback prints is printed by some error reporters.
        assert "opaque" not in "".join(traceback.format_exception(error))
        error = error.__context__
    assert isinstance(caught.value, OpenIdTokenRefused) or name in caught.value.message
    return caught.value


def raw(*chunks: bytes, forever: bytes = b"", every_seconds: float = 0) -> Writer:
    """Writes the chunks, then `forever` again and again, each time after so long on the loop."""

    async def write(writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
        while forever:
            writer.write(forever)
            await writer.drain()
            pass_on_loop(every_seconds)
            await asyncio.sleep(0)
        await writer.drain()

    return write


async def silence(_: asyncio.StreamWriter) -> None:
    pass_on_loop(DEFAULT_LIMITS.total_seconds)
    await asyncio.Event().wait()


# --- good answers -------------------------------------------------------------------------


async def test_asks_as_the_specification_says(
    federation: Federation, homeserver: TlsServer, name: ServerName
) -> None:
    homeserver.on(USERINFO, http(200, sub_of(name), Content_Type="application/json"))
    assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"
    (seen,) = homeserver.seen
    assert seen.method == "GET"
    assert seen.target == f"{USERINFO}?access_token=opaque%2Btoken/+with%26%3D?%23%C3%BC%2500"
    assert seen.host == name
    assert "cookie" not in seen.headers


@pytest.mark.parametrize(
    "content_type", [{}, {"Content_Type": "text/html; charset=utf-16"}, {"Content_Type": "\x7f/"}]
)
async def test_the_content_type_does_not_matter(
    federation: Federation, homeserver: TlsServer, name: ServerName, content_type: dict[str, str]
) -> None:
    homeserver.on(USERINFO, http(200, sub_of(name), **content_type))
    assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"


async def test_a_compressed_answer(federation: Federation, homeserver: TlsServer, name: ServerName) -> None:
    homeserver.on(USERINFO, http(200, gzip.compress(sub_of(name)), Content_Encoding="gzip"))
    assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"


async def test_an_answer_just_within_the_limit(
    federation: Federation, homeserver: TlsServer, name: ServerName
) -> None:
    homeserver.on(USERINFO, http(200, sub_of(name).ljust(64 * 1024)))
    assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"


async def test_connections_are_used_again(federation: Federation, homeserver: TlsServer, name: ServerName) -> None:
    body = sub_of(name)
    homeserver.on(USERINFO, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    homeserver.keep_alive = True
    for _ in range(3):
        assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"
    assert len(homeserver.sni) == 1


async def test_no_more_than_four_connections_at_once(
    federation: Federation, homeserver: TlsServer, name: ServerName
) -> None:
    four_are_here = asyncio.Event()

    async def wait_for_company(writer: asyncio.StreamWriter) -> None:
        if homeserver.open_now >= 4:
            four_are_here.set()
        await four_are_here.wait()
        await asyncio.sleep(0.02)  # long enough for a fifth to come, if it could
        writer.write(http(200, sub_of(name)))
        await writer.drain()

    homeserver.on(USERINFO, wait_for_company)
    await asyncio.gather(*(federation.openid_user_id(name, TOKEN) for _ in range(10)))
    assert homeserver.open_most == 4


# --- answers about the token --------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        http_json({"errcode": "M_UNKNOWN_TOKEN"}, 401),
        http(401, b"<html>"),
        http_json({"errcode": "M_UNKNOWN_TOKEN"}, 403),
        http_json({"errcode": "M_FORBIDDEN"}, 403),
    ],
    ids=brief_id,
)
async def test_a_refused_token(federation: Federation, homeserver: TlsServer, name: ServerName, reply: bytes) -> None:
    homeserver.on(USERINFO, reply)
    assert isinstance(await error_of(federation, name), OpenIdTokenRefused)


async def test_a_token_that_is_no_text_is_not_even_sent(
    federation: Federation, homeserver: TlsServer, name: ServerName
) -> None:
    with pytest.raises(OpenIdTokenRefused):
        await federation.openid_user_id(name, "half \ud83d")
    assert not homeserver.seen


# --- answers that are of no use -----------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (http(200), "not JSON with a user"),
        (http(200, b"<html>"), "not JSON with a user"),
        (http(200, b"\xff\xfe{"), "not JSON with a user"),
        (http(200, b'{"sub": NaN}'), "not JSON with a user"),
        (http(200, b'{"sub": ' + b"[" * 20_000), "not JSON with a user"),
        (http(200, b'["@alice:hs.test"]'), "not JSON with a user"),
        (http_json({}), "not JSON with a user"),
        (http_json({"sub": None}), "not JSON with a user"),
        (http_json({"sub": ["@alice:hs.test"]}), "not JSON with a user"),
        (http_json({"sub": "alice"}), "not a Matrix ID"),
        (http_json({"sub": ""}), "not a Matrix ID"),
        (http_json({"sub": "@alice:" + "a" * 300}), "not a Matrix ID"),
        (http_json({"sub": "@alice\n:hs.test"}), "not a Matrix ID"),
        (http_json({"sub": "@alice:HS.test"}), "not a Matrix ID"),
        (http_json({"sub": "@alice:other.test"}), "a user of another homeserver"),
        (http_json({"sub": "@alice:hs.test"}), "a user of another homeserver"),
        (http(204), "HTTP status 204"),
        (http(302, Location="https://hs.test/"), "HTTP status 302"),
        (http(400), "HTTP status 400"),
        (http(403, b"<html>"), "HTTP status 403"),
        (http_json({"errcode": ["M_FORBIDDEN"]}, 403), "HTTP status 403"),
        (http(404), "does not offer OpenID user info (HTTP status 404)"),
        (http(200, b" " * (64 * 1024 + 1)), "the answer is longer than 64 KiB"),
        (http(200, gzip.compress(b" " * 5_000_000), Content_Encoding="gzip"), "the answer is longer than 64 KiB"),
        (http(200, b"{}", Content_Encoding="gzip"), "not in the encoding it claims"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "the answer's body is incomplete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n{}", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n{}", "the answer is not HTTP"),
        (b"220 mail.hs.test ESMTP\r\n\r\n", "the answer is not HTTP"),
    ],
    ids=brief_id,
)
async def test_a_useless_answer(
    federation: Federation, homeserver: TlsServer, name: ServerName, reply: bytes, said: str
) -> None:
    homeserver.on(USERINFO, reply)
    error = await error_of(federation, name)
    assert isinstance(error, HomeserverMisbehaved)
    assert said in error.message


async def test_a_redirect_is_not_followed(federation: Federation, homeserver: TlsServer, name: ServerName) -> None:
    homeserver.on(USERINFO, http(307, Location=f"https://{name}/elsewhere"))
    await error_of(federation, name)
    assert homeserver.paths() == [USERINFO]


async def test_an_endless_answer_is_cut_off(federation: Federation, homeserver: TlsServer, name: ServerName) -> None:
    homeserver.on(USERINFO, raw(b"HTTP/1.1 200 OK\r\n\r\n", forever=b" " * 16384))
    error = await error_of(federation, name)
    assert "the answer is longer than 64 KiB" in error.message


@pytest.mark.parametrize(
    "reply",
    [
        raw(forever=b"HTTP/1.1 100 Continue\r\n\r\n" * 3000),
        raw(b"HTTP/1.1 200 OK\r\nX-Blank: ", forever=b" " * 65536),
    ],
    ids=["interim answers", "white space"],
)
async def test_an_endless_head_is_cut_off(
    federation: Federation, homeserver: TlsServer, name: ServerName, reply: Writer
) -> None:
    homeserver.on(USERINFO, reply)
    error = await error_of(federation, name)
    assert isinstance(error, HomeserverMisbehaved)
    assert "its headers are longer than 64 KiB" in error.message


async def test_interim_answers_come_before_the_answer(
    federation: Federation, homeserver: TlsServer, name: ServerName
) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    homeserver.on(USERINFO, b"HTTP/1.1 100 Continue\r\n\r\n" + hint + http(200, sub_of(name)))
    assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"


async def test_nothing_is_read_that_was_not_asked_for(
    federation: Federation, homeserver: TlsServer, name: ServerName
) -> None:
    """A connection that is kept for the next question isn't one for a homeserver to talk on."""
    answered, ended = asyncio.Event(), asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        body = sub_of(name)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await answered.wait()
        try:
            while True:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 1000)
                await writer.drain()
        finally:
            ended.set()

    homeserver.on(USERINFO, reply)
    await federation.openid_user_id(name, TOKEN)
    answered.set()
    async with asyncio.timeout(60):
        await ended.wait()
    # The next question goes by a new connection.
    homeserver.on(USERINFO, http(200, sub_of(name)))
    assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"


# --- no answer ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_passing_failure(
    federation: Federation, homeserver: TlsServer, name: ServerName, status: int
) -> None:
    homeserver.on(USERINFO, http(status))
    error = await error_of(federation, name)
    assert isinstance(error, HomeserverUnreachable)
    assert f"HTTP status {status}" in error.message


@pytest.mark.parametrize(
    "reply",
    [
        silence,
        raw(b"HTTP/1.1 200 OK\r\n\r\n", forever=b" ", every_seconds=1),
        raw(b"HTTP/1.1 200 OK\r\n", forever=b"X: y\r\n", every_seconds=1),
        raw(forever=b"HTTP/1.1 100 Continue\r\n\r\n", every_seconds=1),
    ],
    ids=["says nothing", "drips a body", "drips headers", "says continue"],
)
async def test_a_slow_answer(internet: Internet, homeserver: TlsServer, name: ServerName, reply: Writer) -> None:
    homeserver.on(USERINFO, reply)
    error = await error_of(internet.federation(), name)
    assert isinstance(error, HomeserverUnreachable)
    assert f"asking hs.test port {homeserver.port}: " in error.message
    assert "not done within 9 s" in error.message


async def test_a_server_that_never_speaks_tls(internet: Internet) -> None:
    internet.dns.add("hs.test", "A", PUBLIC)
    port = await internet.silent_listener(on_connection=partial(pass_on_loop, 90))
    federation = internet.federation(limits=FederationLimits(total_seconds=100))
    error = await error_of(federation, parse_server_name(f"hs.test:{port}"))
    assert isinstance(error, HomeserverUnreachable)
    assert "no connection: timed out" in error.message


async def test_a_refused_connection(internet: Internet, federation: Federation, homeserver: TlsServer) -> None:
    port, _ = await internet.tcp_listener("127.77.0.2")
    error = await error_of(federation, parse_server_name(f"hs.test:{port}"))
    assert isinstance(error, HomeserverUnreachable)
    assert f"asking hs.test port {port}: no connection: connection refused" in error.message


async def test_a_port_that_does_not_speak_tls(internet: Internet, federation: Federation, name: ServerName) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(plain, PUBLIC, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await error_of(federation, parse_server_name(f"hs.test:{port}"))
    assert isinstance(error, HomeserverUnreachable)
    assert "is this an HTTPS port?" in error.message


# --- certificates -------------------------------------------------------------------------


async def test_an_unknown_authority_is_not_trusted(
    internet: Internet, federation: Federation, name: ServerName
) -> None:
    stranger = await internet.tls_server("hs.test", ca=trustme.CA())
    error = await error_of(federation, parse_server_name(f"hs.test:{stranger.port}"))
    assert isinstance(error, HomeserverUnreachable)
    assert "the certificate was not accepted" in error.message
    assert not stranger.seen


async def test_without_verification_any_certificate_will_do_and_the_log_says_so(internet: Internet) -> None:
    internet.dns.add("hs.test", "A", PUBLIC)
    stranger = await internet.tls_server("other.test", ca=trustme.CA())
    name = parse_server_name(f"hs.test:{stranger.port}")
    stranger.on(USERINFO, http(200, sub_of(name)))
    with structlog.testing.capture_logs() as logs:
        federation = internet.federation(verify_certs=False)
        for _ in range(2):
            assert await federation.openid_user_id(name, TOKEN) == f"@alice:{name}"
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("federation.certificates_not_verified", "warning")
    ]


async def test_verification_says_nothing(internet: Internet) -> None:
    with structlog.testing.capture_logs() as logs:
        internet.federation()
    assert not logs


async def test_the_system_authorities_do_not_know_ours(
    internet: Internet, homeserver: TlsServer, name: ServerName
) -> None:
    internet.ca_file = None
    error = await error_of(internet.federation(), name)
    assert "the certificate was not accepted" in error.message


def test_a_ca_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(FileNotFoundError):
        make(ca_file=tmp_path / "none.pem")
    with pytest.raises(ssl.SSLError):
        make(ca_file=tmp_path / "empty.pem")


def make(**arguments: Any) -> Federation:
    return Federation(clock=SystemClock(), randomness=SystemRandomness(), screen=AddressScreen(), **arguments)


async def test_can_be_made_before_there_is_a_loop_and_closed_unused() -> None:
    federation: Homeservers = await asyncio.to_thread(make)
    assert isinstance(federation, Federation)
    await federation.close()


# --- the core that other calls will use ---------------------------------------------------


async def test_sends_a_body_as_json(federation: Federation, homeserver: TlsServer, name: ServerName) -> None:
    homeserver.on("/_matrix/federation/v1/3pid/onbind", http(200, b"{}", X_Note="here"))
    answer = await federation.request(
        name, "POST", "/_matrix/federation/v1/3pid/onbind", body={"mxid": "@ü:hs.test"}, max_bytes=1024
    )
    assert (answer.status, answer.body, answer.headers["x-note"]) == (200, b"{}", "here")
    (seen,) = homeserver.seen
    assert (seen.method, seen.target) == ("POST", "/_matrix/federation/v1/3pid/onbind")
    assert seen.body.decode() == '{"mxid":"@ü:hs.test"}'
    assert seen.headers["content-type"] == "application/json"


async def test_a_post_is_sent_once(federation: Federation, homeserver: TlsServer, name: ServerName) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    homeserver.on("/_matrix/x", hang_up)
    with pytest.raises(HomeserverUnreachable, match="the connection was lost"):
        await federation.request(name, "POST", "/_matrix/x", body={}, max_bytes=1024)
    assert len(homeserver.seen) == 1


def test_a_ca_file_is_trusted_beside_the_system(ca_file: Path) -> None:
    system = make_tls_context(verify=True, ca_file=None).cert_store_stats()["x509_ca"]
    both = make_tls_context(verify=True, ca_file=ca_file).cert_store_stats()["x509_ca"]
    assert both == system + 1
