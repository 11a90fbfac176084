"""The answer that nearly all requests get: 200, in JSON, with the headers that every answer has.

The rule: what goes over the wire is what aiohttp would have sent for the same answer, but for the order of headers.

aiohttp's own response keeps its headers in a dictionary, asks that for each one that may be missing, and writes it out
line by line: microseconds of a core, in a request that takes thirty.
"""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_request import BaseRequest

from identity_server.api.headers import JSON_HEADERS
from identity_server.api.request_ids import ANSWER_HEADER

_HEAD: Final = "".join(f"{name}: {value}\r\n" for name, value in JSON_HEADERS.items())
_SMALL = 16 * 1024
"""Up to so many bytes, a copy costs less than handing over two pieces."""


class JsonAnswer(web.StreamResponse):
    """Written in one piece, when it is known to whom.

    Args:
        body: what is to be written. Bytes are JSON already: all answers that are made of them share them, read or not.

    Attributes:
        request_id: what the request is called.
    """

    _status = 200

    def __init__(self, body: object) -> None:
        # Without the parent's: all that it makes ready is what isn't needed here.
        self._content = body if type(body) is bytes else orjson.dumps(body)
        self.request_id = ""

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter:
        """Write all of it.

        Raises:
            ConnectionResetError: nobody is there any more.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone away")
        self._keep_alive = request.keep_alive
        head = (
            f"HTTP/{request.version.major}.{request.version.minor} 200 OK\r\n{_HEAD}"
            f"Content-Length: {len(self._content)}\r\n{ANSWER_HEADER}: {self.request_id}\r\n"
            f"Date: {rfc822_formatted_time()}\r\n{_connection(request)}\r\n"
        ).encode("ascii")
        if request.method == "HEAD":
            transport.write(head)
        elif len(self._content) <= _SMALL:
            transport.write(head + self._content)
        else:
            transport.writelines((head, self._content))
        self._writer = request.writer
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - there is nothing to add
        """Wait until whoever is to read it has read enough: until then, their next request isn't taken."""
        await self._writer.drain()


def _connection(request: BaseRequest) -> str:
    """What is said of the connection, if it isn't what goes without saying in this version of HTTP."""
    if request.version == HttpVersion10:
        return "Connection: keep-alive\r\n" if request.keep_alive else ""
    return "" if request.keep_alive else "Connection: close\r\n"
