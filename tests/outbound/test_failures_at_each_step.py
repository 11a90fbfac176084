"""Whoever can't register reads which step failed, and the operator reads it in the log, where it says more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import trustme

from identity_server.domain.errors import (
    HomeserverFailed,
    HomeserverMisbehaved,
    HomeserverStep,
    HomeserverUnreachable,
    OpenIdTokenRefused,
)
from identity_server.domain.identifiers import ServerName, parse_server_name
from identity_server.outbound.discovery import Ports
from identity_server.outbound.federation import Federation, FederationLimits
from tests.outbound.support import (
    PRIVATE,
    PUBLIC,
    USERINFO,
    WELL_KNOWN,
    Internet,
    TlsServer,
    http,
    http_json,
)
from tests.support.loop_time import pass_on_loop

HS = parse_server_name("hs.test")
LIMITS = FederationLimits(total_seconds=600, well_known_seconds=200)
# Longer than for .well-known and, of what is left after that, than for a connection; but not all that is left.
WHILE_IT_CONNECTS = 280
SET_UP = Callable[[Internet], Awaitable[TlsServer | int]]


async def works(internet: Internet, reply: bytes | None = None, **certificate: object) -> TlsServer:
    """A homeserver that answers on the federation port, with one thing wrong or nothing."""
    internet.dns.add("hs.test", "A", PUBLIC)
    server = await internet.tls_server("hs.test", **certificate)  # type: ignore[arg-type] # a certificate's are mixed
    server.on(WELL_KNOWN, http(404))
    server.on(USERINFO, reply or http_json({"sub": "@alice:hs.test"}))
    return server


async def no_such_name(_: Internet) -> int:
    return 1


async def name_servers_fail(internet: Internet) -> int:
    internet.dns.failing |= {"hs.test", "_matrix-fed._tcp.hs.test"}
    return 1


async def name_servers_are_silent(internet: Internet) -> int:
    internet.dns.silent |= {"hs.test", "_matrix-fed._tcp.hs.test"}
    internet.dns.on_silence = partial(pass_on_loop, LIMITS.total_seconds)
    return 1


async def unusable_srv(internet: Internet) -> int:
    internet.dns.add("_matrix-fed._tcp.hs.test", "SRV", "0 0 0 .")
    return 1


async def private_address(internet: Internet) -> int:
    internet.dns.add("hs.test", "A", PRIVATE)
    return 1


async def nothing_listens(internet: Internet) -> int:
    internet.dns.add("hs.test", "A", PUBLIC)
    port, _ = await internet.tcp_listener("127.77.0.2")
    return port


async def never_speaks(internet: Internet) -> int:
    internet.dns.add("hs.test", "A", PUBLIC)
    return await internet.silent_listener(on_connection=partial(pass_on_loop, WHILE_IT_CONNECTS))


async def unknown_authority(internet: Internet) -> TlsServer:
    return await works(internet, ca=trustme.CA())


async def certificate_of_another(internet: Internet) -> TlsServer:
    internet.dns.add("hs.test", "A", PUBLIC)
    return await internet.tls_server("other.test")


async def expired_certificate(internet: Internet) -> TlsServer:
    return await works(internet, not_after=datetime.now(UTC) - timedelta(days=1))


async def silent_answer(internet: Internet) -> TlsServer:
    server = await works(internet)

    async def silence(_: asyncio.StreamWriter) -> None:
        pass_on_loop(LIMITS.total_seconds)
        await asyncio.Event().wait()

    server.on(USERINFO, silence)
    return server


def answering(reply: bytes) -> SET_UP:
    async def set_up(internet: Internet) -> TlsServer:
        return await works(internet, reply)

    return set_up


FIND, CONNECT, CERTIFICATE = HomeserverStep.FIND, HomeserverStep.CONNECT, HomeserverStep.CERTIFICATE
ANSWER, STATUS, CONTENT = HomeserverStep.ANSWER, HomeserverStep.STATUS, HomeserverStep.CONTENT
NOWHERE = "it has no address that this server connects to"

# What is wrong; the step; what the app gets; what the log says besides.
FAILURES: list[tuple[SET_UP, HomeserverStep, str, str]] = [
    (no_such_name, FIND, NOWHERE, "DNS lookup of hs.test: there is no such name"),
    (private_address, FIND, NOWHERE, "does not connect to addresses of this kind"),
    (name_servers_fail, FIND, "DNS lookup of _matrix-fed._tcp.hs.test: no name server gave a usable answer", ""),
    (name_servers_are_silent, FIND, "looking for it by .well-known and DNS: not done within 600 s", ""),
    (unusable_srv, FIND, "the SRV record names no usable target", ""),
    (nothing_listens, CONNECT, "no connection: connection refused", ""),
    (never_speaks, CONNECT, "no connection: timed out", ""),
    (unknown_authority, CERTIFICATE, "the certificate was not accepted: unable to get local issuer certificate", ""),
    (certificate_of_another, CERTIFICATE, "Hostname mismatch, certificate is not valid for 'hs.test'", ""),
    (expired_certificate, CERTIFICATE, "the certificate was not accepted: certificate has expired", ""),
    (silent_answer, ANSWER, "asking hs.test port {port}: not done within 600 s", ""),
    (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"), ANSWER, "body is incomplete", ""),
    (answering(b"220 mail.hs.test ESMTP\r\n\r\n"), ANSWER, "the answer is not HTTP", ""),
    (answering(http(502)), STATUS, "it answered with HTTP status 502", ""),
    (answering(http(404)), STATUS, "it does not offer OpenID user info (HTTP status 404)", ""),
    (answering(http(200, b"<html>")), CONTENT, "it is not JSON with a user in it", ""),
    (answering(http_json({"sub": "alice"})), CONTENT, "what it calls a user is not a Matrix ID", ""),
    (
        answering(http_json({"sub": "@alice:sub.hs.test"})),
        HomeserverStep.USER,
        "it vouches for a user of another homeserver",
        "",
    ),
]


def federation_to(internet: Internet, place: TlsServer | int) -> Federation:
    port = place if isinstance(place, int) else place.port
    return internet.federation(ports=Ports(https=port, federation=port), limits=LIMITS)


async def failure(federation: Federation, name: ServerName = HS) -> HomeserverFailed:
    with pytest.raises(HomeserverFailed) as caught:
        await federation.openid_user_id(name, "opaque-token")
    return caught.value


@pytest.mark.parametrize(("set_up", "step", "told", "known"), FAILURES)
async def test_step_that_failed_is_said(
    internet: Internet, set_up: SET_UP, step: HomeserverStep, told: str, known: str
) -> None:
    place = await set_up(internet)
    error = await failure(federation_to(internet, place))
    assert error.step is step
    assert told.format(port=place if isinstance(place, int) else place.port) in error.message
    assert "hs.test" in error.message
    assert (known or told.partition("{")[0]) in error.detail
    assert known == "" or known not in error.message


def test_no_two_failures_read_alike_in_the_log() -> None:
    assert len({known or told for _, _, told, known in FAILURES}) == len(FAILURES)
    assert {step for _, step, _, _ in FAILURES} == set(HomeserverStep)


async def test_token_that_the_homeserver_does_not_know_is_nobody_elses_fault(internet: Internet) -> None:
    server = await works(internet, http_json({"errcode": "M_UNKNOWN_TOKEN"}, 401))
    with pytest.raises(OpenIdTokenRefused, match=r"homeserver hs\.test does not know this OpenID token"):
        await federation_to(internet, server).openid_user_id(HS, "opaque-token")


async def test_well_known_that_is_not_followed_is_said_with_what_failed_then(internet: Internet) -> None:
    server = await works(internet, http(404))
    server.on(WELL_KNOWN, http(200, b"<html>"))
    error = await failure(federation_to(internet, server))
    assert isinstance(error, HomeserverMisbehaved)
    port, _ = await internet.tcp_listener("127.77.0.2")
    federation = internet.federation(ports=Ports(https=server.port, federation=port), limits=LIMITS)
    error = await failure(federation)
    assert isinstance(error, HomeserverUnreachable)
    assert "connection refused (no delegation by .well-known: it is not JSON)" in error.message


async def test_callers_do_not_learn_which_names_there_are_inside(internet: Internet) -> None:
    """A name that exists in the operator's own DNS alone must not be told from one that doesn't exist."""
    internet.dns.add("inside.test", "A", PRIVATE)
    internet.dns.add("mail-only.test", "MX", "10 mail.test.")
    internet.dns.add("_matrix-fed._tcp.srv.test", "SRV", "1 1 8448 secret-host.corp.test.")
    internet.dns.add("secret-host.corp.test", "A", PRIVATE)
    internet.dns.add("redirected.test", "A", PUBLIC)
    web = await internet.tls_server("redirected.test")
    web.on(WELL_KNOWN, http_json({"m.server": "secret-host.corp.test"}))
    federation = internet.federation(ports=Ports(https=web.port, federation=8448), limits=LIMITS)
    told, known = set(), set()
    for name in ("absent.test", "inside.test", "mail-only.test", "srv.test", "redirected.test"):
        error = await failure(federation, parse_server_name(name))
        assert error.step is FIND
        told.add(error.message.replace(name, "NAME"))
        known.add(error.detail.replace(name, "NAME"))
    assert told == {f"The homeserver NAME could not be reached: {NOWHERE}."}
    assert len(known) == 5, "the log tells them apart"
