"""What the tests of bad input share: requests that are good but for one thing, and what every refusal must be."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson

from identity_server.api.route import Access, Answers, Route
from identity_server.api.routes import ROUTES
from tests.support.databases import read_tables
from tests.support.harness import Harness, Reply, User

V2 = "/_matrix/identity/v2"
MARKER = "zq8marker"
"""Put into bad values: no answer may repeat it."""

CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Origin, X-Requested-With, Content-Type, Accept, Authorization",
}

GOOD: Final[Mapping[str, dict[str, Any]]] = {
    "account/register": {
        "access_token": "unknown",
        "token_type": "Bearer",
        "matrix_server_name": "example.org",
        "expires_in": 3600,
    },
    "terms": {"user_accepts": []},
    "lookup": {"algorithm": "sha256", "pepper": "unknown", "addresses": []},
    "validate/email/requestToken": {"client_secret": "secret", "email": "carol@example.org", "send_attempt": 1},
    "validate/email/submitToken": {"sid": "unknown", "client_secret": "secret", "token": "unknown"},
    "validate/msisdn/requestToken": {
        "client_secret": "secret",
        "phone_number": "07700900001",
        "country": "GB",
        "send_attempt": 1,
    },
    "validate/msisdn/submitToken": {"sid": "unknown", "client_secret": "secret", "token": "unknown"},
    "3pid/bind": {"sid": "unknown", "client_secret": "secret", "mxid": "@alice:example.org"},
    "3pid/unbind": {
        "sid": "unknown",
        "client_secret": "secret",
        "mxid": "@alice:example.org",
        "threepid": {"medium": "email", "address": "carol@example.org"},
    },
    "store-invite": {
        "medium": "email",
        "address": "carol@example.org",
        "room_id": "!room:example.org",
        "sender": "@alice:example.org",
    },
    "sign-ed25519": {"token": "unknown", "private_key": "unknown", "mxid": "@alice:example.org"},
}
"""Every operation that reads a JSON body, with a body that nothing is wrong with."""

JSON_OPERATIONS: Final = tuple(GOOD)

STRINGS: Final[tuple[tuple[str, str, int], ...]] = (
    ("account/register", "access_token", 4096),
    ("account/register", "matrix_server_name", 230),
    ("terms", "user_accepts.0", 2048),
    ("lookup", "algorithm", 255),
    ("lookup", "pepper", 255),
    ("validate/email/requestToken", "client_secret", 255),
    ("validate/email/requestToken", "email", 254),
    ("validate/email/requestToken", "next_link", 2000),
    ("validate/email/submitToken", "sid", 255),
    ("validate/email/submitToken", "client_secret", 255),
    ("validate/email/submitToken", "token", 255),
    ("validate/msisdn/requestToken", "client_secret", 255),
    ("validate/msisdn/requestToken", "phone_number", 250),
    ("validate/msisdn/requestToken", "country", 64),
    ("validate/msisdn/requestToken", "next_link", 2000),
    ("validate/msisdn/submitToken", "sid", 255),
    ("validate/msisdn/submitToken", "client_secret", 255),
    ("validate/msisdn/submitToken", "token", 255),
    ("3pid/bind", "sid", 255),
    ("3pid/bind", "client_secret", 255),
    ("3pid/bind", "mxid", 255),
    ("3pid/unbind", "sid", 255),
    ("3pid/unbind", "client_secret", 255),
    ("3pid/unbind", "mxid", 255),
    ("3pid/unbind", "threepid.medium", 32),
    ("3pid/unbind", "threepid.address", 512),
    ("store-invite", "medium", 32),
    ("store-invite", "address", 254),
    ("store-invite", "room_id", 255),
    ("store-invite", "sender", 255),
    ("sign-ed25519", "token", 255),
    ("sign-ed25519", "private_key", 128),
    ("sign-ed25519", "mxid", 255),
)
"""Every string of every body but the queries of a lookup: operation, place, and the greatest length."""


def changed(operation: str, place: str, value: Any) -> dict[str, Any]:
    """The good body of an operation, with another value in one place (`a.b` goes inside, `a.0` starts a list)."""
    body = copy.deepcopy(GOOD[operation])
    outer, _, inner = place.partition(".")
    if inner == "0":
        body[outer] = [value]
    elif inner:
        body[outer][inner] = value
    else:
        body[outer] = value
    return body


def path_of(route: Route) -> str:
    """A path that leads to this row."""
    return route.path.format(key_id="ed25519:0", policy="privacy", version="1", language="en")


def rows_of(*accesses: Access) -> list[Route]:
    """The rows of the route table with one of these demands."""
    return [route for route in ROUTES if route.access in accesses]


def is_page(route: Route) -> bool:
    """Whether the row answers people rather than programs."""
    return route.answers is Answers.PAGE


@contextmanager
def nothing_stored(server: Harness, *, is_counted: bool = False) -> Iterator[None]:
    """Whatever is asked in the block leaves every table as it is, and sends no mail.

    Args:
        server: whose tables.
        is_counted: whether having asked counts for a limit.
    """
    ignored = {"rate_limits"} if is_counted else set()
    before, sent = read_tables(server.config.db.file), len(server.mail.sent)
    yield
    after = read_tables(server.config.db.file)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= ignored
    assert len(server.mail.sent) == sent


def assert_refused(reply: Reply, status: int, errcode: str, *, hidden: str = MARKER) -> None:
    """The answer is this error, in JSON with CORS headers, and repeats nothing of the bad value."""
    assert (reply.status, reply.errcode) == (status, errcode), reply.body
    assert_has_cors(reply.headers)
    assert reply.headers["Content-Type"].startswith("application/json")
    assert isinstance(reply.json["error"], str)
    assert reply.json["error"]
    assert hidden not in reply.body.decode()


def assert_has_cors(headers: Mapping[str, str]) -> None:
    """Browsers may read the answer."""
    assert {name: headers.get(name) for name in CORS} == CORS


async def post_raw(server: Harness, operation: str, body: bytes, user: User | None, **headers: str) -> Reply:
    """POST these very bytes."""
    return await server.post(
        operation,
        as_=user,
        data=body,
        headers={"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}},
    )


# --- below what an HTTP client would send --------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawAnswers:
    """What came back on a connection.

    Attributes:
        closed: whether the server closed it while an answer was still waited for.
    """

    replies: list[Reply]
    closed: bool

    @property
    def only(self) -> Reply:
        """The one answer there is."""
        assert len(self.replies) == 1, self.replies
        return self.replies[0]


def head(method: str, target: str, *lines: str) -> bytes:
    """The head of a request, written by hand."""
    return "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", "Host: id", *lines, "")).encode(
        "latin-1"
    )


Part = bytes | float | Callable[[], Awaitable[None]] | None


async def exchange(server: Harness, *parts: Part, replies: int = 1, hang_up: bool = False) -> RawAnswers:
    """Send bytes over a connection of their own, and read so many answers, or up to the end.

    A number among the parts is a pause in seconds, after which the server may have taken what was sent, or not. For None,
    an answer is waited for before the rest is sent; a function is awaited.
    """
    host, port = server.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    found: list[Reply] = []
    try:
        async with asyncio.timeout(60):
            for part in parts:
                if isinstance(part, bytes):
                    writer.write(part)
                    await writer.drain()
                elif isinstance(part, float):
                    await asyncio.sleep(part)
                elif part is not None:
                    await part()
                elif (reply := await _read_reply(reader)) is not None:
                    found.append(reply)
            if hang_up:
                writer.write_eof()
            while len(found) < replies and (reply := await _read_reply(reader)) is not None:
                found.append(reply)
    finally:
        writer.close()
    return RawAnswers(found, closed=len(found) < replies)


async def _read_reply(reader: asyncio.StreamReader) -> Reply | None:
    try:
        block = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except ConnectionResetError:
        return None
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    status_line, *lines = block.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    is_json = headers.get("Content-Type", "").startswith("application/json")
    return Reply(int(status_line.split(" ")[1]), headers, body, orjson.loads(body) if is_json and body else None)
