"""What is the same for every provider: connections, time, sizes, statuses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from identity_server.domain.ports import (
    DeliveryError,
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    TextMessage,
)
from identity_server.outbound.sms import AccountProblem, Poster, PostLimits, require_accepted
from tests.outbound_sms.kit import MESSAGE, FixedClock, Vendor, cut, endless, failure_of, open_vendor, silent
from tests.support.loop_time import pass_on_loop


class Plain:
    """The simplest provider there can be."""

    def __init__(self, http: Poster, url: str) -> None:
        self.http, self.url = http, url

    async def send(self, message: TextMessage) -> None:
        body = f"{message.to} {message.body}".encode()
        reply = await self.http.post(self.url, provider="plain", body=body, content_type="text/plain")
        require_accepted("plain", reply)


@pytest.fixture
def plain(http: Poster, vendor: Vendor) -> Plain:
    return Plain(http, f"{vendor.base}/send?secret=s3cret")


@asynccontextmanager
async def limited(*, connect_seconds: float, total_seconds: float) -> AsyncIterator[Poster]:
    """Gives up after so long. On a busy machine both times may pass at once, unless they are far apart."""
    poster = Poster(clock=FixedClock(), limits=PostLimits(connect_seconds, total_seconds))
    yield poster
    await poster.close()


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *[(status, DeliveryRefused) for status in (400, 409, 410, 413, 422)],
        *[(status, AccountProblem) for status in (301, 302, 307, 401, 402, 403, 404, 405)],
        *[(status, DeliveryPostponed) for status in (408, 425, 429, 503)],
        *[(status, DeliveryUnknown) for status in (500, 502, 504, 599)],
    ],
)
async def test_statuses(plain: Plain, vendor: Vendor, status: int, outcome: type[DeliveryError]) -> None:
    vendor.answers(status, {"detail": "quoted by the vendor"}, Location="/elsewhere")
    error = await failure_of(plain, secrets=("s3cret",))
    assert type(error) is outcome
    assert str(error) == f"plain: {status}"
    assert len(vendor.seen) == 1  # redirects aren't followed, and nothing is repeated


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_taken(plain: Plain, vendor: Vendor, status: int) -> None:
    vendor.answers(status)
    await plain.send(MESSAGE)
    assert len(vendor.seen) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0", 1),
        ("99999999999999", 3600),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 1),
        ("soon", None),
        ("-5", None),
        ("²", None),
    ],
)
async def test_retry_after(plain: Plain, vendor: Vendor, header: str, seconds: int | None) -> None:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": header})

    vendor.reply = reply
    error = await failure_of(plain)
    assert isinstance(error, DeliveryPostponed)
    assert error.retry_after_seconds == seconds


async def test_a_lost_connection_leaves_it_unknown(plain: Plain, vendor: Vendor) -> None:
    vendor.reply = cut
    error = await failure_of(plain, secrets=("s3cret",))
    assert isinstance(error, DeliveryUnknown)
    assert str(error) == "plain: the connection was lost before the answer"
    assert len(vendor.seen) == 1  # not sent again behind our back


async def test_no_answer_in_time_leaves_it_unknown() -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        pass_on_loop(60)
        return await silent(request)

    async with open_vendor(None) as vendor, limited(connect_seconds=30, total_seconds=60) as poster:
        vendor.reply = reply
        error = await failure_of(Plain(poster, vendor.base))
    assert isinstance(error, DeliveryUnknown)
    assert str(error) == "plain: no answer in time"


async def test_no_connection_in_time_postpones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # connects, and never says its part of TLS
        port = mute.getsockname()[1]
        async with limited(connect_seconds=0.1, total_seconds=60) as poster:
            error = await failure_of(Plain(poster, f"https://localhost:{port}/?secret=s3cret"), secrets=("s3cret",))
    assert type(error) is DeliveryPostponed
    assert str(error) == "plain: no connection in time"


async def test_nobody_there_postpones(http: Poster) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await failure_of(Plain(http, f"https://localhost:{port}/s3cret"), secrets=("s3cret",))
    assert type(error) is DeliveryPostponed
    assert "connection" in str(error)


async def test_a_strange_certificate_postpones(vendor: Vendor) -> None:
    poster = Poster(clock=FixedClock())  # the system's authorities don't know ours
    error = await failure_of(Plain(poster, vendor.base))
    await poster.close()
    assert type(error) is DeliveryPostponed
    assert str(error).startswith("plain: certificate not trusted (")
    assert vendor.seen == []


async def test_a_certificate_for_another_name_postpones(ca: trustme.CA, http: Poster) -> None:
    async with open_vendor(ca) as vendor:
        error = await failure_of(Plain(http, vendor.base.replace("localhost", "127.0.0.1")))
        assert vendor.seen == []
    assert type(error) is DeliveryPostponed
    assert "certificate not trusted" in str(error)


async def test_a_host_that_cannot_be_postpones(http: Poster) -> None:
    error = await failure_of(Plain(http, "https://no such host/s3cret"), secrets=("s3cret",))
    assert type(error) is DeliveryPostponed


async def test_what_is_not_http_leaves_it_unknown(http: Poster) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 relay.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    try:
        error = await failure_of(Plain(http, f"http://localhost:{server.sockets[0].getsockname()[1]}/"))
    finally:
        server.close()
        await server.wait_closed()
    assert isinstance(error, DeliveryUnknown)


async def test_the_status_counts_where_the_body_is_endless() -> None:
    async with open_vendor(None) as vendor, limited(connect_seconds=300, total_seconds=600) as poster:
        plain = Plain(poster, vendor.base)
        async with asyncio.timeout(60):  # long before the time for an answer is over
            vendor.reply = endless(400)
            assert isinstance(await failure_of(plain), DeliveryRefused)
            vendor.reply = endless(500)
            assert isinstance(await failure_of(plain), DeliveryUnknown)
            vendor.reply = endless(202)
            await plain.send(MESSAGE)


async def test_the_status_counts_where_the_body_breaks_off(plain: Plain, vendor: Vendor) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=202, headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    vendor.reply = reply
    await plain.send(MESSAGE)


async def test_many_at_once_have_a_connection_each(plain: Plain, vendor: Vendor) -> None:
    ports = set()

    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.Response(status=202)

    vendor.reply = reply
    await asyncio.gather(*(plain.send(MESSAGE) for _ in range(5)))
    await plain.send(MESSAGE)
    assert len(ports) == 6


def test_limits_must_tell_connecting_from_waiting() -> None:
    with pytest.raises(ValueError, match="less than total_seconds"):
        PostLimits(connect_seconds=10, total_seconds=10)


def test_a_message_does_not_show_itself() -> None:
    assert MESSAGE.to not in repr(MESSAGE)
    assert MESSAGE.body not in repr(MESSAGE)
    assert MESSAGE.reference in repr(MESSAGE)


def test_an_unreadable_ca_file_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Poster(clock=FixedClock(), ca_file=tmp_path / "none.pem")
