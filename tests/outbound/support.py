"""A little internet on loopback: a name server, TLS servers and a certificate authority, all real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trustme

from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.discovery import SPECIFIED_PORTS, Ports
from identity_server.outbound.federation import DEFAULT_LIMITS, Federation, FederationLimits

WELL_KNOWN = "/.well-known/matrix/server"
USERINFO = "/_matrix/federation/v1/openid/userinfo"
PUBLIC = "127.77.0.1"
PRIVATE = "127.99.0.1"

Writer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class FakeClock:
    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def advance(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0) -> None:
        self.ms += round(1000 * (seconds + 60 * minutes + 3600 * hours))


class FakeRandomness:
    """Every byte the same: 0 draws the least there is, 255 the most."""

    def __init__(self, byte: int = 0) -> None:
        self.byte = byte

    def token_bytes(self, length: int) -> bytes:
        return bytes([self.byte]) * length


def nothing() -> None:
    """What happens where a test doesn't say otherwise."""


class DnsServer(asyncio.DatagramProtocol):
    """Answers from its records; names it doesn't have don't exist."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 300
        self.failing: set[str] = set()
        self.silent: set[str] = set()
        self.on_silence: Callable[[], None] = nothing
        self.queries: Counter[tuple[str, str]] = Counter()
        self.transport: asyncio.DatagramTransport | None = None

    def add(self, name: str, kind: str, *values: str) -> None:
        self.records[name, kind] = list(values)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override] # a datagram's
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.queries[name, kind] += 1
        if name in self.silent:
            self.on_silence()
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if name in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif values := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text_list(question.name, self.ttl, "IN", kind, values))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        assert self.transport is not None
        self.transport.sendto(response.to_wire(max_size=65535), addr)


@dataclass
class Seen:
    """A request that a server got."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def host(self) -> str:
        return self.headers["host"]


@dataclass
class TlsServer:
    """Answers by path with fixed bytes or by writing to the connection; 404 for everything else."""

    port: int = 0
    keep_alive: bool = False
    replies: dict[str, bytes | Writer] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    sni: list[str | None] = field(default_factory=list)
    open_now: int = 0
    open_most: int = 0
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def on(self, path: str, reply: bytes | Writer) -> None:
        self.replies[path] = reply

    def paths(self) -> list[str]:
        return [seen.target.partition("?")[0] for seen in self.seen]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            await self._answer(reader, writer)
            while self.keep_alive:
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self.open_now -= 1
            self.connections.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request_line, *lines = head.strip().split("\r\n")
        method, target, _ = request_line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.seen.append(Seen(method, target, headers, body))
        reply = self.replies.get(target.partition("?")[0], http(404, b'{"errcode": "M_UNRECOGNIZED"}'))
        if isinstance(reply, bytes):
            writer.write(reply)
            await writer.drain()
            if not self.keep_alive:
                writer.close()
                await writer.wait_closed()
        else:
            await reply(writer)


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer after which the connection ends."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def http_json(content: Any, status: int = 200, **headers: str) -> bytes:
    return http(status, json.dumps(content).encode(), **headers)


def delegation(name: str, **headers: str) -> bytes:
    return http(200, json.dumps({"m.server": name}).encode(), **headers)


def brief_id(parameter: object) -> str:
    """A name for a test case without the bytes it is about."""
    return "reply" if isinstance(parameter, bytes) else str(parameter)


@dataclass
class Internet:
    """Where the tests take place: `hs.test` and friends live at 127.77.0.1, and 127.99.0.1 is private."""

    ca: trustme.CA
    ca_file: Path | None
    dns: DnsServer
    clock: FakeClock = field(default_factory=FakeClock)
    randomness: FakeRandomness = field(default_factory=FakeRandomness)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def nameservers(self) -> list[tuple[str, int]]:
        assert self.dns.transport is not None
        return [self.dns.transport.get_extra_info("sockname")[:2]]

    async def tls_server(
        self, *names: str, ca: trustme.CA | None = None, not_after: datetime | None = None, port: int = 0
    ) -> TlsServer:
        """A server whose certificate is for `names`, and good until then; on any port unless one is named."""
        server = TlsServer()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        (ca or self.ca).issue_cert(*names, not_after=not_after).configure_cert(context)
        context.sni_callback = lambda _socket, name, _context: server.sni.append(name)
        listener = await asyncio.start_server(server.serve, PUBLIC, port, ssl=context)
        server.port = listener.sockets[0].getsockname()[1]
        self.stack.push_async_callback(_stop, listener, server)
        return server

    async def tcp_listener(self, host: str) -> tuple[int, list[object]]:
        """A port, and the connections that were made to it."""
        accepted: list[object] = []

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer.get_extra_info("peername"))
            writer.transport.abort()

        listener = await asyncio.start_server(accept, host, 0)
        self.stack.push_async_callback(_stop, listener, None)
        return listener.sockets[0].getsockname()[1], accepted

    async def silent_listener(self, *, on_connection: Callable[[], None] = nothing) -> int:
        """A port that takes connections and never says a word."""
        held: list[asyncio.StreamWriter] = []

        def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held.append(writer)
            on_connection()

        listener = await asyncio.start_server(hold, PUBLIC, 0)
        self.stack.push_async_callback(_stop, listener, None)

        def hang_up() -> None:
            for writer in held:
                writer.transport.abort()

        self.stack.callback(hang_up)
        port: int = listener.sockets[0].getsockname()[1]
        return port

    def federation(
        self,
        *,
        ports: Ports = SPECIFIED_PORTS,
        verify_certs: bool = True,
        whitelist: Sequence[IPv4Network] = (IPv4Network("127.77.0.0/16"),),
        limits: FederationLimits = DEFAULT_LIMITS,
    ) -> Federation:
        federation = Federation(
            clock=self.clock,
            randomness=self.randomness,
            screen=AddressScreen(whitelist=whitelist),
            verify_certs=verify_certs,
            ca_file=self.ca_file,
            nameservers=self.nameservers,
            hosts_file=None,
            limits=limits,
            ports=ports,
        )
        self.stack.push_async_callback(federation.close)
        return federation


async def _stop(listener: asyncio.Server, server: TlsServer | None) -> None:
    listener.close()
    connections = list(server.connections) if server else []
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)
    await listener.wait_closed()


@contextlib.asynccontextmanager
async def open_internet(ca: trustme.CA, ca_file: Path) -> AsyncIterator[Internet]:
    """An internet for the time of a test."""
    loop = asyncio.get_running_loop()
    transport, name_server = await loop.create_datagram_endpoint(DnsServer, local_addr=(PUBLIC, 0))
    internet = Internet(ca=ca, ca_file=ca_file, dns=name_server)
    try:
        yield internet
    finally:
        await internet.stack.aclose()
        transport.close()
        await asyncio.sleep(0)
