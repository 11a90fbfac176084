"""The HTTP server below the application: its limits, and its own errors in JSON with CORS too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import structlog
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from identity_server.api.answering import answering
from identity_server.api.app_keys import REQUEST_IDS, REQUEST_LOG
from identity_server.api.errors import closing_response

_log = structlog.get_logger(__name__)

_AnyHandler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]

KEEPALIVE_SECONDS: Final = 75
FIRST_REQUEST_SECONDS: Final = 30
"""How long a new connection may take to send the head of its first request."""

_INTERNAL = 500


class _Protocol(RequestHandler):
    """A connection that answers its own errors like the application would."""

    __slots__ = ("_newest_body", "_silence_timer")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._silence_timer: asyncio.TimerHandle | None = None
        self._newest_body: StreamReader = EMPTY_PAYLOAD

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._silence_timer = self._loop.call_later(FIRST_REQUEST_SECONDS, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        for message, body in self._messages:
            if not isinstance(message, _ErrInfo):
                self._newest_body = body
            elif not self._newest_body.is_eof():
                # aiohttp would leave whoever reads this body to wait for the rest of it.
                self._newest_body.set_exception(web.RequestPayloadError("The body lost its framing."))

    def _close_if_silent(self) -> None:
        if self._request_count == 0 and self.transport is not None:
            self.transport.close()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached the application; the text of the error may hold the caller's own bytes."""
        del message
        if status >= _INTERNAL:
            _log.error("connection.failed", error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is already on its way")
        return closing_response(status)

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Faults of a connection once its request is answered; those of the other side are no news."""
        del args
        error = kwargs.get("exc_info")
        if not isinstance(error, web.RequestPayloadError | HttpProcessingError | ConnectionError):
            _log.error("connection.failed", error=type(error).__name__)


class _Server(Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application with this module's connections; what has no log of requests answers all by itself."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=shutdown_timeout,
            # api/requests.py decompresses, within the limit of the endpoint and after the guard: done here,
            # it would be done for anyone, and go on for as long as someone sends.
            auto_decompress=False,
        )

    async def _make_server(self) -> Server:
        plain = await super()._make_server()
        handler = plain.request_handler
        if REQUEST_LOG in self.app:
            # The application makes its requests itself, so that they are of the kind that it takes.
            handler = cast("_AnyHandler", answering(handler, self.app[REQUEST_IDS], self.app[REQUEST_LOG]))
        return _Server(
            handler,
            request_factory=plain.request_factory,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,  # noqa: SLF001 - aiohttp offers no other way to choose the connection's class
        )

    def answer_each_once_more(self) -> None:
        """From now on every answer says that its connection ends, and ends it.

        A connection that is cut off while it waits may be cut off just as its next request is on the way.
        """
        server = self.server
        assert isinstance(server, _Server)
        make = server.request_factory

        def make_last(message: RawRequestMessage, *rest: Any) -> BaseRequest:
            return make(message._replace(should_close=True), *rest)

        server.request_factory = make_last
        for connection in server.connections:
            connection._request_factory = make_last  # noqa: SLF001 - as above

    @property
    def connections(self) -> int:
        """How many there are now."""
        return 0 if self.server is None else len(self.server._connections)  # noqa: SLF001 - the public one copies them
