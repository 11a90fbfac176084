"""Bodies that can't be read: each gets its errcode, and leaves no trace."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from identity_server.api.erasure import ERASE_PATH
from identity_server.api.protocol import FIRST_REQUEST_SECONDS
from identity_server.api.requests import UNFINISHED
from identity_server.api.routes import ROUTES
from identity_server.wiring.settings import _BODY_TIMEOUT_SECONDS
from tests.api.support import (
    GOOD,
    JSON_OPERATIONS,
    MARKER,
    V2,
    Part,
    assert_refused,
    exchange,
    head,
    is_page,
    nothing_stored,
    post_raw,
)
from tests.support.harness import Harness, User, running
from tests.support.loop_time import pass_on_loop

pytestmark = pytest.mark.asyncio(loop_scope="module")

KIB = 1024
READS_NO_BODY = {"account/logout"}
SIGNED = {ERASE_PATH}
"""Only a homeserver can ask, by its signature: tests/flows/test_erased_by_homeserver.py does."""

NOT_JSON = {
    "empty": b"",
    "blank": b" \r\n\t",
    "cut short": b'{"a": ',
    "words": f"hello {MARKER}".encode(),
    "form": b"client_secret=a&email=a%40b.example&send_attempt=1",
    "single quotes": b"{'a': 1}",
    "trailing comma": b'{"a": 1,}',
    "two values": b"{} {}",
    "comment": b"{} // hello",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": -Infinity}',
    "number beyond all bounds": b'{"a": ' + b"9" * 4000 + b"}",
    "leading zero": b'{"a": 01}',
    "raw control": b'{"a": "\x00"}',
    "raw newline": b'{"a": "\n"}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "surrogates the wrong way round": b'{"a": "\\udc00\\ud800"}',
    "surrogate as a key": b'{"\\udfff": 1}',
    "encoded surrogate": b'{"a": "\xed\xa0\x80"}',
    "invalid UTF-8": b'{"a": "\xff\xfe"}',
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep list": b'{"a": ' + b"[" * 4_000 + b"]" * 4_000 + b"}",
    "deep object": b'{"a":' * 1_300 + b"1" + b"}" * 1_300,
    "endless depth": b"[" * 8_000,
}
NO_OBJECT = {
    "list": b"[]",
    "list of objects": b'[{"sid": "1"}]',
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "huge number": b"9" * 300,
    "string": f'"{MARKER}"'.encode(),
}


async def test_every_operation_that_reads_a_body_is_tested_here() -> None:
    posted = {route.path.removeprefix(f"{V2}/") for route in ROUTES if route.method == "POST" and not is_page(route)}
    assert posted == set(JSON_OPERATIONS) | READS_NO_BODY | SIGNED


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
@pytest.mark.parametrize("name", NOT_JSON)
async def test_what_is_not_json(server: Harness, alice: User, operation: str, name: str) -> None:
    with nothing_stored(server):
        reply = await post_raw(server, operation, NOT_JSON[name], alice)
    assert_refused(reply, 400, "M_NOT_JSON")


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
@pytest.mark.parametrize("name", NO_OBJECT)
async def test_json_that_is_no_object(server: Harness, alice: User, operation: str, name: str) -> None:
    with nothing_stored(server):
        reply = await post_raw(server, operation, NO_OBJECT[name], alice)
    assert_refused(reply, 400, "M_BAD_JSON")


async def test_a_hundred_thousand_levels_in_the_largest_body(server: Harness, alice: User) -> None:
    for body in (b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        assert_refused(await post_raw(server, "lookup", body, alice), 400, "M_NOT_JSON")


async def test_a_handful_of_levels_in_a_field_that_nobody_reads(server: Harness, alice: User) -> None:
    body = orjson.dumps(GOOD["terms"])[:-1] + b', "more": ' + b"[" * 100 + b"]" * 100 + b"}"
    assert (await post_raw(server, "terms", body, alice)).status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "nonsense",
        ";",
    ],
)
async def test_json_is_read_whatever_its_content_type_says(
    server: Harness, alice: User, content_type: str | None
) -> None:
    lines = [f"Authorization: Bearer {alice.token}", "Content-Length: 19"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    answers = await exchange(server, head("POST", f"{V2}/terms", *lines) + b'{"user_accepts":[]}')
    assert (answers.only.status, answers.only.json) == (200, {})


# --- size ---------------------------------------------------------------------------------


def limit_of(operation: str) -> int:
    # For the first two, no token is asked for.
    return KIB * {"account/register": 16, "3pid/unbind": 8, "lookup": 1024}.get(operation, 64)


def padded(operation: str, size: int) -> bytes:
    body = orjson.dumps(GOOD[operation])
    return body + b" " * (size - len(body))


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 16 * KIB):
        yield body[start : start + 16 * KIB]


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
async def test_one_byte_too_many(server: Harness, alice: User, operation: str, *, chunked: bool) -> None:
    body = padded(operation, limit_of(operation) + 1)
    with nothing_stored(server):
        reply = await server.post(operation, as_=alice, data=in_chunks(body) if chunked else io.BytesIO(body))
    assert_refused(reply, 413, "M_TOO_LARGE")
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize("operation", ["terms", "lookup", "3pid/bind", "3pid/unbind"])
@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
async def test_a_body_of_the_greatest_size_is_read(
    server: Harness, alice: User, operation: str, *, chunked: bool
) -> None:
    body = padded(operation, limit_of(operation))
    reply = await server.post(operation, as_=alice, data=in_chunks(body) if chunked else io.BytesIO(body))
    assert reply.status in {200, 400, 403, 404}
    assert reply.errcode in {None, "M_INVALID_PEPPER", "M_NO_VALID_SESSION", "M_FORBIDDEN"}


@pytest.mark.parametrize("length", [64 * KIB + 1, 10**12, 2**63 - 1])
async def test_a_length_that_is_too_great_is_refused_before_anything_is_sent(
    server: Harness, alice: User, length: int
) -> None:
    lines = [f"Authorization: Bearer {alice.token}", f"Content-Length: {length}"]
    answers = await exchange(server, head("POST", f"{V2}/3pid/bind", *lines))
    assert_refused(answers.only, 413, "M_TOO_LARGE")


async def test_an_oversize_form(server: Harness) -> None:
    path = "/_matrix/identity/confirm"
    assert (await server.post(path, data=b"token=" + b"a" * (16 * KIB - 6))).status == 400
    reply = await server.post(path, data=b"token=" + b"a" * (16 * KIB - 5))
    assert reply.status == 413
    assert reply.headers["Content-Type"].startswith("text/html")


# --- compression --------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_body_is_read(server: Harness, alice: User, encoding: str) -> None:
    body = orjson.dumps(GOOD["terms"])
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    reply = await post_raw(server, "terms", packed, alice, Content_Encoding=encoding)
    assert (reply.status, reply.json) == (200, {})


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
async def test_a_bomb_bursts_no_further_than_the_limit(server: Harness, alice: User, operation: str) -> None:
    bomb = gzip.compress(b" " * (4 * 1024 * KIB))
    assert len(bomb) < limit_of(operation)
    with nothing_stored(server):
        reply = await post_raw(server, operation, bomb, alice, Content_Encoding="gzip")
    assert_refused(reply, 413, "M_TOO_LARGE")


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
async def test_compression_that_is_broken(server: Harness, alice: User, operation: str) -> None:
    packed = gzip.compress(orjson.dumps({**GOOD[operation], "more": list(range(500))}))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    with nothing_stored(server):
        for body in (packed[: len(packed) // 2], packed[:12], bytes(damaged), b"no gzip at all", b"\x1f\x8b"):
            reply = await post_raw(server, operation, body, alice, Content_Encoding="gzip")
            assert_refused(reply, 400, "M_NOT_JSON")


async def test_compression_that_lacks_its_last_bytes(server: Harness, alice: User) -> None:
    packed = gzip.compress(orjson.dumps(GOOD["terms"]))
    for body in (packed[:-1], packed[:-8], packed + b"more"):
        assert_refused(await post_raw(server, "terms", body, alice, Content_Encoding="gzip"), 400, "M_NOT_JSON")


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", MARKER])
async def test_a_compression_that_is_not_known_here(server: Harness, alice: User, encoding: str) -> None:
    reply = await post_raw(server, "terms", b"{}", alice, Content_Encoding=encoding)
    assert_refused(reply, 400, "M_NOT_JSON")


async def test_a_broken_body_costs_neither_the_connection_nor_a_line_of_error(
    server: Harness, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    body = b"no gzip at all"
    bearer = f"Authorization: Bearer {alice.token}"
    for path in (f"{V2}/terms", f"{V2}/account/logout?no=token", "/unknown"):
        lines = [f"Content-Length: {len(body)}", "Content-Encoding: gzip", *([bearer] if "terms" in path else [])]
        with capture_logs() as entries:
            answers = await exchange(server, head("POST", path, *lines), body, head("GET", V2), replies=2)
        assert [reply.status for reply in answers.replies] == [
            {"/unknown": 404, f"{V2}/terms": 400}.get(path, 401),
            200,
        ]
        assert [entry for entry in entries if entry["log_level"] == "error"] == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# --- bodies that don't come ---------------------------------------------------------------


def unfinished(server: Harness) -> list[int]:
    """How many bytes have come of each body that isn't there as a whole, the oldest first."""
    return list(server.system.app[UNFINISHED]._sizes.values())


async def _waited_for(event: asyncio.Event) -> None:
    await event.wait()


def when_it_waits(server: Harness, *sizes: int, then_passes: float = 0) -> Callable[[], Awaitable[None]]:
    """Waits until so much has come of bodies that aren't there as a whole, and has time pass for the server."""

    async def wait() -> None:
        while unfinished(server) != [*sizes]:
            await asyncio.sleep(0)
        pass_on_loop(then_passes)

    return wait


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
async def test_a_body_that_stops_is_not_waited_for(server: Harness, alice: User, operation: str) -> None:
    lines = [f"Authorization: Bearer {alice.token}", "Content-Length: 100"]
    stops = (b'{"a":', when_it_waits(server, 5, then_passes=_BODY_TIMEOUT_SECONDS))
    with nothing_stored(server):
        answers = await exchange(server, head("POST", f"{V2}/{operation}", *lines), *stops)
    assert_refused(answers.only, 408, "M_UNKNOWN")
    assert answers.only.headers["Connection"] == "close"


async def test_a_body_in_drips_is_not_waited_for_either(server: Harness, alice: User) -> None:
    lines = [f"Authorization: Bearer {alice.token}", "Transfer-Encoding: chunked"]
    ends: set[float | None] = set()

    async def note_end() -> None:
        ends.update(time.when() for time in server.system.app[UNFINISHED]._sizes)

    drips: list[Part] = []
    for number in range(1, 4):
        drips += [b"1\r\n \r\n", when_it_waits(server, number), note_end]
    drips.append(when_it_waits(server, 3, then_passes=_BODY_TIMEOUT_SECONDS))
    answers = await exchange(server, head("POST", f"{V2}/terms", *lines), *drips)
    assert_refused(answers.only, 408, "M_UNKNOWN")
    assert len(ends) == 1, "each of them gives no more time"


async def test_time_is_up_for_the_oldest_of_unfinished_bodies_that_are_too_much(
    server: Harness, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity_server.api.requests._MOST_UNFINISHED", 100_000)
    body = padded("terms", 50_000)
    begin = head("POST", f"{V2}/terms", f"Authorization: Bearer {alice.token}", f"Content-Length: {len(body)}")
    begin, end = begin + body[:40_000], body[40_000:]
    for _ in range(2):
        go_on = asyncio.Event()
        first = asyncio.create_task(exchange(server, begin, None))
        await when_it_waits(server, 40_000)()
        others = [asyncio.create_task(exchange(server, begin, partial(_waited_for, go_on), end))]
        await when_it_waits(server, 40_000, 40_000)()
        others.append(asyncio.create_task(exchange(server, begin, partial(_waited_for, go_on), end)))
        assert_refused((await first).only, 408, "M_UNKNOWN")
        await when_it_waits(server, 40_000, 40_000)()
        go_on.set()
        # What was given up or is over counts no more.
        assert [answer.only.status for answer in await asyncio.gather(*others)] == [200, 200]
        assert unfinished(server) == []


async def test_who_hangs_up_in_the_middle_is_no_fault_of_ours(server: Harness, alice: User) -> None:
    lines = [f"Authorization: Bearer {alice.token}", "Content-Length: 100"]
    with capture_logs() as entries, nothing_stored(server):
        answers = await exchange(server, head("POST", f"{V2}/terms", *lines), b'{"a":', hang_up=True)
        # The line about the request is written once it is over.
        reply = await server.get("account", as_=alice)
    assert answers.replies == []
    assert answers.closed
    assert reply.status == 200
    assert [entry["event"] for entry in entries if entry["log_level"] == "error"] == []


async def test_a_silent_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("identity_server.api.protocol.FIRST_REQUEST_SECONDS", 0.03)
    async with running(tmp_path) as server:
        for sent in (b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: id\r\nX-Slow: "):
            answers = await exchange(server, sent)
            assert (answers.replies, answers.closed) == ([], True)


async def test_a_connection_that_has_asked_once_is_not_closed_for_silence(server: Harness) -> None:
    async def silence() -> None:
        pass_on_loop(FIRST_REQUEST_SECONDS)
        await asyncio.sleep(0)

    answers = await exchange(server, head("GET", V2), None, silence, head("GET", V2), replies=2)
    assert [reply.status for reply in answers.replies] == [200, 200]


async def test_an_idle_connection_is_closed_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("identity_server.api.protocol.KEEPALIVE_SECONDS", 0.02)
    async with running(tmp_path) as server:
        # A second answer is waited for, and the end comes instead.
        answers = await exchange(server, head("GET", V2), replies=2)
        assert answers.only.status == 200
        assert answers.closed
