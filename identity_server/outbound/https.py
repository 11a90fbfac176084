"""One HTTPS request to a server chosen by a stranger, held to sizes, and its failures put into words.

The rule: nothing of the request's URL gets into an exception, since it may hold a token. So aiohttp's
exceptions, which quote it, end here; what is raised instead has no cause and no context.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

from identity_server.domain.errors import HomeserverStep
from identity_server.outbound.addresses import NO_ADDRESS_FOR_US, AddressRefused, AddressScreen
from identity_server.outbound.names import NameLookupFailed, Names

_CONNECTIONS = 256
_MAX_HEAD_BYTES = 64 * 1024
_FINAL_STATUS = 200
_USER_AGENT = "matrix-identity-server"


class HttpsFailure(Exception):
    """A request without a usable answer. The text is for the log.

    Attributes:
        told: what callers are told instead; None if they may know all of it.
        step: what has failed.
    """

    step = HomeserverStep.ANSWER

    def __init__(self, text: str, *, told: str | None = None) -> None:
        super().__init__(text)
        self.told = told


class NotConnected(HttpsFailure):
    """There was no connection, so nothing has been sent: the request may be tried elsewhere."""

    step = HomeserverStep.CONNECT


class NotFound(NotConnected):
    """There is no place to connect to."""

    step = HomeserverStep.FIND


class NotTrusted(NotConnected):
    """Whoever answers there could not show who they are."""

    step = HomeserverStep.CERTIFICATE


class Disconnected(HttpsFailure):
    """The connection ended before the answer did; whether the request had an effect is unknown."""


class AnswerUnusable(HttpsFailure):
    """There was an answer, and it is over the limit or not HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, redirects included.

    Attributes:
        body: complete, decompressed, within the limit; not yet checked in any way.
    """

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask.

    Attributes:
        url: `https` always; its host is connected to.
        host_header: what `Host` says; None for what the URL says.
        tls_name: the name (or IP address) that the certificate must be for; None for the URL's host.
        body: JSON, already encoded; None for no body.
        max_bytes: the longest answer to take, counted after decompression.
        connect_seconds: how long getting a connection may take; None for as long as the caller waits.
    """

    method: str
    url: URL
    host_header: str | None = None
    tls_name: str | None = None
    body: bytes | None = None
    max_bytes: int
    connect_seconds: float | None = None

    def __repr__(self) -> str:
        return f"Request({self.method} {self.url.host}, query=<hidden>)"


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, whatever its Content-Type; empty if there is none."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def make_tls_context(*, verify: bool, ca_file: Path | None) -> ssl.SSLContext:
    """What to demand of certificates: chain and name against the system's authorities and those of `ca_file`.

    Without `verify` nothing is demanded, and the log says so.

    Raises:
        OSError: `ca_file` can't be read or holds no certificate.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        structlog.get_logger(__name__).warning(
            "federation.certificates_not_verified",
            consequence="anyone on the network path can pose as any homeserver, and so as any of its users",
        )
    return context


class HttpsClient:
    """Sends requests over a bounded pool of connections to screened addresses.

    No redirects are followed, no cookies kept, no proxy of the environment used: each would go round the
    screen or carry something from one server to the next.
    """

    def __init__(
        self, *, names: Names, screen: AddressScreen, tls: ssl.SSLContext, connections_per_host: int
    ) -> None:
        self._names = names
        self._screen = screen
        self._tls = tls
        self._connections_per_host = connections_per_host
        self._opened: aiohttp.ClientSession | None = None

    async def send(self, request: Request) -> Answer:
        """Send a request and read the answer. The caller limits the time.

        Raises:
            NotConnected: no connection, or not with the right certificate.
            Disconnected: the connection was lost on the way.
            AnswerUnusable: the answer is too long, or no HTTP.
        """
        headers = {"Accept": "application/json"}
        if request.host_header is not None:
            headers["Host"] = request.host_header
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        session = self._session()
        if session.closed:
            raise NotConnected("this server is stopping")
        failure: HttpsFailure
        try:
            async with session.request(
                request.method,
                request.url,
                headers=headers,
                data=request.body,
                server_hostname=request.tls_name,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=request.connect_seconds),
            ) as response:
                body = await _read(response, request.max_bytes)
            return Answer(response.status, response.headers, body)
        except AnswerUnusable as error:
            failure = error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = _in_words(error)
        raise failure

    async def close(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()

    def _session(self) -> aiohttp.ClientSession:
        # Opened at the first request: a connector wants a running loop, the composition root may have none yet.
        if self._opened is None:
            connector = aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                limit_per_host=self._connections_per_host,
                resolver=self._names,
                use_dns_cache=False,  # `Names` keeps answers for as long as DNS says.
                socket_factory=self._screen.open_socket,
                ssl=self._tls,
            )
            kind: type[ResponseHandler] = _Connection
            make = functools.partial(kind, loop=asyncio.get_running_loop())
            connector._factory = make  # noqa: SLF001 - aiohttp offers no other way to choose the connection's class
            self._opened = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": _USER_AGENT}
            )
        return self._opened


class _Connection(ResponseHandler):
    """A connection that reads no more than it has to before an answer begins, and nothing after its end.

    aiohttp bounds each line of the head. It bounds neither how many interim answers (1xx) come before the answer, nor
    the white space before a header's value, nor what comes while nothing was asked: whoever sends enough of these would
    keep this process from everything else, the end of the time limit included.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        # How much of a head may still come; None once it has, or while nothing is asked.
        self._room: int | None = None

    def set_response_params(self, **params: Any) -> None:
        self._room = _MAX_HEAD_BYTES
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        message, _ = data
        if message.code >= _FINAL_STATUS:
            self._room = None
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if self._room is None:
            if data and (self._payload is None or self._payload.is_eof()):
                self._cut_off()
            else:
                super().data_received(data)
            return
        head, rest = data[: self._room], data[self._room :]
        self._room -= len(head)
        super().data_received(head)
        if self._room == 0:
            self.set_exception(AnswerUnusable(f"its headers are longer than {_MAX_HEAD_BYTES // 1024} KiB"))
            self._cut_off()
        elif rest:
            super().data_received(rest)

    def _cut_off(self) -> None:
        if self.transport is not None:
            self.transport.abort()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            response.close()
            raise AnswerUnusable(f"the answer is longer than {max_bytes // 1024} KiB")
    return bytes(body)


def _in_words(error: BaseException) -> HttpsFailure:
    match error:
        case aiohttp.ClientConnectorError():
            return _not_connected(error)
        case aiohttp.ConnectionTimeoutError():
            return NotConnected("no connection: timed out")
        case aiohttp.InvalidURL():
            return NotFound("there is no such host")
        case aiohttp.ClientResponseError():
            return AnswerUnusable("the answer is not HTTP")
        case aiohttp.ClientPayloadError():
            return AnswerUnusable("the answer's body is incomplete or not in the encoding it claims")
        case _:
            return Disconnected("the connection was lost before the answer was complete")


def _not_connected(error: aiohttp.ClientConnectorError) -> NotConnected:
    match error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error.os_error:
        case ssl.SSLCertVerificationError() as refused:
            return NotTrusted(f"the certificate was not accepted: {refused.verify_message.rstrip('.')}")
        case ssl.SSLError():
            return NotTrusted("no TLS that both sides speak (is this an HTTPS port?)")
        case NameLookupFailed() as failed:
            return NotFound(str(failed), told=failed.told)
        case AddressRefused():
            return NotFound("this server does not connect to addresses of this kind", told=NO_ADDRESS_FOR_US)
        case OSError(errno=int(number)):
            return NotConnected(f"no connection: {os.strerror(number).lower()}")
        case _:
            return NotConnected("no connection: it was closed at once")
