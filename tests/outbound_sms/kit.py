"""A provider of text messages on loopback, over real TLS, that answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import structlog.testing
import trustme
from aiohttp import web

from identity_server.domain.ports import DeliveryError, SmsTransport, TextMessage

NUMBER = "447700900123"
CODE = "482915"
MESSAGE = TextMessage(to=NUMBER, country_code="44", body=f"Your code is {CODE}", reference="ref-1")
# GSM 03.38 basic and extension table, and what needs UCS-2: accents, emoji beyond the BMP, right-to-left.
GSM_7 = "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà^{}\\[~]|€\n@id.example #482915"
UCS_2 = "Ваш код — 482915 📱 رمزك\n\n@id.example #482915"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FixedClock:
    def now_ms(self) -> int:
        return 1_800_000_000_123


@dataclass(frozen=True)
class Seen:
    """A request that the vendor got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Vendor:
    """The vendor: `reply` makes every answer."""

    base: str
    reply: Handler
    seen: list[Seen] = field(default_factory=list)

    def answers(self, status: int, content: object = None, **headers: str) -> None:
        """From now on, with a status and JSON."""

        async def reply(_: web.Request) -> web.StreamResponse:
            body = b"" if content is None else orjson.dumps(content)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(status=status, body=body, headers=named, content_type="application/json")

        self.reply = reply


@contextlib.asynccontextmanager
async def open_vendor(ca: trustme.CA | None) -> AsyncIterator[Vendor]:
    """A vendor for the time of a test; plain HTTP without `ca`."""
    context = None
    if ca is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("localhost").configure_cert(context)

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        vendor.seen.append(Seen(request.path_qs, headers, await request.read()))
        return await vendor.reply(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    vendor = Vendor(f"{'https' if ca else 'http'}://localhost:{port}", _unprepared)
    try:
        yield vendor
    finally:
        await runner.cleanup()


async def _unprepared(_: web.Request) -> web.StreamResponse:
    raise AssertionError("the test says no answer")


async def cut(request: web.Request) -> web.StreamResponse:
    """Closes the connection after the request has come."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def silent(_: web.Request) -> web.StreamResponse:
    """Takes the request and never answers."""
    await asyncio.Event().wait()
    raise AssertionError


def endless(status: int) -> Handler:
    """A good status with a body that never ends."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65_536)
        return response

    return reply


async def failure_of(
    transport: SmsTransport, message: TextMessage = MESSAGE, *, secrets: tuple[str, ...] = ()
) -> DeliveryError:
    """What sending raises; neither it nor anything it drags along nor the log may hold what is nobody's business."""
    with pytest.raises(DeliveryError) as caught, structlog.testing.capture_logs() as logs:
        await transport.send(message)
    said = "".join("".join(traceback.format_exception(error)) for error in chain(caught.value)) + str(logs)
    for private in (message.to, CODE, "quoted by the vendor", *secrets):
        assert private not in said
    return caught.value


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error with what it was raised in: a context that no traceback prints is printed by some error reporters."""
    while error is not None:
        yield error
        error = error.__context__
