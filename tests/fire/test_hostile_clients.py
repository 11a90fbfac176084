"""Clients that want to keep others out, to wear the server out, or to have it take one thing for another.

On the real command, with workers as in production. Odd input to every endpoint is in tests/api and tests/contract; paths
through a validation session are in test_session_states.py.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from identity_server.api.routes import ROUTES
from tests.api.support import CORS, GOOD, STRINGS, V2, changed, head, path_of
from tests.e2e.processes import PATIENCE_SECONDS
from tests.fire.crowd import Attack, Bystander, Crowd, Used
from tests.fire.launcher import FILES, PATIENCE
from tests.fire.load import Load
from tests.fire.report import Proof
from tests.fire.stage import Engine, Stage, set_up
from tests.support.harness import hashed

_HEAD = b"POST /_matrix/identity/v2/account/register HTTP/1.1\r\nHost: id\r\n"
_IN_LINE = b"POST /_matrix/identity/v2/terms HTTP/1.1\r\nHost: id\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000
_ATTACKS = (
    Attack("connections that say nothing"),
    Attack("heads in drips", _HEAD + b"X-Slow: ", b"z"),
    Attack("bodies in drips", _HEAD + b"Content-Length: 16384\r\n\r\n" + b'{"a":"' + b"x" * 15_000, b"x"),
    Attack("chunks in drips", _HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    Attack(
        "answers that nobody reads",
        b"GET /_matrix/identity/openapi.json HTTP/1.1\r\nHost: id\r\n\r\n" * 20,
        reads=False,
    ),
    Attack(
        "requests behind an answer that nobody reads",
        b"GET /_matrix/identity/openapi.json HTTP/1.1\r\nHost: id\r\n\r\n" * 20 + _IN_LINE * 31,
        reads=False,
        may_take=512 * 1024,
    ),
)

_P99_SECONDS = 10.0
"""Far more than it takes but on a busy machine; without room being made, people wait until they give up."""

_A_FEW_FILES = 16
_FIRST_REQUESTS = 10
# What a server takes once it has work at all.
_ANYHOW = 40 * 1024 * 1024
_SETTLES_SECONDS = 300.0


@pytest.mark.parametrize("attack", _ATTACKS, ids=lambda attack: attack.name)
async def test_crowd_keeps_nobody_out(tmp_path: Path, attack: Attack, proof: Proof) -> None:
    """Whether it is larger than what the server takes, or not."""
    size, files, seconds = (6_000, None, 90.0) if proof.is_full else (500, 400, 3.0)
    env = {} if files is None else {FILES: str(files), PATIENCE: "3"}
    async with set_up(tmp_path, "sqlite", env=env) as stage, Load(stage, keeps_connections=False) as load:
        bystander = Bystander(load, stage)
        async with asyncio.timeout(PATIENCE_SECONDS), bystander.asking():
            # What a worker takes for its first requests, it takes anyhow.
            while len(bystander.seconds) < _FIRST_REQUESTS:
                await asyncio.sleep(0.1)
        before, most_memory, most_files = Used.by(stage), 0, 0
        bystander.seconds.clear()
        async with Crowd(stage, attack, size).gathered() as crowd, bystander.asking():
            end = time.monotonic() + seconds
            # For as long, and until somebody has been served among them.
            while time.monotonic() < end or not bystander.seconds:
                await asyncio.sleep(0.5)
                now = Used.by(stage)
                most_memory, most_files = max(most_memory, now.memory), max(most_files, now.files)
            # From now on whoever is thrown out stays away; and everybody is.
            crowd.stays = False
            async with asyncio.timeout(_SETTLES_SECONDS):
                # Who reads nothing doesn't see the end, either, if it stands behind what wasn't read.
                while (attack.reads and crowd.here) or Used.by(stage).files > before.files + _A_FEW_FILES:
                    await asyncio.sleep(0.2)
        assert crowd.lost >= size or not attack.reads
        assert bystander.p99 < proof.within(_P99_SECONDS)
        assert load.failures() == []
        grown = most_memory - before.memory
        assert grown < _ANYHOW + size * attack.may_take
        assert files is None or most_files < files
        assert no_faults(stage) == []
    proof.record(
        f"{size} clients at a time, each with one connection: {attack.name}",
        times=size,
        outcome=f"all dropped, their files given back; {len(bystander.seconds)} honest registrations meanwhile, one in a"
        f" hundred slower than {bystander.p99 * 1000:.0f} ms; memory at most +{grown >> 20} MiB in two workers",
    )


def no_faults(stage: Stage) -> list[str]:
    """What its log says that must not be there."""
    faults = (
        "request.failed",
        "connection.failed",
        "connections.exhausted",
        "worker.lost",
        "worker.failed",
        "Traceback",
    )
    return [line for fault in faults for line in stage.server.log_lines(fault)]


# --- hardly HTTP ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request written by hand."""

    status: int
    headers: dict[str, str]
    body: bytes

    def wrong(self) -> str | None:
        """What is wrong with it, whatever was asked."""
        # A name that the scribbler has bent leads to no homeserver, which is said so.
        if self.status >= 500 and not (self.status == 503 and b"homeserver" in self.body):
            return f"status {self.status}"
        if {name: self.headers.get(name) for name in CORS} != CORS:
            return "no CORS headers"
        kind = self.headers.get("Content-Type", "")
        if self.status >= 400 and kind.startswith("application/json"):
            error = orjson.loads(self.body) if self.body else None
            if not (isinstance(error, dict) and error["errcode"].startswith("M_") and error["error"]):
                return "no error in Matrix's form"
        elif self.status >= 400 and not kind.startswith("text/html"):
            return f"an error as {kind}"
        return None


@dataclass
class Wire:
    """Connections on which anything may be written.

    Attributes:
        statuses: of all answers so far.
    """

    stage: Stage
    statuses: Counter[int] = field(default_factory=Counter)

    async def send(self, *parts: bytes, patience: float, heads: bool = False) -> list[Answer]:
        """Send bytes, and read answers until the other side ends the connection or says nothing for a while."""
        port = int(self.stage.server.base.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        answers: list[Answer] = []
        try:
            with suppress(ConnectionError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
            with suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                while True:
                    async with asyncio.timeout(patience):
                        answers.append(await _answer(reader, has_body=not heads))
        finally:
            writer.transport.abort()
        final = [answer for answer in answers if answer.status >= 200]
        self.statuses.update(answer.status for answer in final)
        return final


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> Answer:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    match = re.fullmatch(r"HTTP/1\.[01] ([1-5][0-9][0-9]) [\x20-\x7e]*", status_line)
    assert match, status_line
    headers = dict(line.split(": ", 1) for line in lines)
    length = int(headers.get("Content-Length", 0)) if has_body else 0
    return Answer(int(match[1]), headers, await reader.readexactly(length))


async def somebody(stage: Stage, load: Load, name: str) -> str:
    """The access token of an account that has accepted the terms."""
    network = 0xFE << 8
    openid = stage.homeserver.openid(name)
    status, content = await load.ask("POST", "account/register", network=network, json=openid)
    assert status == 200, content
    token: str = content["token"]
    _, offered = await load.ask("GET", "terms")
    urls = [policy["en"]["url"] for policy in offered["policies"].values()]
    assert (await load.ask("POST", "terms", network=network, token=token, json={"user_accepts": urls}))[0] == 200
    return token


async def in_turns(count: int, work: Callable[[int], Awaitable[None]], *, at_once: int = 24) -> None:
    """Do something so many times, several at once."""
    turns = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with turns:
            await work(number)

    await asyncio.gather(*(one(number) for number in range(count)))


class Scribbler:
    """Writes requests that are wrong in several places at once; the same for the same number."""

    _METHODS = (
        "GET", "POST", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "CONNECT", "get", "BREW",
        "PRI", "", "GET\t", "G\x00T", "POST" * 500,
    )  # fmt: skip
    _TRICKS = (
        "{0}", "{0}", "{0}", "/{0}", "/.{0}", "/x/..{0}", "/..%2f{0}", "/%2e%2e{0}", "{0}/", "{0}//", "{0};a=b", "{0};",
        "{0}%00", "{0}%ff", "{0}%", "{0}#x", "{0}?", "{0}?a=1&a=2", "{0}?sid=%00&client_secret=%ed%a0%80&token=%ff",
        "{0}?access_token=%00", "{0}?" + "a=b&" * 1500, "http://evil.example{0}", "https://[::1{0}", "{0}\t", "{0} x",
        "\\{0}", "*", "", "{0}\x00", "{0}\xff", "{0}" + "z" * 9000,
    )  # fmt: skip
    _VERSIONS = ("HTTP/1.1",) * 8 + (
        "HTTP/1.0",
        "HTTP/0.9",
        "HTTP/2.0",
        "HTTP/1.1 ",
        "HTTP/1.11",
        "http/1.1",
        "",
        "X",
    )
    _LINES = (
        "Host: evil.example", "Host:", "Host: a\r\nHost: b", "Connection: close", "Connection: keep-alive, Upgrade",
        "Upgrade: h2c", "Upgrade: websocket", "Expect: 100-continue", "Expect: x", "Content-Type: text/plain",
        "Content-Type: application/json; charset=utf-16", "Content-Type: \x00", "X: " + "y" * 9000, "X" * 9000 + ": y",
        "X: y\r\n folded", "X : y", ": y", "no colon", "X: \x00", "X: \xff", "Accept-Language: " + "de," * 2000,
        "X-Forwarded-For: 1.2.3.4, \x7f, ::1, , 999.1.1.1", "X-Forwarded-For: " + "1.1.1.1," * 900, "Range: bytes=0-",
        "Authorization: Basic x", 'Authorization: X-Matrix origin="a",key="ed25519:a",sig="x"', "Cookie: " + "a" * 4000,
        "Authorization: Bearer \xe9", "Authorization: Bearer " + "x" * 6000, "Origin: null", "X-HTTP-Method-Override: PUT",
        "\r\n".join(f"X-{number}: y" for number in range(120)), "\r\n".join(f"X-{number}: y" for number in range(300)),
        "X-Request-ID: \x1b[2J", "Traceparent: 00-\x00", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: -1",
        "Content-Length: 99999999999999999999", "Content-Length: 65537", "Content-Length: 0x10", "Content-Length: ",
    )  # fmt: skip
    _VALUES: tuple[Any, ...] = (
        "", "\x00", "a\x00b", "\x1f\r\n", "\u202e", "é" * 300, "a" * 70_000, 10**400, -(10**400), 1e308, -0.0, True, None,
        [], {}, [[]], "\\", "'; --", "%s%n", "{{7*7}}", "\U0010ffff", "@", "@a:b@c:d", "a@b@c.example", 2**63, 2**64,
    )  # fmt: skip
    _RAW = (
        b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b"1" * 5000, b"1e999999", b"-", b"NaN",
        b"[" * 100_000, b'{"a":' * 12_000, b"[" * 900 + b"]" * 900, b'"' + b"\\u0000" * 5000 + b'"', b"0" * 40_000,
    )  # fmt: skip

    def __init__(self, number: int, token: str) -> None:
        self._random = random.Random(f"scribbler {number}")
        self._token = token

    def requests(self) -> list[bytes]:
        """A few of them, to be sent one after the other without waiting for an answer."""
        return [self._request() for _ in range(self._random.choice((1, 1, 1, 2, 5)))]

    def parts(self, data: bytes) -> list[bytes]:
        """The same bytes in pieces."""
        cuts = sorted(self._random.randrange(len(data) + 1) for _ in range(self._random.choice((0, 0, 1, 3))))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _request(self) -> bytes:
        pick = self._random.choice
        operation = pick(list(GOOD))
        path = pick((f"{V2}/{operation}", path_of(pick(ROUTES))))
        body = self._body(operation)
        lines = ["Host: id"]
        if self._random.random() < 0.6:
            lines.append(f"Authorization: Bearer {self._token}")
        body, framing = self._framed(body)
        lines += framing
        lines += [pick(self._LINES) for _ in range(pick((0, 0, 1, 1, 2, 4)))]
        self._random.shuffle(lines)
        # Mostly a single thing is wrong, so that it comes as far as it can.
        method = pick(self._METHODS) if self._random.random() < 0.3 else "POST"
        target = pick(self._TRICKS).format(path) if self._random.random() < 0.4 else path
        version = pick(self._VERSIONS) if self._random.random() < 0.3 else "HTTP/1.1"
        return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode("latin-1") + body

    def _body(self, operation: str) -> bytes:
        """The body of an operation with one odd value, or something else altogether."""
        pick = self._random.choice
        places = [place for of, place, _ in STRINGS if of == operation]
        kind = self._random.random()
        if kind < 0.4 and places:
            return _json(changed(operation, pick(places), pick(self._VALUES)))
        if kind < 0.7 and places:
            marked = orjson.dumps(changed(operation, pick(places), "zq8marker"))
            return marked.replace(b'"zq8marker"', pick(self._RAW))
        if kind < 0.8:
            good = orjson.dumps(GOOD[operation])
            # Every name twice.
            return good[:-1] + b"," + good[1:]
        return pick((orjson.dumps(GOOD[operation]), b"", b"null", b"[]", self._random.randbytes(200), b"a=b&a=%ff"))

    def _framed(self, body: bytes) -> tuple[bytes, list[str]]:
        """The body with its length, or what is said to be that; and the lines that say so."""
        pick = self._random.choice
        kind = self._random.random()
        if kind < 0.5:
            return body, [f"Content-Length: {len(body)}"]
        if kind < 0.65:
            packed, name = pick(
                (
                    (gzip.compress(body, 1), "gzip"),
                    (zlib.compress(body, 1), "deflate"),
                    (gzip.compress(b" " * 4_000_000, 1), "gzip"),
                    (gzip.compress(b"[" * 60_000, 1), "x-gzip"),
                    (gzip.compress(gzip.compress(b" " * 4_000_000)), "gzip, gzip"),
                    (body, "br"),
                    (body, "gzip"),
                    (zlib.compress(body)[:-3], "deflate"),
                )
            )
            return packed, [f"Content-Length: {len(packed)}", f"Content-Encoding: {name}"]
        if kind < 0.8:
            size = pick(
                (f"{len(body):x}", f"{len(body):X};a=b", f"{len(body) + 1:x}", "-1", "+5", "0x5", "f" * 20, "")
            )
            encoding = pick(
                ("chunked", "Chunked", "xchunked", "chunked, identity", "identity", "gzip, chunked", "\x0bchunked")
            )
            return size.encode() + b"\r\n" + body + b"\r\n0\r\n\r\n", [f"Transfer-Encoding: {encoding}"]
        if kind < 0.9:
            return body, [f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"]
        return body, [f"Content-Length: {pick((max(len(body) - 3, 0), len(body) + 3, 10**7))}"]


def _json(value: Any) -> bytes:
    # orjson refuses numbers that are this large.
    return json.dumps(value).encode()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_nothing_that_is_hardly_a_request_is_a_fault(tmp_path: Path, engine: Engine, proof: Proof) -> None:
    times = proof.rounds(quick=600, full=40_000)
    # A busy machine answers later; the server gives up first even so.
    patience, servers = (1.0, 0.5) if proof.is_full else (4.0, 1.0)
    env = {PATIENCE: str(servers)}
    async with set_up(tmp_path, engine, env=env) as stage, Load(stage) as load:
        wire, token = Wire(stage), await somebody(stage, load, "scribbler")
        before = Used.by(stage)

        async def scribble(number: int) -> None:
            scribbler = Scribbler(number, token)
            requests = scribbler.requests()
            answers = await wire.send(*scribbler.parts(b"".join(requests)), patience=patience)
            for answer in answers:
                wrong = answer.wrong()
                assert wrong is None, (wrong, number, answer, [request[:300] for request in requests])

        await in_turns(times, scribble)
        assert (await load.ask("GET", "account", token=token))[0] in {200, 401}
        assert load.failures() == []
        assert no_faults(stage) == []
        # Of every kind: else it would have been about something else.
        assert {200, 400, 401, 404, 405, 413} <= set(wire.statuses)
        assert Used.by(stage).memory - before.memory < 200 << 20
    told = ", ".join(f"{status}: {count}" for status, count in sorted(wire.statuses.items()))
    proof.record(
        f"Requests that are wrong in several places at once, in pieces and one behind the other, on {engine}",
        times=times,
        outcome=f"no 5xx, no fault in the log; each error in Matrix's form with CORS headers. {told}",
    )


# --- one request within another -------------------------------------------------------------

_FRAMINGS: Final = (
    "Content-Length: {size}\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: {size}",
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Content-Length: {size}\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: {size}",
    "Content-Length: 5, {size}",
    "Content-Length: +5",
    "Content-Length: 0x5",
    "Content-Length: 5 5",
    "Content-Length: 5\x00",
    "Content-Length\x00: 5",
    "Content-Length : 5",
    "Content-Length:\r\n 5",
    "Transfer-Encoding: xchunked\r\nContent-Length: {size}",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked\r\nContent-Length: 5",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding:\x0bchunked\r\nContent-Length: {size}",
    "Transfer-Encoding : chunked\r\nContent-Length: {size}",
    "Transfer-Encoding:\r\n chunked\r\nContent-Length: {size}",
    'Transfer-Encoding: "chunked"\r\nContent-Length: {size}',
    "X: y\nTransfer-Encoding: chunked\r\nContent-Length: {size}",
    "X: y\rTransfer-Encoding: chunked\r\nContent-Length: {size}",
)
"""Each is read in two ways by somebody."""
_CHUNKS: Final = (
    b"0\r\n\r\n",
    b"0\n\n",
    b"00\r\n\r\n",
    b"0;a\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"hello",
)


async def test_no_request_hides_in_another(tmp_path: Path, proof: Proof) -> None:
    """Whatever a proxy may have taken for one request is none here, or one: never two."""
    times = proof.rounds(quick=1, full=20)
    async with set_up(tmp_path, "sqlite", env={PATIENCE: "1"}) as stage, Load(stage) as load:
        wire, victim = Wire(stage), await somebody(stage, load, "victim")
        log_out = (f"{V2}/account/logout", f"Authorization: Bearer {victim}", "Content-Length: 0")
        hidden = head("POST", *log_out)
        shapes = [(framing, chunks) for framing in _FRAMINGS for chunks in _CHUNKS] * times

        async def hide(number: int) -> None:
            framing, chunks = shapes[number]
            body = chunks + hidden
            lines = framing.format(size=len(body)).split("\r\n")
            answers = await wire.send(head("POST", f"{V2}/terms", *lines) + body, patience=1.5)
            assert len(answers) <= 1, (framing, chunks, answers)
            assert [answer.wrong() for answer in answers] in ([], [None]), (framing, chunks, answers)

        await in_turns(len(shapes), hide, at_once=64)
        assert (await load.ask("GET", "account", token=victim))[0] == 200
        # It would have worked.
        openly = head("POST", *log_out, "Connection: close")
        assert [answer.status for answer in await wire.send(openly, patience=PATIENCE_SECONDS)] == [200]
        assert (await load.ask("GET", "account", token=victim))[0] == 401
        assert no_faults(stage) == []
    proof.record(
        f"A request within another that is framed in {len(_FRAMINGS) * len(_CHUNKS)} ambiguous ways",
        times=len(shapes),
        outcome="none was taken for a request; each got one answer or none",
    )


# --- who is it ------------------------------------------------------------------------------

_REGISTRATIONS = 30
_REGISTRATIONS_PER_SECOND = 0.5
"""What one network may, and how it comes back."""


@pytest.mark.parametrize("proxy", ["no proxy is trusted", "behind a trusted proxy"])
async def test_forged_addresses_buy_nothing(tmp_path: Path, proxy: str, proof: Proof) -> None:
    """Neither registrations nor lookups nor v1's lookups: what counts is what a proxy of ours says, or the connection."""
    forged = proof.rounds(quick=150, full=2_000)
    is_trusted = proxy == "behind a trusted proxy"
    budget = 50
    env = {
        "IDENTITY_SERVER__HTTP__TRUSTED_PROXIES": "127.0.0.1" if is_trusted else "",
        "IDENTITY_SERVER__LOOKUP__BUDGET_NETWORK_PER_DAY": str(budget),
    }
    async with set_up(tmp_path, "sqlite", env=env) as stage, Load(stage) as load:
        wire = Wire(stage)
        bought: Counter[tuple[str, int]] = Counter()
        token = await somebody(stage, load, "looker")
        _, details = await load.ask("GET", "hash_details", token=token)

        async def ask(path: str, body: Any, *lines: str) -> int:
            data = orjson.dumps(body)
            request = head("POST", f"{V2}/{path}", *lines, f"Content-Length: {len(data)}", "Connection: close") + data
            (answer,) = await wire.send(request, patience=PATIENCE_SECONDS)
            assert answer.wrong() is None, answer
            return answer.status

        async def forge(number: int) -> None:
            lies = [
                f"X-Forwarded-For: {_address(number)}",
                f"X-Real-IP: {_address(number)}",
                f"Forwarded: for={_address(number)}",
            ]
            # A proxy adds whom it has got it from.
            lines = [*lies, "X-Forwarded-For: 203.0.113.9"] if is_trusted else lies
            status = await ask("account/register", stage.homeserver.openid(f"f{number}"), *lines)
            bought["register", status] += 1
            query = {
                "algorithm": "sha256",
                "pepper": details["lookup_pepper"],
                "addresses": [hashed(f"forged{number}@example.com", details["lookup_pepper"])],
            }
            status = await ask("lookup", query, f"Authorization: Bearer {token}", *lines)
            bought["look up", status] += 1

        begun = time.monotonic()
        await in_turns(forged, forge, at_once=4)
        assert {status for _, status in bought} <= {200, 429}
        registered, looked_up = bought["register", 200], bought["look up", 200]
        # The allowance, and what has come back of it in this time.
        refilled = (time.monotonic() - begun) * _REGISTRATIONS_PER_SECOND
        assert _REGISTRATIONS - 1 <= registered <= _REGISTRATIONS + refilled + 1
        # What a process has set aside and not spent is lost.
        assert budget // 2 <= looked_up <= budget
        if is_trusted:
            # Somebody else is somebody else.
            assert (
                await ask("account/register", stage.homeserver.openid("else"), "X-Forwarded-For: 198.51.100.1") == 200
            )
    proof.record(
        f"Requests with forged addresses, {proxy}",
        times=2 * forged,
        outcome=f"{forged} addresses bought {registered} registrations and {looked_up} lookups, as one does",
    )


def _address(number: int) -> str:
    return f"{11 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1"
