"""The HTTP server below the application: its limits, and its own errors in JSON with CORS too."""

from __future__ import annotations

import asyncio
import heapq
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import structlog
from aiohttp import EMPTY_PAYLOAD, HttpVersion10, HttpVersion11, StreamReader, web
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
UNREAD_SECONDS: Final = 30
"""How long an answer may wait for whoever asked to read it."""

_MOST_UNREAD: Final = 32 * 1024 * 1024
"""How many bytes of answers may wait for whoever asked to read them, on all connections of a worker."""
_UNREAD_LETS_GO_SECONDS = 0.5
"""After so long, a connection whose answer isn't read may be ended for the sake of another."""
_UNREAD_BODY: Final = 32 * 1024
"""What is taken of a body that nobody reads yet: twice this many bytes, and what came with them at once. So a body of the
largest ordinary size is there as a whole when it is asked for, as most lookups are."""
_WAIT_IN_LINE: Final = 2
"""How many requests may wait behind the one that is being answered before no more is taken from their connection. Hardly any
client sends one before it has its answer, and each may have a body."""
_FEW = 64
_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: on, for no time."""

_INTERNAL = 500

_OTHER_VERSION: Final = (_ErrInfo(status=400, exc=HttpProcessingError(), message=""), EMPTY_PAYLOAD)


class _Protocol(RequestHandler):
    """A connection that answers its own errors like the application would."""

    __slots__ = ("_newest_body", "_silence_timer", "_unread_since")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._silence_timer: asyncio.TimerHandle | None = None
        self._newest_body: StreamReader = EMPTY_PAYLOAD
        self._unread_since: float | None = None
        # Without these, 32 wait, and take reading up again when 16 are left.
        self._max_msg_queue_size = _WAIT_IN_LINE
        self._msg_queue_resume_size = _WAIT_IN_LINE // 2

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._silence_timer = self._loop.call_later(FIRST_REQUEST_SECONDS, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        if self._manager is not None:
            cast("_Server", self._manager).forget_unread(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            cast("_Server", self._manager).note_unread(self, self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._manager is not None:
            cast("_Server", self._manager).forget_unread(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        for place, (message, body) in enumerate(self._messages):
            if not isinstance(message, _ErrInfo):
                self._newest_body = body
                if message.version is not HttpVersion11 and message.version is not HttpVersion10:
                    # Its parser knows 0.9 and 2.0 as well, and the answer would be said to be of that kind.
                    self._messages[place] = _OTHER_VERSION
            elif not self._newest_body.is_eof():
                # aiohttp would leave whoever reads this body to wait for the rest of it.
                self._newest_body.set_exception(web.RequestPayloadError("The body lost its framing."))

    def _close_if_silent(self) -> None:
        if self._request_count == 0 and self.transport is not None:
            self.transport.close()

    def is_idle(self, now: float) -> bool:
        """Whether it is the other side's turn: to ask, to send the rest of a body, or to read an answer."""
        waits_for_request = self._waiter is not None and not self._waiter.done()
        if waits_for_request or not self._newest_body.is_eof():
            return True
        return self._unread_since is not None and now >= self._unread_since + _UNREAD_LETS_GO_SECONDS

    @property
    def last_served(self) -> float:
        """When it had its last answer, or began; by the loop's clock and shifted, good for comparing."""
        return self._next_keepalive_close_time

    def is_unread(self, transport: asyncio.Transport, now: float) -> bool:
        """Whether something has waited for the other side to read it for too long, since this was first asked."""
        if not transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        return self._unread_since is not None and now >= self._unread_since + UNREAD_SECONDS

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


def _drop(transport: asyncio.Transport) -> None:
    """End a connection at once, with all that it hasn't taken: the kernel would keep that, and offer it for minutes."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()


class _Server(Server):
    """Makes connections, and ends those that would never end by themselves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idlest: list[_Protocol] = []
        self._ended: set[RequestHandler] = set()
        # The first ones have waited for the longest.
        self._unread: dict[_Protocol, int] = {}
        self._unread_bytes = 0

    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)

    @property
    def count(self) -> int:
        """How many connections there are, without those that were ended and are about to go."""
        self._ended &= self._connections.keys()
        return len(self._connections) - len(self._ended)

    def note_unread(self, connection: _Protocol, transport: asyncio.Transport) -> None:
        """An answer waits to be read. If all of them are too much, those that have waited for the longest are given up."""
        self.forget_unread(connection)
        self._unread[connection] = size = transport.get_write_buffer_size()
        self._unread_bytes += size
        while self._unread_bytes > _MOST_UNREAD and len(self._unread) > 1:
            first = next(iter(self._unread))
            self.forget_unread(first)
            _drop(self._connections[first])
            self._ended.add(first)

    def forget_unread(self, connection: _Protocol) -> None:
        """It has been read, or never will be."""
        self._unread_bytes -= self._unread.pop(connection, 0)

    def end_unread(self) -> None:
        """End the connections whose other side reads nothing, as aiohttp waits for it for ever."""
        now = self._loop.time()
        for connection, transport in list(self._connections.items()):
            if cast("_Protocol", connection).is_unread(transport, now):
                _drop(transport)

    def end_idlest(self) -> bool:
        """End the connection whose turn it has been for the longest; False if all of them wait for their answers."""
        # Looked for once for some of them, as there may be a thousand more who want to come in.
        return self._end_one_of_idlest() or (self._look_for_idlest() and self._end_one_of_idlest())

    def _look_for_idlest(self) -> bool:
        now = self._loop.time()
        here = cast("dict[_Protocol, asyncio.Transport]", self._connections)
        idle = (
            each
            for each, transport in here.items()
            if each not in self._ended and (each.is_unread(transport, now) or each.is_idle(now))
        )
        self._idlest = heapq.nsmallest(_FEW, idle, key=lambda each: each.last_served)[::-1]
        return bool(self._idlest)

    def _end_one_of_idlest(self) -> bool:
        now = self._loop.time()
        while self._idlest:
            connection = self._idlest.pop()
            transport = self._connections.get(connection)
            # It may have asked for something since it was looked for, and be about to be answered.
            if transport is not None and connection.is_idle(now):
                _drop(transport)
                self._ended.add(connection)
                return True
        return False


class Runner(web.AppRunner):
    """Runs an application with this module's connections; what has no log of requests answers all by itself."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=shutdown_timeout,
            read_bufsize=_UNREAD_BODY,
            # api/requests.py decompresses, within the limit of the endpoint and after the guard: done here,
            # it would be done for anyone, and go on for as long as someone sends.
            auto_decompress=False,
        )

    async def _make_server(self) -> Server:
        plain = await super()._make_server()
        handler = plain.request_handler
        if REQUEST_LOG in self.app:
            # The application makes its requests itself, so that they are of the kind that it takes.
            handler = cast("_AnyHandler", answering(self.app, handler, self.app[REQUEST_IDS], self.app[REQUEST_LOG]))
        return _Server(
            handler,
            request_factory=plain.request_factory,
            loop=asyncio.get_running_loop(),
            **plain._kwargs,  # noqa: SLF001 - aiohttp offers no other way to choose the connection's class
        )

    @property
    def _server_of_ours(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def end_unread(self) -> None:
        """End the connections whose answers nobody reads; to be called every few seconds."""
        self._server_of_ours.end_unread()

    def end_idlest(self) -> bool:
        """Make room for a connection by ending the one that has been idle for the longest; False if none is."""
        return self._server_of_ours.end_idlest()

    def answer_each_once_more(self) -> None:
        """From now on every answer says that its connection ends, and ends it.

        A connection that is cut off while it waits may be cut off just as its next request is on the way.
        """
        server = self._server_of_ours
        make = server.request_factory

        def make_last(message: RawRequestMessage, *rest: Any) -> BaseRequest:
            return make(message._replace(should_close=True), *rest)

        server.request_factory = make_last
        for connection in server.connections:
            connection._request_factory = make_last  # noqa: SLF001 - as above

    @property
    def connections(self) -> int:
        """How many there are now."""
        return 0 if self.server is None else self._server_of_ours.count
