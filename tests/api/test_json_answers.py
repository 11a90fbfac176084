"""The usual answer, which this server writes itself: what HTTP asks of any answer, whoever asks in whatever way."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime

import pytest

from tests.api.support import CORS, V2, exchange, head
from tests.support.harness import Harness, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MANY = 100


def asking(version: str, connection: str) -> bytes:
    return f"GET {V2} HTTP/{version}\r\nHost: id\r\n{connection}\r\n".encode()


@pytest.mark.parametrize(
    ("version", "asked", "said", "stays"),
    [
        ("1.1", "", None, True),
        ("1.1", "Connection: close\r\n", "close", False),
        ("1.0", "", None, False),
        ("1.0", "Connection: keep-alive\r\n", "keep-alive", True),
    ],
)
async def test_a_connection_lasts_as_long_as_is_said(
    server: Harness, version: str, asked: str, said: str | None, *, stays: bool
) -> None:
    answers = await exchange(
        server, asking(version, asked), None, *([asking(version, asked)] if stays else []), replies=2
    )
    assert [reply.headers.get("Connection") for reply in answers.replies] == [said] * (2 if stays else 1)


async def test_everything_that_an_answer_says_of_itself(server: Harness) -> None:
    headers = (await exchange(server, head("GET", V2))).only.headers
    assert parsedate_to_datetime(headers["Date"]).tzinfo is not None
    assert {name: headers[name] for name in ("Cache-Control", "Content-Type", "Content-Length", "Server")} == {
        "Cache-Control": "no-store",
        "Content-Type": "application/json",
        "Content-Length": "2",
        "Server": "matrix-identity-server",
    }
    ours = {"Cache-Control", "Content-Type", "Content-Length", "Server", "X-Request-ID", "Date"}
    assert headers.keys() == {*CORS, *ours}


@pytest.mark.parametrize("path", [f"{V2}/account", f"{V2}/%61ccount", f"{V2}/account?", f"{V2}/account?x=1"])
async def test_a_path_however_it_is_written(server: Harness, alice: User, path: str) -> None:
    answers = await exchange(server, head("GET", path, f"Authorization: Bearer {alice.token}"))
    assert (answers.only.status, answers.only.json) == (200, {"user_id": alice.user_id})


async def test_who_does_not_read_is_not_answered_any_further(server: Harness) -> None:
    host, port = server.base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    first = before = answered(server)
    # Each answer has 150 KB; all of them are more than any socket takes.
    writer.write(head("GET", "/_matrix/identity/openapi.json") * _MANY)
    try:
        async with asyncio.timeout(60):
            while (now := await later(server)) != before or now == first:
                before = now
        assert now - first < _MANY
    finally:
        writer.close()


async def later(server: Harness) -> int:
    """How many were answered by the time that what can be answered has been."""
    await asyncio.sleep(0.3)
    return answered(server)


def answered(server: Harness) -> int:
    """How many requests were answered so far."""
    return sum(sum(each.counts) for each in server.metrics.totals.requests.values())
