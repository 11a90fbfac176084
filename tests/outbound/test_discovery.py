"""Every way to a homeserver, walked over real DNS and TLS."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import trustme
import uvloop

from identity_server.domain.errors import HomeserverUnreachable
from identity_server.domain.identifiers import ServerName, parse_server_name
from identity_server.outbound.discovery import Discovery, Ports, Route, Target
from identity_server.outbound.federation import Federation, FederationLimits
from tests.outbound.support import (
    PRIVATE,
    PUBLIC,
    USERINFO,
    WELL_KNOWN,
    FakeClock,
    Internet,
    TlsServer,
    Writer,
    brief_id,
    delegation,
    http,
    http_json,
    open_internet,
)
from tests.support.loop_time import pass_on_loop

HS = parse_server_name("hs.test")


@pytest.fixture
async def web(internet: Internet) -> TlsServer:
    """What answers on "port 443" at hs.test and moved.test."""
    internet.dns.add("hs.test", "A", PUBLIC)
    internet.dns.add("moved.test", "A", PUBLIC)
    return await internet.tls_server("hs.test", "moved.test")


@pytest.fixture
async def homeserver(internet: Internet) -> TlsServer:
    """What answers on "port 8448" at hs.test and real.test, for users of hs.test."""
    internet.dns.add("real.test", "A", PUBLIC)
    return vouching(await internet.tls_server("hs.test", "real.test"))


@pytest.fixture
def federation(internet: Internet, web: TlsServer, homeserver: TlsServer) -> Federation:
    return internet.federation(ports=Ports(https=web.port, federation=homeserver.port))


def vouching(server: TlsServer, name: str = "hs.test") -> TlsServer:
    server.on(USERINFO, http_json({"sub": f"@alice:{name}"}))
    return server


async def ask(federation: Federation, name: ServerName = HS) -> str:
    return await federation.openid_user_id(name, "tok")


async def refusal(federation: Federation, name: ServerName = HS) -> str:
    with pytest.raises(HomeserverUnreachable) as caught:
        await ask(federation, name)
    assert name in caught.value.message
    return caught.value.detail


def discovery(federation: Federation) -> Discovery:
    return federation._discovery


# --- the steps, in order ------------------------------------------------------------------


@pytest.mark.parametrize("port", ["", ":1234"])
@pytest.mark.parametrize("host", ["1.2.3.4", "[2606:4700::1]"])
async def test_an_ip_literal_is_asked_directly(internet: Internet, host: str, port: str) -> None:
    route = await discovery(internet.federation()).find(parse_server_name(host + port))
    bare = host.strip("[]")
    assert route == Route(host + port, bare, (Target(bare, 1234 if port else 8448),))
    assert not internet.dns.queries


async def test_an_ip_literal_is_served_with_a_certificate_for_it(internet: Internet) -> None:
    server = await internet.tls_server(PUBLIC)
    name = parse_server_name(f"{PUBLIC}:{server.port}")
    vouching(server, name)
    assert await ask(internet.federation(), name) == f"@alice:{name}"
    assert server.seen[0].host == name
    assert server.sni == [None]


async def test_an_ip_literal_needs_a_certificate_for_it(internet: Internet) -> None:
    server = await internet.tls_server("hs.test")
    name = parse_server_name(f"{PUBLIC}:{server.port}")
    assert "the certificate was not accepted: IP address mismatch" in await refusal(internet.federation(), name)
    assert not server.seen


async def test_an_explicit_port_skips_well_known_and_srv(
    internet: Internet, web: TlsServer, homeserver: TlsServer
) -> None:
    web.on(WELL_KNOWN, delegation("elsewhere.test"))
    internet.dns.add("_matrix-fed._tcp.hs.test", "SRV", "1 1 1 elsewhere.test.")
    federation = internet.federation(ports=Ports(https=web.port))
    name = parse_server_name(f"hs.test:{homeserver.port}")
    vouching(homeserver, name)
    assert await ask(federation, name) == f"@alice:{name}"
    assert homeserver.seen[0].host == name
    assert homeserver.sni == ["hs.test"]
    assert not web.seen
    assert {kind for _, kind in internet.dns.queries} == {"A", "AAAA"}


async def test_well_known_to_a_name_with_port(
    internet: Internet, federation: Federation, web: TlsServer, homeserver: TlsServer
) -> None:
    elsewhere = vouching(await internet.tls_server("real.test"))
    web.on(WELL_KNOWN, delegation(f"Real.test:{elsewhere.port}"))
    internet.dns.add("_matrix-fed._tcp.real.test", "SRV", f"1 1 {homeserver.port} hs.test.")
    assert await ask(federation) == "@alice:hs.test"
    assert [seen.host for seen in elsewhere.seen] == [f"real.test:{elsewhere.port}"]
    assert elsewhere.sni == ["real.test"]
    assert (web.seen[0].host, web.sni) == (f"hs.test:{web.port}", ["hs.test"])
    assert not homeserver.seen


async def test_well_known_to_an_ip_literal(internet: Internet, federation: Federation, web: TlsServer) -> None:
    elsewhere = vouching(await internet.tls_server(PUBLIC))
    web.on(WELL_KNOWN, delegation(f"{PUBLIC}:{elsewhere.port}"))
    assert await ask(federation) == "@alice:hs.test"
    assert elsewhere.seen[0].host == f"{PUBLIC}:{elsewhere.port}"


async def test_well_known_to_a_bare_name_uses_its_srv_record_and_no_second_well_known(
    internet: Internet, federation: Federation, web: TlsServer
) -> None:
    elsewhere = vouching(await internet.tls_server("real.test"))
    internet.dns.add("target.test", "A", PUBLIC)
    internet.dns.add("_matrix-fed._tcp.real.test", "SRV", f"1 1 {elsewhere.port} target.test.")
    web.on(WELL_KNOWN, delegation("real.test"))
    assert await ask(federation) == "@alice:hs.test"
    assert (elsewhere.seen[0].host, elsewhere.sni) == ("real.test", ["real.test"])
    assert web.paths() == [WELL_KNOWN]


async def test_well_known_to_a_bare_name_without_srv_uses_the_federation_port(
    federation: Federation, web: TlsServer, homeserver: TlsServer
) -> None:
    web.on(WELL_KNOWN, delegation("real.test"))
    assert await ask(federation) == "@alice:hs.test"
    assert (homeserver.seen[0].host, homeserver.sni) == ("real.test", ["real.test"])


@pytest.mark.parametrize("service", ["_matrix-fed._tcp", "_matrix._tcp"])
async def test_srv_without_well_known(
    internet: Internet, federation: Federation, homeserver: TlsServer, service: str
) -> None:
    elsewhere = vouching(await internet.tls_server("hs.test"))
    internet.dns.add("target.test", "A", PUBLIC)
    internet.dns.add(f"{service}.hs.test", "SRV", f"1 1 {elsewhere.port} target.test.")
    assert await ask(federation) == "@alice:hs.test"
    assert (elsewhere.seen[0].host, elsewhere.sni) == ("hs.test", ["hs.test"])
    assert not homeserver.seen


async def test_the_current_srv_record_wins_over_the_deprecated_one(
    internet: Internet, federation: Federation, homeserver: TlsServer
) -> None:
    internet.dns.add("_matrix-fed._tcp.hs.test", "SRV", f"1 1 {homeserver.port} real.test.")
    internet.dns.add("_matrix._tcp.hs.test", "SRV", "1 1 1 nowhere.test.")
    assert await ask(federation) == "@alice:hs.test"
    assert internet.dns.queries["_matrix._tcp.hs.test", "SRV"] == 0


async def test_the_federation_port_is_the_last_resort(federation: Federation, homeserver: TlsServer) -> None:
    assert await ask(federation) == "@alice:hs.test"
    assert (homeserver.seen[0].host, homeserver.sni) == ("hs.test", ["hs.test"])


async def test_targets_of_srv_are_tried_in_order(
    internet: Internet, federation: Federation, homeserver: TlsServer
) -> None:
    wrong_certificate = await internet.tls_server("target.test")
    internet.dns.add("target.test", "A", PUBLIC)
    internet.dns.add(
        "_matrix-fed._tcp.hs.test",
        "SRV",
        f"1 1 {homeserver.port} gone.test.",
        f"2 1 {wrong_certificate.port} target.test.",
        f"3 1 {homeserver.port} real.test.",
    )
    assert await ask(federation) == "@alice:hs.test"
    assert wrong_certificate.sni == ["hs.test"]
    assert not wrong_certificate.seen
    assert len(homeserver.seen) == 1


async def test_a_server_that_took_the_request_is_the_last_one_tried(
    internet: Internet, federation: Federation, homeserver: TlsServer
) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    first = await internet.tls_server("hs.test")
    first.on(USERINFO, hang_up)
    internet.dns.add(
        "_matrix-fed._tcp.hs.test", "SRV", f"1 1 {first.port} real.test.", f"2 1 {homeserver.port} real.test."
    )
    assert "the connection was lost" in await refusal(federation)
    assert first.seen, "perhaps twice, which is no matter with a GET"
    assert not homeserver.seen


async def test_a_failing_srv_lookup_is_said(internet: Internet, federation: Federation) -> None:
    internet.dns.failing.add("_matrix-fed._tcp.hs.test")
    assert "DNS lookup of _matrix-fed._tcp.hs.test" in await refusal(federation)


@pytest.mark.parametrize("name", ["a_b.test", "xn--a.test", "0x7f.1", "localhost", "a" * 63 + ".test"])
async def test_odd_names_are_names(federation: Federation, name: str) -> None:
    await refusal(federation, parse_server_name(name))


async def test_a_name_without_an_address_is_said(federation: Federation) -> None:
    message = await refusal(federation, parse_server_name("gone.test"))
    assert "DNS lookup of gone.test: there is no such name" in message


# --- certificates -------------------------------------------------------------------------


async def test_the_delegated_name_needs_a_certificate_not_the_server_name(
    internet: Internet, federation: Federation, web: TlsServer
) -> None:
    elsewhere = vouching(await internet.tls_server("hs.test"))
    web.on(WELL_KNOWN, delegation(f"real.test:{elsewhere.port}"))
    message = await refusal(federation)
    assert "certificate was not accepted" in message
    assert "'real.test'" in message
    assert not elsewhere.seen


async def test_the_target_of_srv_needs_a_certificate_for_the_server_name(
    internet: Internet, federation: Federation
) -> None:
    elsewhere = vouching(await internet.tls_server("real.test"))
    internet.dns.add("_matrix-fed._tcp.hs.test", "SRV", f"1 1 {elsewhere.port} real.test.")
    assert "'hs.test'" in await refusal(federation)
    assert not elsewhere.seen


async def test_connections_are_not_shared_between_names_that_lead_to_one_target(
    internet: Internet, federation: Federation
) -> None:
    async def stay(writer: asyncio.StreamWriter) -> None:
        body = b'{"sub": "@alice:hs.test"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        await asyncio.sleep(10)

    elsewhere = await internet.tls_server("hs.test")
    elsewhere.on(USERINFO, stay)
    for name in ("hs.test", "victim.test"):
        internet.dns.add(f"_matrix-fed._tcp.{name}", "SRV", f"1 1 {elsewhere.port} real.test.")
    internet.dns.add("victim.test", "A", PUBLIC)
    assert await ask(federation) == "@alice:hs.test"
    assert "'victim.test'" in await refusal(federation, parse_server_name("victim.test"))
    assert len(elsewhere.seen) == 1


# --- .well-known: what counts, and what it may do -----------------------------------------


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (http(404), "HTTP status 404"),
        (http(204), "HTTP status 204"),
        (http(503), "HTTP status 503"),
        (http(200, b"<html>"), "it is not JSON"),
        (http(200, b"[" * 20_000), "it is not JSON"),
        (http(200, b'{"m.server": "\xff"}'), "it is not JSON"),
        (http(200, b'"real.test"'), "it names no m.server"),
        (http_json({"m.server": 3}), "it names no m.server"),
        (http_json({"m.homeserver": "real.test"}), "it names no m.server"),
        (http_json({"m.server": ""}), "its m.server is not a server name"),
        (http_json({"m.server": "https://real.test"}), "its m.server is not a server name"),
        (http_json({"m.server": "real.test:99999"}), "its m.server is not a server name"),
        (http_json({"m.server": "real.test/..\r\nX: y"}), "its m.server is not a server name"),
        (http_json({"m.server": "a" * 300}), "its m.server is not a server name"),
        (http_json({"m.server": "real.test", "x": "y" * 60_000}), "the answer is longer than 50 KiB"),
        (http(200, b"{}", Content_Encoding="gzip"), "not in the encoding it claims"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is not HTTP"),
        (http(301), "it redirects to nowhere"),
        (http(302, Location="http://moved.test/"), "it redirects to something that is not https"),
        (http(302, Location="file:///etc/passwd"), "it redirects to something that is not https"),
        (http(302, Location="https://"), "it redirects more than 5 times"),  # means "here" to some, so to us
        (http(302, Location="https://[::1"), "it redirects to no valid URL"),
        (http(302, Location="https://moved.test:99999/"), "it redirects to no valid URL"),
        (http(302, Location=WELL_KNOWN), "it redirects more than 5 times"),
    ],
    ids=brief_id,
)
async def test_a_useless_well_known_is_as_none(
    federation: Federation, web: TlsServer, homeserver: TlsServer, reply: bytes, problem: str
) -> None:
    web.on(WELL_KNOWN, reply)
    route = await discovery(federation).find(HS)
    assert route.targets == (Target("hs.test", homeserver.port),)
    assert "no delegation by .well-known" in route.note
    assert problem in route.note
    assert await ask(federation) == "@alice:hs.test"


async def test_a_slow_well_known_is_given_up(internet: Internet, web: TlsServer, homeserver: TlsServer) -> None:
    web.on(WELL_KNOWN, drip(b"{", every_seconds=20))
    federation = internet.federation(
        ports=Ports(web.port, homeserver.port), limits=FederationLimits(total_seconds=600, well_known_seconds=200)
    )
    assert await ask(federation) == "@alice:hs.test"
    assert "it did not answer in time" in (await discovery(federation).find(HS)).note


def drip(chunk: bytes, *, every_seconds: float) -> Writer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(chunk)
            await writer.drain()
            pass_on_loop(every_seconds)
            await asyncio.sleep(0)

    return write


async def test_five_redirects_are_followed(federation: Federation, web: TlsServer, homeserver: TlsServer) -> None:
    web.on(WELL_KNOWN, http(301, Location="/1"))
    web.on("/1", http(302, Location="2"))
    web.on("/2", http(303, Location=f"https://user:secret@moved.test:{web.port}/3#fragment"))
    web.on("/3", http(307, Location="/4"))
    web.on("/4", http(308, Location="/5"))
    web.on("/5", delegation("real.test"))
    assert await ask(federation) == "@alice:hs.test"
    assert web.paths() == [WELL_KNOWN, "/1", "/2", "/3", "/4", "/5"]
    assert [seen.host.partition(":")[0] for seen in web.seen] == ["hs.test"] * 3 + ["moved.test"] * 3
    assert all("authorization" not in seen.headers for seen in web.seen)
    assert homeserver.seen[0].host == "real.test"


async def test_a_sixth_redirect_is_not_followed(federation: Federation, web: TlsServer) -> None:
    web.on(WELL_KNOWN, http(302, Location="/1"))
    for step in range(1, 9):
        web.on(f"/{step}", http(302, Location=f"/{step + 1}"))
    await discovery(federation).find(HS)
    assert web.paths()[-1] == "/5"


async def test_a_redirect_that_leaves_https_makes_no_connection(
    internet: Internet, federation: Federation, web: TlsServer
) -> None:
    port, accepted = await internet.tcp_listener(PUBLIC)
    web.on(WELL_KNOWN, http(302, Location=f"http://moved.test:{port}/"))
    await discovery(federation).find(HS)
    assert not accepted


# --- addresses ----------------------------------------------------------------------------


async def test_a_private_ip_literal_gets_no_connection(internet: Internet) -> None:
    port, accepted = await internet.tcp_listener(PRIVATE)
    for host in (PRIVATE, f"[::ffff:{PRIVATE}]", f"[64:ff9b::{PRIVATE}]"):
        message = await refusal(internet.federation(), parse_server_name(f"{host}:{port}"))
        assert "this server does not connect to addresses of this kind" in message
    assert not accepted


async def test_a_mapped_address_reaches_what_its_inner_address_may(internet: Internet) -> None:
    port, accepted = await internet.tcp_listener(PUBLIC)
    assert "no connection" in await refusal(internet.federation(), parse_server_name(f"[::ffff:{PUBLIC}]:{port}")), (
        "the listener hangs up"
    )
    assert accepted


async def test_a_name_with_a_private_address_gets_no_connection(internet: Internet) -> None:
    port, accepted = await internet.tcp_listener(PRIVATE)
    internet.dns.add("rebound.test", "A", PRIVATE)
    internet.dns.add("rebound.test", "AAAA", f"::ffff:{PRIVATE}")
    message = await refusal(internet.federation(), parse_server_name(f"rebound.test:{port}"))
    assert "this server does not connect to addresses of this kind" in message
    assert not accepted


async def test_the_public_one_of_two_addresses_is_used(internet: Internet, homeserver: TlsServer) -> None:
    internet.dns.add("hs.test", "A", PRIVATE, PUBLIC)
    name = parse_server_name(f"hs.test:{homeserver.port}")
    vouching(homeserver, name)
    assert await ask(internet.federation(), name) == f"@alice:{name}"


@pytest.mark.parametrize(
    "location", ["https://{ip}:{port}/", "https://inside.test:{port}/", "https://[::ffff:{ip}]:{port}/"]
)
async def test_a_redirect_into_the_private_network_makes_no_connection(
    internet: Internet, federation: Federation, web: TlsServer, location: str
) -> None:
    port, accepted = await internet.tcp_listener(PRIVATE)
    internet.dns.add("inside.test", "A", PRIVATE)
    web.on(WELL_KNOWN, http(302, Location=location.format(ip=PRIVATE, port=port)))
    route = await discovery(federation).find(HS)
    assert "this server does not connect to addresses of this kind" in route.note
    assert not accepted


@pytest.mark.parametrize("by", ["well-known", "srv"])
async def test_delegation_into_the_private_network_makes_no_connection(
    internet: Internet, federation: Federation, web: TlsServer, by: str
) -> None:
    port, accepted = await internet.tcp_listener(PRIVATE)
    internet.dns.add("inside.test", "A", PRIVATE)
    if by == "srv":
        internet.dns.add("_matrix._tcp.hs.test", "SRV", f"1 1 {port} inside.test.")
    else:
        web.on(WELL_KNOWN, delegation(f"{PRIVATE}:{port}"))
    assert "this server does not connect to addresses of this kind" in await refusal(federation)
    assert not accepted


async def test_the_whitelist_opens_what_it_names(internet: Internet) -> None:
    server = await internet.tls_server(PUBLIC)
    name = parse_server_name(f"{PUBLIC}:{server.port}")
    vouching(server, name)
    assert "does not connect" in await refusal(internet.federation(whitelist=[IPv4Network("127.77.0.2/32")]), name)
    assert await ask(internet.federation(whitelist=[IPv4Network("127.77.0.1/32")]), name)


# --- how long it is remembered ------------------------------------------------------------


HOUR = 3600
NOW = datetime.fromtimestamp(FakeClock().ms / 1000, UTC)


def expires(**delta: int) -> str:
    return format_datetime(NOW + timedelta(**delta), usegmt=True)


@pytest.mark.parametrize(
    ("reply", "lifetime_seconds"),
    [
        (delegation("real.test"), 24 * HOUR),
        (delegation("real.test", Cache_Control="max-age=7200"), 2 * HOUR),
        (delegation("real.test", Cache_Control='public, s-maxage=1, Max-Age = "7200"'), 2 * HOUR),
        (delegation("real.test", Cache_Control="max-age=299"), 300),
        (delegation("real.test", Cache_Control="max-age=0"), 300),
        (delegation("real.test", Cache_Control="no-store"), 300),
        (delegation("real.test", Cache_Control="no-cache, max-age=7200"), 300),
        (delegation("real.test", Cache_Control="max-age=172801"), 48 * HOUR),
        (delegation("real.test", Cache_Control="max-age=" + "9" * 5000), 48 * HOUR),
        (delegation("real.test", Cache_Control="max-age=-5, immutable"), 24 * HOUR),
        (delegation("real.test", Cache_Control="max-age=7200", Expires=expires(hours=5)), 2 * HOUR),
        (delegation("real.test", Expires=expires(hours=5)), 5 * HOUR),
        (delegation("real.test", Expires=expires(days=5)), 48 * HOUR),
        (delegation("real.test", Expires=expires(days=-5)), 300),
        (delegation("real.test", Expires="0"), 300),
        (http(404, Cache_Control="max-age=7200"), HOUR),
        (http(200, b"nonsense", Cache_Control="max-age=7200"), HOUR),
        (http(302, Location="http://hs.test/"), HOUR),
        (http(200, b" " * 60_000), HOUR),
        (http(500, Cache_Control="max-age=7200"), 120),
        (http(429), 120),
    ],
    ids=brief_id,
)
async def test_what_well_known_says_is_kept_for_a_time(
    internet: Internet, federation: Federation, web: TlsServer, reply: bytes, lifetime_seconds: int
) -> None:
    web.on(WELL_KNOWN, reply)
    first = await discovery(federation).find(HS)
    internet.clock.advance(seconds=lifetime_seconds - 1)
    assert await discovery(federation).find(HS) == first
    assert len(web.seen) == 1
    internet.clock.advance(seconds=1)
    assert await discovery(federation).find(HS) == first
    assert len(web.seen) == 2


async def test_a_host_that_is_down_is_asked_again_after_two_minutes(internet: Internet) -> None:
    port, accepted = await internet.tcp_listener(PUBLIC)
    internet.dns.add("hs.test", "A", PUBLIC)
    federation = internet.federation(ports=Ports(https=port))
    for seconds, connections in ((0, 1), (119, 1), (1, 2)):
        internet.clock.advance(seconds=seconds)
        await discovery(federation).find(HS)
        assert len(accepted) == connections


@pytest.mark.parametrize(
    ("headers", "lifetime_seconds"),
    [
        ({}, 24 * HOUR * 9 // 10),
        ({"Cache_Control": "max-age=999999"}, 48 * HOUR * 9 // 10),
        ({"Cache_Control": "max-age=310"}, 300),
    ],
)
async def test_delegations_do_not_all_expire_at_once(
    internet: Internet, federation: Federation, web: TlsServer, headers: dict[str, str], lifetime_seconds: int
) -> None:
    internet.randomness.byte = 0xFF
    web.on(WELL_KNOWN, delegation("real.test", **headers))
    for seconds, fetches in ((0, 1), (lifetime_seconds - 1, 1), (1, 2)):
        internet.clock.advance(seconds=seconds)
        await discovery(federation).find(HS)
        assert len(web.seen) == fetches


async def test_many_at_once_fetch_well_known_once(
    federation: Federation, web: TlsServer, homeserver: TlsServer
) -> None:
    web.on(WELL_KNOWN, delegation("real.test"))
    assert await asyncio.gather(*(ask(federation) for _ in range(20))) == ["@alice:hs.test"] * 20
    assert len(web.seen) == 1
    assert len(homeserver.seen) == 20


async def test_one_who_gives_up_does_not_fail_the_others(federation: Federation, web: TlsServer) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(delegation("real.test"))
        await writer.drain()

    web.on(WELL_KNOWN, wait)
    first, second = (asyncio.create_task(ask(federation)) for _ in range(2))
    await asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    assert await second == "@alice:hs.test"
    assert len(web.seen) == 1


async def test_closing_ends_what_is_under_way(federation: Federation, web: TlsServer) -> None:
    asked = asyncio.Event()

    async def never(_: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(10)

    web.on(WELL_KNOWN, never)
    asking = asyncio.create_task(ask(federation))
    await asked.wait()
    await federation.close()
    with pytest.raises(HomeserverUnreachable, match="this server is stopping"):
        await asking
    with pytest.raises(HomeserverUnreachable, match="this server is stopping"):
        await ask(federation)


def test_the_same_on_uvloop(ca: trustme.CA, ca_file: Path) -> None:
    """The loop that the server runs on has sockets, DNS and TLS of its own."""

    async def walk() -> None:
        async with open_internet(ca, ca_file) as internet:
            internet.dns.add("hs.test", "A", PRIVATE, PUBLIC)
            internet.dns.add("target.test", "A", PUBLIC)
            server = vouching(await internet.tls_server("hs.test"))
            server.on(WELL_KNOWN, http(404))
            internet.dns.add("_matrix._tcp.hs.test", "SRV", f"1 1 {server.port} target.test.")
            federation = internet.federation(ports=Ports(https=server.port))
            assert await ask(federation) == "@alice:hs.test"
            assert server.paths() == [WELL_KNOWN, USERINFO]
            port, accepted = await internet.tcp_listener(PRIVATE)
            name = parse_server_name(f"{PRIVATE}:{port}")
            assert "this server does not connect" in await refusal(federation, name)
            assert "'target.test'" in await refusal(federation, parse_server_name(f"target.test:{server.port}"))
            assert not accepted

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(walk())
