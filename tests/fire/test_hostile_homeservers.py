"""Homeservers that want to get at what is behind this server, or to wear it out.

127.77.0.0/16 is the internet here, and everything else on loopback is the operator's own network: so the tricks are
played for real, on the real command, and whoever listens on the inside counts who comes. Redirects, .well-known and SRV
lie on ports of their own, which only root may take; without, those tricks are left to tests/outbound/test_discovery.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from aiohttp import ClientSession, ClientTimeout

from tests.e2e.processes import PATIENCE_SECONDS
from tests.fire.outside import INTERNET
from tests.fire.report import Proof
from tests.fire.stage import Stage, set_up
from tests.outbound.support import (
    USERINFO,
    WELL_KNOWN,
    Internet,
    Writer,
    delegation,
    http,
    http_json,
    open_internet,
)
from tests.processes.conftest import children_of
from tests.support.homeserver import UNBIND, SigningHomeserver

_REFUSED_SECONDS = 10.0
_MOST_MEMORY = 20 << 20
_AT_ONCE = 8
_KEYS = "/_matrix/key/v2/server"


@dataclass
class Inside:
    """The operator's own network: whoever connects to it is counted.

    Attributes:
        ports: where it listens, by address.
    """

    ports: dict[str, int] = field(default_factory=dict)
    visits: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Inside]:
        """Listen on one port of every address, for as long as the block runs."""
        first = await asyncio.start_server(self._count, "127.0.0.1", 0)
        port = first.sockets[0].getsockname()[1]
        servers = [first]
        for address in ("127.0.0.2", "127.99.0.1", "::1"):
            with contextlib.suppress(OSError):
                servers.append(await asyncio.start_server(self._count, address, port))
        self.ports = {server.sockets[0].getsockname()[0]: port for server in servers}
        try:
            yield self
        finally:
            for server in servers:
                server.close()

    def _count(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits.append(str(writer.get_extra_info("sockname")))
        writer.transport.abort()

    @property
    def port(self) -> int:
        return self.ports["127.0.0.1"]


@dataclass
class World:
    """A server, the internet that its homeservers are on, and the inside."""

    stage: Stage
    internet: Internet
    inside: Inside
    session: ClientSession
    calls: int = 0

    async def register(self, server_name: str) -> tuple[int, float]:
        """Register with a homeserver; the status, and the seconds that it took."""
        self.calls += 1
        headers = {"X-Forwarded-For": f"10.{self.calls >> 8 & 255}.{self.calls & 255}.1"}
        body = {
            "access_token": "token",
            "token_type": "Bearer",
            "matrix_server_name": server_name,
            "expires_in": 3600,
        }
        begun = time.monotonic()
        url = f"{self.stage.server.base}/_matrix/identity/v2/account/register"
        async with self.session.post(url, json=body, headers=headers) as response:
            await response.read()
            return response.status, time.monotonic() - begun

    async def all_refused(self, server_names: list[str]) -> float:
        """Register with all of them, several at once; the longest time that any refusal took."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def refused(name: str) -> float:
            async with turns:
                status, seconds = await self.register(name)
            assert status in {400, 401, 403, 503}, (name, status)
            return seconds

        return max(await asyncio.gather(*(refused(name) for name in server_names)))

    def memory(self) -> int:
        """What its workers have in memory, in bytes."""
        return sum(resident(worker) for worker in children_of(self.stage.server.program.pid))


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    ca = trustme.CA()
    ca_file = folder / "internet.pem"
    ca.cert_pem.write_to_path(ca_file)
    async with (
        open_internet(ca, ca_file) as internet,
        Inside().listening() as inside,
        ClientSession(timeout=ClientTimeout(total=PATIENCE_SECONDS)) as session,
    ):
        (host, port), *_ = internet.nameservers
        http_lines = f"federation.nameservers = {host}:{port}"
        async with set_up(folder / "server", "sqlite", workers=1, ca_file=ca_file, http=http_lines) as stage:
            yield World(stage, internet, inside, session)


# --- into the inside ------------------------------------------------------------------------


def names_for_the_inside(world: World) -> list[str]:
    """Server names that lead there, or would if anybody read them in their way."""
    dns, port = world.internet.dns, world.inside.port
    dns.ttl = 0
    addresses = {
        "a.test": ("A", "127.0.0.1"),
        "two.test": ("A", "127.0.0.2"),
        "wide.test": ("A", "127.99.0.1"),
        "six.test": ("AAAA", "::1"),
        "mapped.test": ("AAAA", "::ffff:127.0.0.1"),
        "nat64.test": ("AAAA", "64:ff9b::7f00:1"),
        "six2four.test": ("AAAA", "2002:7f00:1::"),
        "any.test": ("A", "0.0.0.0"),
        "anysix.test": ("AAAA", "::"),
        "compatible.test": ("AAAA", "::127.0.0.1"),
        "link.test": ("A", "169.254.169.254"),
        "private.test": ("A", "10.0.0.1"),
        "local.test": ("AAAA", "fe80::1"),
        "many.test": ("A", "127.0.0.1", "127.0.0.2", "127.99.0.1", "10.1.2.3", "192.168.0.1"),
    }
    for name, (kind, *values) in addresses.items():
        dns.add(name, kind, *values)
    literals = [
        "127.0.0.1", "127.0.0.2", "127.99.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1",
        "127.0.0.1.", "0.0.0.0", "0", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[::1%25lo]", "localhost", "LOCALHOST", "localhost.",
        "ip6-localhost", "127.0.0.1@127.77.0.1", "127.77.0.1@127.0.0.1", "127.0.0.1#", "127.0.0.1?", "127.0.0.1/",
        "user:pass@localhost", "127。0。0。1", "①②⑦.0.0.1", "127.0.0.1\t", "127.0.0.1%00", "[::1]@127.77.0.1",
    ]  # fmt: skip
    return [f"{name}:{port}" for name in [*addresses, *literals]]


def rebinding(world: World) -> list[str]:
    """Names whose address changes with every question: the first one may be gone to, the next is the inside."""

    class Changing(dict[tuple[str, str], list[str]]):
        asked = 0

        def get(self, key: tuple[str, str], default: Any = None) -> Any:
            if key[0].startswith("rebind") and key[1] == "A":
                self.asked += 1
                return [INTERNET if self.asked % 2 else "127.0.0.1"]
            return super().get(key, default)

    records = Changing(world.internet.dns.records)
    records["rebind.test", "A"] = []
    world.internet.dns.records = records
    return [f"rebind.test:{world.inside.port}"] * 20


async def lures(world: World) -> tuple[list[str], set[str]]:
    """Names whose .well-known or SRV leads to the inside; each answer is tried by a name of its own.

    None where this user may not take the port that .well-known is asked for on.

    Returns:
        The names, and those of them whose .well-known has been asked for so far.
    """
    asked: set[str] = set()
    try:
        web = await world.internet.tls_server("*.lure.test", port=443)
    except PermissionError:
        return [], asked
    port = world.inside.port
    names: list[str] = []
    by_host: dict[str, bytes] = {}

    async def answer(writer: asyncio.StreamWriter) -> None:
        host = web.seen[-1].host
        asked.add(host)
        writer.write(by_host[host])

    web.on(WELL_KNOWN, answer)
    targets = [f"127.0.0.1:{port}", f"[::1]:{port}", f"a.test:{port}", "127.0.0.1", f"localhost:{port}"]
    answers = [delegation(target) for target in targets]
    answers += [
        http(status, Location=f"https://{target}/.well-known/matrix/server")
        for status in (301, 302, 307, 308)
        for target in targets
    ]
    answers += [
        http(302, Location=where) for where in (f"http://127.0.0.1:{port}/", "file:///etc/passwd", "gopher://[::1]/")
    ]
    for number, lure in enumerate(answers):
        name = f"n{number}.lure.test"
        world.internet.dns.add(name, "A", INTERNET)
        names.append(name)
        by_host[name] = lure
    for number, target in enumerate(("a.test", "six.test", "localhost")):
        name = f"srv{number}.test"
        world.internet.dns.add(f"_matrix-fed._tcp.{name}", "SRV", f"1 1 {port} {target}.")
        world.internet.dns.add(f"_matrix._tcp.{name}", "SRV", f"1 1 {port} {target}.")
        names.append(name)
    return names, asked


async def test_no_trick_leads_into_the_operators_own_network(tmp_path: Path, proof: Proof) -> None:
    times = proof.rounds(quick=1, full=10)
    tried = 0
    async with world(tmp_path) as w:
        lured, asked = await lures(w)
        names = names_for_the_inside(w) + rebinding(w) + lured
        for _ in range(times):
            slowest = await w.all_refused(names)
            tried += len(names)
            assert slowest < proof.within(_REFUSED_SECONDS)
        assert w.inside.visits == []
        assert asked == {name for name in lured if name.endswith(".lure.test")}
        # It would have been noticed.
        _, writer = await asyncio.open_connection("127.0.0.1", w.inside.port)
        writer.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not w.inside.visits:
                await asyncio.sleep(0.01)
    proof.record(
        f"{len(names)} server names, DNS answers, delegations and redirects that lead into private networks",
        times=tried,
        outcome=f"0 connections to the inside; all refused, the slowest after {slowest:.1f} s",
    )


# --- to wear it out -------------------------------------------------------------------------

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_BLOCK = b" " * 65536


def forever(*head: bytes, block: bytes, pause: float = 0.0) -> Writer:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.writelines(head)
        while True:
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


async def nothing(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


def bomb(times: int) -> bytes:
    """Zeros that were compressed so many times."""
    body = gzip.compress(bytes(256 << 20), 9)
    for _ in range(times - 1):
        body = gzip.compress(body, 9)
    return http(200, body, Content_Encoding=", ".join(["gzip"] * times))


Answer = bytes | Writer
_ANSWERS: dict[str, Callable[[], Answer]] = {
    "endless body": lambda: forever(_OK, b"\r\n", block=_BLOCK),
    "endless chunks": lambda: forever(_OK, b"Transfer-Encoding: chunked\r\n\r\n", block=b"10000\r\n%b\r\n" % _BLOCK),
    "endless headers": lambda: forever(_OK, block=b"X-More: %b\r\n" % (b"x" * 1000)),
    "endless header": lambda: forever(_OK, b"X-More: ", block=_BLOCK),
    "endless status": lambda: forever(b"HTTP/1.1 200 ", block=_BLOCK),
    "endless informational answers": lambda: forever(block=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim answers by the thousand": lambda: forever(block=b"HTTP/1.1 100 Continue\r\n\r\n" * 3000),
    "silence": lambda: nothing,
    "headers in drips": lambda: forever(_OK, block=b"X: y\r\n", pause=0.5),
    "body in drips": lambda: forever(_OK, b"Content-Length: 60000\r\n\r\n", block=b" ", pause=0.5),
    "a bomb": lambda: bomb(1),
    "a bomb in a bomb": lambda: bomb(2),
    "a length that lies": lambda: _OK + b"Content-Length: 99999999999\r\n\r\n{}",
    "a length that is none": lambda: _OK + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": lambda: _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "no HTTP": lambda: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "garbage": lambda: bytes(range(256)) * 100,
    "no JSON": lambda: http(200, b"<html>"),
    "deep JSON": lambda: http(200, b'{"sub":' + b"[" * 30000),
    "a list": lambda: http_json([]),
    "somebody else's user": lambda: http_json({"sub": "@alice:elsewhere.test"}),
    "no user": lambda: http_json({"sub": None}),
    "a user beyond the limits": lambda: http_json({"sub": "@" + "a" * 1000 + ":hostile.test"}),
    "a redirect to itself": lambda: http(302, Location=USERINFO),
    "an error": lambda: http(500, b"x" * 70000),
}


async def test_no_answer_wears_it_out(tmp_path: Path, proof: Proof) -> None:
    times = proof.rounds(quick=1, full=20)
    async with world(tmp_path) as w:
        names, servers = [], {}
        for number, (what, answer) in enumerate(_ANSWERS.items()):
            host = f"h{number}.test"
            w.internet.dns.add(host, "A", INTERNET)
            server = await w.internet.tls_server(host)
            server.on(USERINFO, answer())
            servers[what] = server
            names.append(f"{host}:{server.port}")
        names += await badly_certified(w)
        good = await well_behaved(w)
        assert (await w.register(good))[0] == 200
        before, most = w.memory(), 0
        finished = asyncio.Event()

        async def watch() -> int:
            most = 0
            while not finished.is_set():
                most = max(most, w.memory())
                await asyncio.sleep(0.02)
            return most

        watching = asyncio.create_task(watch())
        slowest = await w.all_refused(names * times)
        finished.set()
        most = await watching
        # And it serves everybody else as before.
        assert (await w.register(good))[0] == 200
    assert [what for what, server in servers.items() if not server.seen] == []
    assert slowest < proof.within(_REFUSED_SECONDS)
    assert most - before < _MOST_MEMORY
    proof.record(
        f"{len(names)} homeservers that answer without end, slowly, wrongly or with a bad certificate, {_AT_ONCE} at a time",
        times=len(names) * times,
        outcome=f"all refused, the slowest after {slowest:.1f} s; {(most - before) / (1 << 20):.0f} MB more memory at most",
    )


async def badly_certified(w: World) -> list[str]:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    servers = {
        "unknown-authority.test": await w.internet.tls_server("unknown-authority.test", ca=trustme.CA()),
        "other-name.test": await w.internet.tls_server("elsewhere.test"),
        "expired.test": await w.internet.tls_server("expired.test", not_after=yesterday),
    }
    names = []
    for host, server in servers.items():
        w.internet.dns.add(host, "A", INTERNET)
        name = f"{host}:{server.port}"
        server.on(USERINFO, http_json({"sub": f"@alice:{name}"}))
        names.append(name)
    return names


async def well_behaved(w: World) -> str:
    w.internet.dns.add("good.test", "A", INTERNET)
    server = await w.internet.tls_server("good.test")
    name = f"good.test:{server.port}"
    server.on(USERINFO, http_json({"sub": f"@alice:{name}"}))
    return name


# --- in somebody's name ---------------------------------------------------------------------


async def test_nobody_unbinds_in_the_name_of_a_homeserver(tmp_path: Path, proof: Proof) -> None:
    async with world(tmp_path) as w:
        w.internet.dns.add("victim.test", "A", INTERNET)
        server = await w.internet.tls_server("victim.test")
        victim = SigningHomeserver(f"victim.test:{server.port}")
        server.on(_KEYS, http_json(victim.published_keys()))
        forger = SigningHomeserver(victim.name, version="a_forger")
        forger.key.version = victim.key.version
        content = {"mxid": f"@alice:{victim.name}", "threepid": {"medium": "email", "address": "alice@example.com"}}
        other = {**content, "threepid": {"medium": "email", "address": "bob@example.com"}}
        ours = {"destination": "localhost"}

        async def unbind(authorization: str, body: dict[str, Any] = content, path: str = UNBIND) -> int:
            w.calls += 1
            headers = {"Authorization": authorization, "X-Forwarded-For": f"10.0.{w.calls}.1"}
            url = f"{w.stage.server.base}{path}"
            async with w.session.post(url, json=body, headers=headers) as response:
                await response.read()
                return response.status

        good = victim.authorization(content, **ours)
        assert await unbind(good) == 200
        tricks: dict[str, Awaitable[int]] = {
            "forged": unbind(forger.authorization(content, **ours)),
            "another body": unbind(good, other),
            "another path": unbind(good, path=f"{UNBIND}?more"),
            "another destination": unbind(victim.authorization(content, destination="elsewhere.test")),
            "another destination than signed": unbind(
                victim.authorization(content, destination="elsewhere.test").replace("elsewhere.test", "localhost")
            ),
            "another method": unbind(victim.authorization(content, method="PUT", **ours)),
            "another key id": unbind(good.replace(victim.key_id, "ed25519:other")),
            "no signature": unbind(good.partition(",sig=")[0]),
            "cut signature": unbind(good.replace('",destination', 'A",destination')),
            "another origin": unbind(good.replace(victim.name, "elsewhere.test")),
        }
        statuses = {name: await trick for name, trick in tricks.items()}
        assert set(statuses.values()) <= {401, 403, 503}, statuses
        assert await unbind(good) == 200
    proof.record(
        "X-Matrix forged, altered or for another destination",
        times=len(statuses),
        outcome="all refused, while the genuine one is taken before and after",
    )
